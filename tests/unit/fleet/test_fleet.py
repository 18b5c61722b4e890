"""Fleet against the estimators it was made from."""

import datetime as dt

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from shoal.errors import InvalidInput, NotFound, UnsupportedEstimator
from shoal.fleet import Fleet
from shoal.table.facts import ModelFacts

FEATURES = ["a", "b", "c"]
RNG = np.random.default_rng(7)
DEVICES = [f"pump-{i}" for i in range(6)]
SENSORS = ["flow", "heat"]


def rows(count, rng=RNG):
    X = rng.normal(size=(count, 3))
    return pl.DataFrame(X, schema=FEATURES).with_columns(
        device=pl.Series(rng.choice(DEVICES, count)), sensor=pl.Series(rng.choice(SENSORS, count))
    )


def fitted(make, target=None):
    models = {}
    for device in DEVICES:
        for sensor in SENSORS:
            X = RNG.normal(size=(40, 3)) * RNG.uniform(0.5, 2, 3)
            models[device, sensor] = make().fit(X, None if target is None else target(X))
    return models


@pytest.fixture(scope="module")
def ridges():
    return fitted(
        lambda: make_pipeline(StandardScaler(), Ridge()), lambda X: X @ [1.0, -2.0, 0.5] + RNG.normal(size=40)
    )


@pytest.fixture(scope="module")
def ridge_fleet(ridges):
    return Fleet.from_estimators(keys=["device", "sensor"], models=ridges, features=FEATURES, task="regression")


def expected(models, frame, method="predict"):
    out = np.empty(frame.height)
    for i, row in enumerate(frame.iter_rows(named=True)):
        out[i] = getattr(models[row["device"], row["sensor"]], method)(np.array([[row[f] for f in FEATURES]]))[0]
    return out


def test_regression_answers_as_the_estimators_do(ridges, ridge_fleet):
    frame = rows(500)
    got = ridge_fleet.predict(frame)
    assert got.columns == ["device", "sensor", "prediction"]
    assert got.select("device", "sensor").equals(frame.select("device", "sensor"))
    np.testing.assert_allclose(got["prediction"].to_numpy(), expected(ridges, frame), rtol=1e-12, atol=1e-12)


def test_anomaly_answers_as_the_estimators_do():
    models = fitted(lambda: make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)))
    models[DEVICES[0], "flow"] = IsolationForest(n_estimators=20, random_state=0).fit(RNG.normal(size=(50, 3)))
    fleet = Fleet.from_estimators(keys=["device", "sensor"], models=models, features=FEATURES, task="anomaly")
    frame = rows(300)
    got = fleet.predict(frame, outcome=True)
    want = expected(models, frame, "decision_function")
    np.testing.assert_allclose(got["score"].to_numpy(), want, rtol=1e-9, atol=1e-9)
    assert got["is_anomaly"].to_list() == (got["score"].to_numpy() < 0).tolist()
    assert expected(models, frame).astype(int).tolist() == np.where(got["is_anomaly"].to_numpy(), -1, 1).tolist()
    assert set(fleet.models["family"]) == {fleet[DEVICES[1], "flow"].family, fleet[DEVICES[0], "flow"].family}
    assert len(set(fleet.models["family"])) == 2


def test_classes_are_the_union_and_an_unseen_class_is_null():
    two, three = RNG.normal(size=(60, 3)), RNG.normal(size=(60, 3))
    models = {
        ("two",): LogisticRegression().fit(two, np.where(two[:, 0] > 0, "red", "blue")),
        ("three",): RandomForestClassifier(5, random_state=1).fit(
            three, np.digitize(three[:, 0], [-0.5, 0.5]).astype(str)
        ),
    }
    fleet = Fleet.from_estimators(keys=["kind"], models=models, features=FEATURES, task="classification")
    assert fleet.labels == ("0", "1", "2", "blue", "red")
    X = RNG.normal(size=(80, 3))
    frame = pl.DataFrame(X, schema=FEATURES).with_columns(kind=pl.Series(["two", "three", "none", "two"] * 20))
    got = fleet.predict(frame, outcome=True)
    assert got.schema["probability"] == pl.Array(pl.Float64, 5)
    for i, row in enumerate(got.iter_rows(named=True)):
        if row["kind"] == "none":
            assert row["prediction"] is None
            assert row["probability"] is None
            assert row["outcome"] == "no_model"
            continue
        model = models[(row["kind"],)]
        assert row["prediction"] == model.predict(X[i : i + 1])[0]
        known = dict(zip(model.classes_, model.predict_proba(X[i : i + 1])[0], strict=True))
        for label, p in zip(fleet.labels, row["probability"], strict=True):
            assert (p is None) == (label not in known)
            assert p is None or p == pytest.approx(known[label], abs=1e-12)


def test_fallback_goes_from_leaf_to_parent_to_global_to_refusal():
    def constant(value):
        return Ridge().fit([[0.0], [1.0]], [value, value])

    fleet = Fleet.from_estimators(
        keys=["origin", "dest"],
        models={("JFK", "LAX"): constant(1)},
        fallbacks={("dest",): {("LAX",): constant(2), ("SFO",): constant(3)}, (): {(): constant(4)}},
        features=["x"],
        task="regression",
    )
    assert fleet.levels == (("origin", "dest"), ("dest",), ())
    frame = pl.DataFrame(
        {"origin": ["JFK", "EWR", None, "JFK", None], "dest": ["LAX", "LAX", "SFO", "BOS", None], "x": 0.5}
    )
    got = fleet.predict(frame, outcome=True, model_level=True)
    assert got["prediction"].to_list() == pytest.approx([1, 2, 3, 4, 4])
    assert got["outcome"].to_list() == ["scored", "fallback", "fallback", "fallback", "fallback"]
    assert got["model_level"].to_list() == ["origin+dest", "dest", "dest", "global", "global"]
    only = fleet.score(frame, fallback=False)
    assert only.counts().no_model == 4
    assert (
        fleet.select(pl.col("level") != "global").predict(frame, outcome=True)["outcome"].to_list()[-2:]
        == ["no_model"] * 2
    )


def test_a_fleet_of_one_model_has_no_key():
    model = Ridge().fit([[0.0], [1.0]], [0.0, 2.0])
    fleet = Fleet.from_estimators(keys=[], models={(): model}, features=["x"], task="regression")
    got = fleet.predict({"x": np.linspace(0, 1, 5000)}, outcome=True)
    np.testing.assert_allclose(got["prediction"], model.predict(np.linspace(0, 1, 5000)[:, None]), rtol=1e-12)
    assert set(got["outcome"]) == {"scored"}
    assert fleet[()].predict({"x": [1.0]})["prediction"][0] == got["prediction"][-1]


def test_bad_rows_are_outcomes_with_their_reason(ridge_fleet):
    frame = pl.DataFrame(
        {
            "device": ["pump-0", "pump-1", "pump-2", "nobody", None, "pump-3"],
            "sensor": ["flow"] * 6,
            "a": ["1.5", "x", "2", "3", "4", None],
            "b": [1.0, 1.0, float("inf"), 1.0, 1.0, 1.0],
            "c": [1, 2, 3, 4, 5, 6],
        }
    )
    scored = ridge_fleet.score(frame)
    assert scored.outcome_column.to_list() == ["scored", "invalid", "invalid", "no_model", "no_model", "invalid"]
    assert scored.reason_texts().to_list() == [
        None, "wrong type in 'a'", "infinite value in 'b'", None, None, "missing value in 'a'",
    ]  # fmt: skip
    assert scored.frame["prediction"].is_null().to_list() == [False, True, True, True, True, True]
    assert scored.counts().reconciles


def test_wrong_key_values_are_invalid_rows():
    model = Ridge().fit([[0.0], [1.0]], [0.0, 2.0])
    day = dt.date(2013, 1, 1)
    models = {(1, day): model}
    fleet = Fleet.from_estimators(keys=["n", "day"], models=models, features=["x"], task="regression")
    frame = pl.DataFrame({"n": ["1", "one", "1"], "day": ["2013-01-01", "2013-01-01", "yesterday"], "x": 1.0})
    scored = fleet.score(frame)
    assert scored.outcome_column.to_list() == ["scored", "invalid", "invalid"]
    assert scored.reason_texts().to_list() == [None, "wrong key type in 'n'", "wrong key type in 'day'"]


def test_an_answer_that_is_not_finite_is_a_failed_row():
    from sklearn.linear_model import PoissonRegressor

    model = PoissonRegressor().fit([[0.0], [1.0], [2.0]], [1.0, 20.0, 400.0])
    fleet = Fleet.from_estimators(keys=[], models={(): model}, features=["x"], task="regression")
    got = fleet.predict({"x": [1.0, 1e9]}, outcome=True)
    assert got["outcome"].to_list() == ["scored", "failed"]
    assert got["prediction"][1] is None


@pytest.mark.parametrize(
    "convert",
    [lambda f: f, lambda f: f.to_arrow(), lambda f: f.to_arrow().to_batches()[0], lambda f: f.to_dict(as_series=False)],
)
def test_frames_of_every_kind_give_the_same(ridge_fleet, convert):
    frame = rows(50)
    assert ridge_fleet.predict(convert(frame)).equals(ridge_fleet.predict(frame))


def test_numeric_types_are_cast(ridge_fleet):
    frame = rows(64).with_columns(pl.col(FEATURES).round(0))
    want = ridge_fleet.predict(frame)["prediction"]
    for dtype in (pl.Float32, pl.Int8, pl.Int64, pl.String, pl.Decimal(10, 2)):
        assert ridge_fleet.predict(frame.with_columns(pl.col(FEATURES).cast(dtype)))["prediction"].equals(want), dtype


def test_an_empty_frame_gives_an_empty_answer(ridge_fleet):
    got = ridge_fleet.predict(rows(5).clear(), outcome=True)
    assert got.height == 0
    assert got.columns == ["device", "sensor", "prediction", "outcome"]


def test_missing_columns_and_odd_types_are_errors(ridge_fleet):
    frame = rows(3)
    with pytest.raises(InvalidInput, match=r"lacks the feature column.*'b'"):
        ridge_fleet.predict(frame.drop("b"))
    with pytest.raises(InvalidInput, match=r"lacks the key column.*'device'"):
        ridge_fleet.predict(frame.drop("device"))
    with pytest.raises(InvalidInput, match="'b' is Date"):
        ridge_fleet.predict(frame.with_columns(b=dt.date(2013, 1, 1)))
    with pytest.raises(InvalidInput, match="no frame"):
        ridge_fleet.predict(42)


def test_rows_answer_the_same_alone_and_together(ridge_fleet):
    frame = rows(300)
    together = ridge_fleet.predict(frame)["prediction"]
    alone = pl.concat([ridge_fleet.predict(frame[i])["prediction"] for i in range(frame.height)])
    assert together.equals(alone)
    shuffled = RNG.permutation(frame.height)
    assert ridge_fleet.predict(frame[shuffled])["prediction"].equals(together[shuffled])


def test_models_lists_facts_and_metrics(ridges):
    now = dt.datetime(2013, 10, 1, tzinfo=dt.UTC)
    leaf = ("device", "sensor")
    facts = {(leaf, key): ModelFacts(rows=i, trained_at=now, metrics={"mae": i / 2}) for i, key in enumerate(ridges)}
    fleet = Fleet.from_estimators(keys=leaf, models=ridges, features=FEATURES, task="regression", facts=facts)
    frame = fleet.models
    assert frame.height == len(fleet) == 12
    assert frame["rows"].to_list() == list(range(12))
    assert frame["metric.mae"].to_list() == [i / 2 for i in range(12)]
    assert set(frame["level"]) == {"device+sensor"}
    assert frame["trained_at"].to_list() == [now] * 12


def test_one_model(ridges, ridge_fleet):
    frame = rows(20)
    model = ridge_fleet["pump-3", "heat"]
    got = model.predict(frame.select(FEATURES))
    assert got.columns == ["prediction"]
    np.testing.assert_allclose(got["prediction"], ridges["pump-3", "heat"].predict(frame.select(FEATURES).to_numpy()))
    assert "affine" in model.family
    with pytest.raises(NotFound, match="nobody:heat"):
        ridge_fleet["nobody", "heat"]
    with pytest.raises(InvalidInput, match="device"):
        ridge_fleet["pump-3"]


def test_one_model_answers_its_own_rows_only(ridge_fleet):
    frame = rows(200)
    own = frame.filter(pl.col("device") == "pump-3", pl.col("sensor") == "heat")
    wishes = {"outcome": True, "model_level": True, "snapshot": True}
    got = ridge_fleet["pump-3", "heat"].predict(own, **wishes)
    assert got.height > 0
    assert got.equals(ridge_fleet.predict(own, **wishes).drop("device", "sensor"))
    with pytest.raises(InvalidInput, match=r"row 0: key column 'sensor' is 'flow', and this is the model of 'heat'"):
        ridge_fleet["pump-3", "heat"].predict(own.with_columns(sensor=pl.lit("flow")))


def test_one_model_of_a_coarser_level_takes_rows_of_all_that_it_stands_for():
    models = {("a", 1): Ridge().fit([[0.0], [1.0]], [1.0, 1.0])}
    fallbacks = {("line",): {(1,): Ridge().fit([[0.0], [1.0]], [2.0, 2.0])}}
    fleet = Fleet.from_estimators(
        keys=["device", "line"], models=models, features=["x"], task="regression", fallbacks=fallbacks
    )
    model = fleet.model(("line",), (1,))
    got = model.predict({"device": ["a", "b"], "line": ["1", "1.0"], "x": [0.0, 1.0]}, model_level=True)
    assert got["prediction"].to_list() == pytest.approx([2.0, 2.0])
    assert got["model_level"].to_list() == ["line", "line"]
    with pytest.raises(InvalidInput, match="'line' is 2, and this is the model of 1"):
        model.predict({"line": [1, 2], "x": [0.0, 1.0]})


def test_merge_select_without_and_diff(ridges, ridge_fleet):
    winners_of = {
        ("pump-0", "flow"): Ridge().fit(RNG.normal(size=(9, 3)), RNG.normal(size=9)),
        ("new", "flow"): ridges["pump-1", "flow"],
    }
    winners = Fleet.from_estimators(keys=["device", "sensor"], models=winners_of, features=FEATURES, task="regression")
    merged = ridge_fleet.merge(winners)
    assert len(merged) == 13
    frame = pl.concat([rows(200), rows(5).with_columns(device=pl.lit("new"), sensor=pl.lit("flow"))])
    np.testing.assert_allclose(
        merged.predict(frame)["prediction"], expected(ridges | winners_of, frame), rtol=1e-12, atol=1e-12
    )
    changes = {(row["device"], row["sensor"]): row["change"] for row in ridge_fleet.diff(merged).iter_rows(named=True)}
    assert changes == {("pump-0", "flow"): "changed", ("new", "flow"): "added"}
    less = merged.without(pl.col("device") == "pump-5")
    assert len(less) == 11
    assert set(merged.diff(less)["change"]) == {"removed"}
    gone = rows(50).with_columns(device=pl.lit("pump-5"))
    assert set(less.predict(gone, outcome=True)["outcome"]) == {"no_model"}
    assert merged.compact().diff(merged).height == 0
    assert sum(len(block) for block in merged.compact().table.blocks) == 13
    only = merged.select(lambda models: models["sensor"] == "heat")
    assert set(only.models["sensor"]) == {"heat"}


def test_many_merges_fold_the_index(ridges, ridge_fleet):
    fleet = ridge_fleet
    for i in range(9):
        winner = {("pump-0", "flow"): ridges["pump-1", "flow"], (f"extra-{i}", "flow"): ridges["pump-2", "flow"]}
        fleet = fleet.merge(
            Fleet.from_estimators(keys=["device", "sensor"], models=winner, features=FEATURES, task="regression")
        )
        assert len(fleet.table.parts) <= 4
    assert len(fleet) == 12 + 9
    frame = rows(40).with_columns(device=pl.lit("pump-0"), sensor=pl.lit("flow"))
    np.testing.assert_allclose(
        fleet.predict(frame)["prediction"], ridges["pump-1", "flow"].predict(frame.select(FEATURES).to_numpy())
    )


def test_what_cannot_be_laid_out_is_refused_by_name(ridges):
    from sklearn.neighbors import KNeighborsRegressor

    knn = KNeighborsRegressor().fit(RNG.normal(size=(9, 3)), RNG.normal(size=9))
    with pytest.raises(UnsupportedEstimator, match=r"\('z', 'flow'\).*KNeighborsRegressor"):
        Fleet.from_estimators(
            keys=["device", "sensor"], models=ridges | {("z", "flow"): knn}, features=FEATURES, task="regression"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ranking"}, "ranking"),
        ({"task": "anomaly"}, "anomaly"),
        ({"keys": ["device", "device"]}, "repeat"),
        ({"keys": ["device"]}, "must be a tuple of 1"),
        ({"models": {}}, "at least one model"),
        ({"fallbacks": {("city",): {("NY",): None}}}, "city|NoneType"),
    ],
)
def test_what_does_not_fit_is_refused(ridges, change, message):
    arguments = {"keys": ["device", "sensor"], "models": ridges, "features": FEATURES, "task": "regression"} | change
    with pytest.raises((InvalidInput, UnsupportedEstimator), match=message):
        Fleet.from_estimators(**arguments)


def test_save_and_load(tmp_path, ridges, ridge_fleet):
    written = ridge_fleet.save(tmp_path / "ridges")
    assert written > 0
    again = Fleet.load(tmp_path / "ridges")
    frame = rows(100)
    assert again.predict(frame).equals(ridge_fleet.predict(frame))
    assert again.models.equals(ridge_fleet.models)
    assert again.diff(ridge_fleet).height == 0
    assert isinstance(pa.ipc.open_file(next((tmp_path / "ridges" / "blocks").iterdir())).read_all(), pa.Table)


def test_saving_winners_writes_only_them(tmp_path, ridges, ridge_fleet):
    ridge_fleet.save(tmp_path)
    before = {path.name for path in (tmp_path / "blocks").iterdir()}
    winner = {("pump-0", "flow"): ridges["pump-1", "flow"]}
    winners = Fleet.from_estimators(keys=["device", "sensor"], models=winner, features=FEATURES, task="regression")
    Fleet.load(tmp_path).merge(winners).save(tmp_path)
    after = {path.name for path in (tmp_path / "blocks").iterdir()}
    assert before < after
    assert len(after - before) == 1


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        (["prediction"], ("a",), "rename it"),
        (["outcome"], ("a",), "rename it"),
        (["family"], ("a",), "rename it"),
        (["k"], (2**70,), "no string, integer"),
        (["k"], ("\ud800",), "no string, integer"),
        (["k", "l"], ("a",), "tuple of 2"),
        ("device", ("a",), "lists of column names"),
    ],
)
def test_keys_that_cannot_be_are_refused_with_advice(keys, key, message):
    model = Ridge().fit([[0.0], [1.0]], [0.0, 2.0])
    with pytest.raises(InvalidInput, match=message):
        Fleet.from_estimators(keys=keys, models={key: model}, features=["x"], task="regression")


def test_a_missing_key_falls_back_whether_it_is_null_or_nan():
    model = Ridge().fit([[0.0], [1.0]], [0.0, 2.0])
    fleet = Fleet.from_estimators(
        keys=["n"], models={(1,): model}, fallbacks={(): {(): model}}, features=["x"], task="regression"
    )
    got = fleet.predict({"n": [1.0, None, float("nan"), 1.5], "x": [1.0] * 4}, outcome=True)
    assert got["outcome"].to_list() == ["scored", "fallback", "fallback", "invalid"]


def test_saving_over_a_file_is_a_storage_error(tmp_path, ridge_fleet):
    from shoal.errors import StorageError

    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError):
        ridge_fleet.save(tmp_path / "taken")
