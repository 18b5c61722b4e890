"""Fitting, choosing and keeping, against plain scikit-learn and recounted by hand."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from training_setup import LOGISTIC, RIDGE, SVM, run, saved, shops, spec

from shoal.errors import InvalidInput, InvalidSpec
from shoal.fleet import Fleet
from shoal.registry import Lineage
from shoal.training.decision import Decision, KeepRule
from shoal.training.fitting import segment_seed
from shoal.training.metrics import METRICS
from shoal.training.plan import Plan
from shoal.training.probing import ENCODING
from shoal.training.promotion import compare_with_champion
from shoal.training.results import alternatives, decisions
from shoal.training.splitting import Role
from shoal.training.train import assemble

SIZES = {("a", 1): 120, ("a", 2): 90, ("b", 1): 80, ("b", 2): 60, ("c", 1): 12, ("d", 9): 70}
RIDGES = {**RIDGE, "grid": {"ridge__alpha": [0.1, 1000.0]}}


def fleet_of(planned: Plan, fitted: Any) -> Fleet:
    return assemble(planned, fitted, Lineage(run="r"))


def part(planned: Plan, role: Role, **key: object) -> tuple[Any, Any]:
    """Features and target of the rows of a segment with a role, as plain arrays."""
    frame = planned.cleaned.frame if role is Role.TRAIN else planned.rows.frame
    keep = planned.division.roles == role
    if role is Role.TRAIN:
        keep &= ~planned.cleaned.dropped
    rows = frame.filter(pl.Series(keep), *(pl.col(name) == value for name, value in key.items()))
    return rows.select("x", "z").to_numpy(), rows["y"].to_numpy() if "y" in rows.columns else None


def test_every_decision_is_what_scikit_learn_and_a_recount_say(tmp_path: Path) -> None:
    document = spec(
        saved(shops(SIZES), tmp_path), candidates=[RIDGES], keep={"margin": 0.05, "minimum_validation_rows": 5},
        outliers={"rule": "mad", "factor": 3},
    )  # fmt: skip
    planned, fitted, report = run(document, tmp_path)
    models: dict[str, Any] = {}
    decided = {}
    for row in report.reverse().iter_rows(named=True):  # coarsest first
        shop, item = (None if text == "*" else text for text in row["key"].split(":"))
        key = {name: value for name, value in (("shop", shop), ("item", item and int(item))) if value is not None}
        X, y = part(planned, Role.TRAIN, **key)
        V, w = part(planned, Role.VALIDATION, **key)
        assert row["rows"] == len(X)
        assert row["validation_rows"] == len(V)
        if len(X) < 20:
            decided[row["key"]] = "too_few_rows"
        else:
            tried = [make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(X, y) for alpha in (0.1, 1000.0)]
            errors = [mean_absolute_error(w, model.predict(V)) for model in tried]
            best = int(np.argmin(errors))
            assert row["metric"] == pytest.approx(errors[best])
            assert row["parameters"] == f'{{"ridge__alpha": {[0.1, 1000.0][best]}}}'
            chain = [f"{shop}:*"] * (item is not None) + ["*:*"] * (shop is not None)
            fallback = next((models[name] for name in chain if name in models), None)
            if fallback is None:
                decided[row["key"]] = "kept"
            else:
                error = mean_absolute_error(w, fallback.predict(V))
                assert row["fallback_metric"] == pytest.approx(error)
                decided[row["key"]] = "kept" if errors[best] <= 0.95 * error and len(V) >= 5 else "fallback"
            if decided[row["key"]] == "kept":
                models[row["key"]] = tried[best]
        assert row["decision"] == decided[row["key"]], row
    assert set(decided.values()) == {"kept", "fallback", "too_few_rows"}
    fleet = fleet_of(planned, fitted)
    assert len(fleet) == len(models)
    frame = planned.rows.frame
    answers = fleet.predict(frame)["prediction"].to_numpy()
    for position, row in enumerate(frame.iter_rows(named=True)):
        names = (f"{row['shop']}:{row['item']}", f"{row['shop']}:*", "*:*")
        model = next(models[name] for name in names if name in models)
        assert answers[position] == pytest.approx(model.predict([[row["x"], row["z"]]])[0], abs=1e-9)


def test_figures_over_everything(tmp_path: Path) -> None:
    planned, fitted, report = run(spec(saved(shops(SIZES), tmp_path)), tmp_path)
    by_name = {each.name: each for each in alternatives(planned, fitted)}
    X, y = part(planned, Role.TRAIN)
    V, w = part(planned, Role.VALIDATION)
    everything = make_pipeline(StandardScaler(), Ridge(alpha=0.5)).fit(X, y)
    assert by_name["one global model"].figure == pytest.approx(mean_absolute_error(w, everything.predict(V)))
    held = planned.rows.frame.filter(pl.Series(planned.division.roles == Role.VALIDATION))
    chosen = fleet_of(planned, fitted).predict(held)["prediction"].to_numpy()
    assert by_name["what was chosen"].figure == pytest.approx(mean_absolute_error(w, chosen))
    own = report.filter(pl.col("level") == "shop+item", pl.col("metric").is_not_null())
    rows = own["validation_rows"].to_numpy()
    assert by_name["a model for every segment"].figure == pytest.approx((own["metric"] * rows).sum() / rows.sum())
    assert by_name["a model for every segment"].rows == rows.sum() < len(w)


def test_facts_of_the_models(tmp_path: Path) -> None:
    document = spec(saved(shops(SIZES), tmp_path), split={"time": "day", "validation": {"from": "2026-10-01"}})
    planned, fitted, report = run(document, tmp_path)
    models = fleet_of(planned, fitted).models
    kept = report.filter(pl.col("decision") == "kept").height
    assert models.height == kept == decisions(fitted)[Decision.KEPT]
    row = models.filter(pl.col("level") == "global").row(0, named=True)
    train = planned.rows.frame.filter(pl.col("day") < dt.date(2026, 10, 1))
    assert row["rows"] == train.height
    assert row["window_start"] == dt.datetime.combine(train["day"].min(), dt.time(), dt.UTC)  # type: ignore[arg-type]
    assert row["window_stop"] == dt.datetime.combine(train["day"].max(), dt.time(), dt.UTC)  # type: ignore[arg-type]
    assert row["metric.validation_rows"] == planned.rows.frame.height - train.height
    assert row["run"] == "r"


def test_a_refit_sees_all_rows_and_changes_no_decision(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    source = saved(shops(SIZES), tmp_path)
    planned, fitted, report = run(spec(source, refit=True), tmp_path)
    _, _, without = run(spec(source), tmp_path / "once")
    assert report["decision"].to_list() == without["decision"].to_list()
    assert report["metric"].to_list() == without["metric"].to_list()
    rows = planned.rows.frame.filter(shop="d", item=9)
    model = make_pipeline(StandardScaler(), Ridge(alpha=0.5)).fit(
        rows.select("x", "z").to_numpy(), rows["y"].to_numpy()
    )
    answers = fleet_of(planned, fitted).predict(rows)["prediction"].to_numpy()
    kept = report.filter(pl.col("decision") == "kept", pl.col("key").str.starts_with("d"))["key"].to_list()
    assert kept
    np.testing.assert_allclose(answers, model.predict(rows.select("x", "z").to_numpy()), rtol=1e-9)


def test_a_clipped_row_is_fitted_clipped_and_measured_as_it_is(tmp_path: Path) -> None:
    frame = (
        shops({("a", 1): 100})
        .with_row_index()
        .with_columns(y=pl.when(pl.col("index") % 9 == 0).then(500.0).otherwise("y"))
    )
    document = spec(
        saved(frame, tmp_path), keys=[], fallback=[], outliers={"rule": "iqr", "action": "clip"}, candidates=[RIDGE]
    )
    planned, fitted, report = run(document, tmp_path)
    X, y = part(planned, Role.TRAIN)
    V, w = part(planned, Role.VALIDATION)
    assert y.max() < 100 < w.max() == 500
    model = make_pipeline(StandardScaler(), Ridge(alpha=0.5)).fit(X, y)
    assert report["metric"].item() == pytest.approx(mean_absolute_error(w, model.predict(V)))
    assert report["outliers"].item() > 3
    assert len(fleet_of(planned, fitted)) == 1


def test_classes_that_a_segment_never_saw(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sizes = {"a": ("u", "v"), "b": ("u", "v", "w"), "c": ("v",)}
    frame = pl.concat(
        pl.DataFrame({"shop": [shop] * 90, "x": rng.normal(size=90), "label": rng.choice(labels, 90)})
        for shop, labels in sizes.items()
    ).with_columns(x=pl.col("x") + (pl.col("label") == "u") * pl.when(pl.col("shop") == "a").then(2).otherwise(-2))
    document = spec(
        saved(frame, tmp_path), keys=["shop"], features=["x"], target="label", task="classification", metric=None,
        candidates=[LOGISTIC], fallback=[[]],
    )  # fmt: skip
    planned, fitted, report = run(document, tmp_path)
    assert planned.rows.labels == ("u", "v", "w")
    rows = {row["key"]: row for row in report.iter_rows(named=True)}
    assert rows["c"]["decision"] == "failed"
    assert "class" in rows["c"]["reason"]
    assert rows["a"]["decision"] == "kept"
    frame = planned.rows.frame.with_columns(role=planned.division.roles)
    mine = frame.filter(pl.col("shop") == "a", pl.col("role") == Role.TRAIN)
    held = frame.filter(pl.col("shop") == "a", pl.col("role") == Role.VALIDATION)
    model = LogisticRegression().fit(mine.select("x").to_numpy(), mine["label"].to_numpy())
    shares = model.predict_proba(held.select("x").to_numpy())
    assert rows["a"]["metric"] == pytest.approx(log_loss(held["label"].to_numpy(), shares))
    fleet = fleet_of(planned, fitted)
    answer = fleet.predict(pl.DataFrame({"shop": ["a", "c"], "x": [0.3, 0.3]}), model_level=True)
    assert answer["model_level"].to_list() == ["shop", "global"]
    assert answer["probability"].to_list()[0][2] is None


def test_anomalies_need_no_comparison(tmp_path: Path) -> None:
    document = spec(
        saved(shops(SIZES), tmp_path), task="anomaly", target=None, metric=None, candidates=[SVM], fallback=[[]]
    )
    planned, fitted, report = run(document, tmp_path)
    assert report["decision"].value_counts(sort=True).rows() == [("kept", 6), ("too_few_rows", 1)]
    assert set(report.filter(pl.col("decision") == "kept")["reason"]) == {"kept without comparison"}
    X, _ = part(planned, Role.TRAIN, shop="d")
    V, _ = part(planned, Role.VALIDATION, shop="d")
    model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(X)
    row = report.filter(pl.col("key") == "d:9").row(0, named=True)
    assert row["metric"] == pytest.approx((model.decision_function(V) < 0).mean())
    answers = fleet_of(planned, fitted).predict(pl.DataFrame({"shop": "d", "item": 9, "x": V[:, 0], "z": V[:, 1]}))
    np.testing.assert_allclose(answers["score"].to_numpy(), model.decision_function(V), atol=1e-9)


def test_texts_reach_the_estimator_as_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    colour = rng.choice(["red", "green", "blue"], 200)
    frame = pl.DataFrame({"shop": ["a", "b"] * 100, "colour": colour, "x": rng.normal(size=200)}).with_columns(
        y=pl.col("x") + (pl.col("colour") == "red") * 5
    )
    encode = {"features": "texts", "steps": [{"sklearn.preprocessing.OneHotEncoder": {"handle_unknown": "ignore"}}]}
    steps = [{"columns": [encode, {"features": "numbers", "steps": "passthrough"}]}, "sklearn.linear_model.Ridge"]
    document = spec(
        saved(frame, tmp_path), keys=["shop"], fallback=[[]], features=["x", "colour"],
        candidates=[{"name": "mixed", "steps": steps}],
    )  # fmt: skip
    planned, fitted, _ = run(document, tmp_path)
    held = planned.rows.frame
    answers = fleet_of(planned, fitted).predict(held)["prediction"]
    assert np.abs(answers.to_numpy() - held["y"].to_numpy()).mean() < 0.3


def test_a_candidate_that_cannot_be_packed_is_refused_before_the_work(tmp_path: Path) -> None:
    for part_name, steps in (
        ("KNeighborsRegressor", ["sklearn.neighbors.KNeighborsRegressor"]),
        ("PolynomialFeatures", ["sklearn.preprocessing.PolynomialFeatures", "sklearn.linear_model.Ridge"]),
    ):
        folder = tmp_path / part_name
        folder.mkdir()
        document = spec(saved(shops(SIZES), folder), candidates=[RIDGE, {"name": "bad", "steps": steps}])
        with pytest.raises(InvalidSpec, match=f"candidate bad.*{part_name.lower()}|candidate bad.*{part_name}"):
            run(document, folder)


def test_a_candidate_with_impossible_parameters_is_refused_before_the_work(tmp_path: Path) -> None:
    bad = {**RIDGE, "grid": {"ridge__alpha": [1, -4]}}
    with pytest.raises(InvalidSpec, match=r"candidate ridge \{\"ridge__alpha\": -4\}.*alpha"):
        run(spec(saved(shops(SIZES), tmp_path), candidates=[bad]), tmp_path)


def test_a_metric_that_needs_probabilities(tmp_path: Path) -> None:
    frame = shops(SIZES).with_columns(y=pl.col("y") > 0)
    candidate = {"name": "svc", "steps": ["sklearn.svm.LinearSVC"]}
    document = spec(saved(frame, tmp_path), task="classification", metric="log_loss", candidates=[candidate])
    with pytest.raises(InvalidSpec, match="LinearSVC: gives no probabilities, which log_loss needs"):
        run(document, tmp_path)


def test_an_estimator_that_fails_on_some_rows_costs_those_segments(tmp_path: Path) -> None:
    frame = shops(SIZES).with_columns(x=pl.when(pl.col("shop") == "d").then(None).otherwise("x"))
    _, fitted, report = run(spec(saved(frame, tmp_path), missing="keep"), tmp_path)
    failed = report.filter(pl.col("decision") == "failed")
    assert failed["key"].to_list() == ["d:9", "d:*", "*:*"]
    assert all("NaN" in reason for reason in failed["reason"])
    assert any("could not be fitted on a sample" in warning for warning in fitted.warnings)


def test_when_nothing_can_be_trained_the_reason_is_told(tmp_path: Path) -> None:
    planned, fitted, _ = run(spec(saved(shops(SIZES), tmp_path), minimum_rows=10_000), tmp_path)
    with pytest.raises(InvalidInput, match="10000 are needed"):
        fleet_of(planned, fitted)


def test_a_single_model_needs_no_key(tmp_path: Path) -> None:
    planned, fitted, report = run(spec(saved(shops(SIZES), tmp_path), keys=[], fallback=None), tmp_path)
    assert report["reason"].to_list() == ["it has no fallback"]
    assert fleet_of(planned, fitted).predict({"x": [1.0], "z": [0.0]}).height == 1


def test_candidates_for_fallbacks_only(tmp_path: Path) -> None:
    tree = {"name": "tree", "steps": ["sklearn.tree.DecisionTreeRegressor"], "used_for": "fallbacks"}
    ridge = {**RIDGE, "used_for": "segments"}
    planned, _, report = run(spec(saved(shops(SIZES), tmp_path), candidates=[ridge, tree]), tmp_path)
    tried = report.drop_nulls("candidate").group_by("level").agg(pl.col("candidate").unique())
    assert dict(tried.rows()) == {"shop+item": ["ridge"], "shop": ["tree"], "global": ["tree"]}
    assert planned.fits == report.drop_nulls("candidate").height


def test_the_same_seed_draws_the_same_rows_and_forests(tmp_path: Path) -> None:
    forest = {"name": "forest", "steps": [{"sklearn.ensemble.RandomForestRegressor": {"n_estimators": 5}}]}
    frame = shops({("a", 1): 200, ("b", 1): 150})
    predictions = []
    for name, seed in (("first", 3), ("second", 3), ("third", 4)):
        folder = tmp_path / name
        folder.mkdir()
        document = spec(saved(frame, folder), candidates=[forest], maximum_rows=60, seed=seed, keep={"rule": "always"})
        planned, fitted, report = run(document, folder)
        assert report["rows"].max() == 60
        predictions.append(fleet_of(planned, fitted).predict(frame)["prediction"].to_numpy())
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert (predictions[0] != predictions[2]).any()
    assert segment_seed(3, "a:1") != segment_seed(3, "b:1")


def test_the_keep_rule() -> None:
    rule = KeepRule(metric=METRICS["mae"], always=False, margin=0.1, minimum_validation_rows=10)
    assert rule.decide(9.0, 10.0, 10)[0] is Decision.KEPT
    assert rule.decide(9.01, 10.0, 10)[0] is Decision.FALLBACK
    assert rule.decide(1.0, 10.0, 9) == (Decision.FALLBACK, "only 9 held-out rows, 10 are needed")
    assert rule.decide(5.0, None, 0) == (Decision.KEPT, "it has no fallback")
    assert "not defined" in rule.decide(float("nan"), 1.0, 50)[1]
    none = KeepRule(metric=METRICS["mae"], always=False, margin=0.0, minimum_validation_rows=1)
    assert none.decide(10.0, 10.0, 10)[0] is Decision.FALLBACK
    more = KeepRule(metric=METRICS["r2"], always=False, margin=0.05, minimum_validation_rows=1)
    assert more.decide(0.86, 0.8, 10)[0] is Decision.KEPT
    assert more.decide(0.84, 0.8, 10)[0] is Decision.FALLBACK


def test_a_champion_is_measured_on_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "weak").mkdir()
    source = saved(shops(SIZES), tmp_path)
    planned, fitted, _ = run(spec(source), tmp_path)
    weak_plan, weak_fitted, _ = run(
        spec(source, candidates=[{"name": "weak", "steps": [{"sklearn.linear_model.Ridge": {"alpha": 1e6}}]}]),
        tmp_path / "weak",
    )
    weak, strong = fleet_of(weak_plan, weak_fitted), fleet_of(planned, fitted)
    held = planned.rows.frame.filter(pl.Series(planned.division.roles == Role.VALIDATION))
    better = compare_with_champion(planned, fitted, weak)
    assert better.better
    for fleet, figure in ((strong, better.figure), (weak, better.champion_figure)):
        assert figure == pytest.approx(mean_absolute_error(held["y"], fleet.predict(held)["prediction"]))
    assert better.rows == held.height
    assert not compare_with_champion(planned, fitted, strong).better
    assert not compare_with_champion(weak_plan, weak_fitted, strong).better
    assert compare_with_champion(planned, fitted, None).better


def test_a_champion_of_other_columns_stays(tmp_path: Path) -> None:
    planned, fitted, _ = run(spec(saved(shops(SIZES), tmp_path)), tmp_path)
    other = Fleet.from_estimators(
        keys=[], models={(): Ridge().fit([[0.0], [1.0]], [0.0, 1.0])}, features=["w"], task="regression"
    )
    comparison = compare_with_champion(planned, fitted, other)
    assert not comparison.better
    assert "'w'" in comparison.reason


@pytest.mark.parametrize("metric", ["log_loss", "accuracy"])
def test_a_champion_with_other_labels(tmp_path: Path, metric: str) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"shop": ["a", "b"] * 150, "x": rng.normal(size=300)}).with_columns(
        label=pl.when(pl.col("x") > 0.5)
        .then(pl.lit("v"))
        .when(pl.col("x") < -1)
        .then(pl.lit("w"))
        .otherwise(pl.lit("u"))
    )
    document = spec(
        saved(frame, tmp_path), keys=["shop"], fallback=[[]], features=["x"], target="label", task="classification",
        metric=metric, candidates=[LOGISTIC],
    )  # fmt: skip
    planned, fitted, _ = run(document, tmp_path)
    known = LogisticRegression().fit([[0.0], [1.0], [2.0]], ["u", "v", "z"])
    champion = Fleet.from_estimators(keys=[], models={(): known}, features=["x"], task="classification")
    comparison = compare_with_champion(planned, fitted, champion)
    assert comparison.better
    held = planned.rows.frame.filter(pl.Series(planned.division.roles == Role.VALIDATION))
    if metric == "accuracy":
        expected = (known.predict(held.select("x").to_numpy()) == held["label"].to_numpy()).mean()
        assert comparison.champion_figure == pytest.approx(expected)
    assert comparison.rows == held.height


def colours(folder: Path) -> Path:
    """Two shops, in which y moves with a number and a colour."""
    rng = np.random.default_rng(2)
    frame = shops({("a", 1): 60, ("b", 1): 60}).with_columns(colour=pl.Series(rng.choice(["red", "green"], 120)))
    return saved(
        frame.with_columns(y=pl.col("y") + pl.when(pl.col("colour") == "red").then(5.0).otherwise(0.0)), folder
    )


def test_texts_without_an_encoder_are_refused_before_the_long_work(tmp_path: Path) -> None:
    document = spec(colours(tmp_path), keys=["shop"], fallback=None, features=["x", "colour"])
    with pytest.raises(InvalidSpec, match=r"candidate ridge: .*'colour' holds texts.* only numbers: begin its steps"):
        run(document, tmp_path)


def test_the_advice_on_texts_works_as_it_is_written(tmp_path: Path) -> None:
    steps = [yaml.safe_load(ENCODING), "sklearn.linear_model.LinearRegression"]
    document = spec(
        colours(tmp_path), keys=["shop"], fallback=None, features=["x", "z", "colour"],
        candidates=[{"name": "linear", "steps": steps}],
    )  # fmt: skip
    planned, fitted, report = run(document, tmp_path)
    assert fitted.warnings == ()
    assert set(report.filter(pl.col("level") == "shop")["decision"]) == {"kept"}
    row = pl.DataFrame({"shop": ["a", "a"], "x": [0.5, 0.5], "z": [0.0, 0.0], "colour": ["red", "green"]})
    red, green = fleet_of(planned, fitted).predict(row)["prediction"]
    assert red - green == pytest.approx(5, abs=0.2)
