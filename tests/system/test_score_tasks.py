"""Score jobs of every task and output format, compared row by row with what scikit-learn says."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import OneClassSVM

import shoal
from shoal.errors import InvalidInput, InvalidSpec

RNG = np.random.default_rng(11)
ROWS = 120
KEYS = ["k0", "k1", "k2"]
X = RNG.normal(size=(ROWS, 2))
OWNERS = RNG.choice([*KEYS, "unknown"], ROWS)


def classifier(classes: list[str]) -> LogisticRegression:
    Z = RNG.normal(size=(60, 2))
    return LogisticRegression().fit(Z, [classes[i % len(classes)] for i in range(60)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pl.DataFrame({"k": OWNERS, "x": X[:, 0], "y": X[:, 1]}).write_parquet(path, row_group_size=50)
    return path


def score(tmp_path: Path, models: dict[tuple[str], object], task: str, source: Path, name: str) -> Path:
    fleet = shoal.Fleet.from_estimators(keys=["k"], models=models, features=["x", "y"], task=task)
    with shoal.open(tmp_path / "home") as workspace:
        workspace.register(fleet, "f")
        workspace.promote("f", 1)
        output = tmp_path / name
        summary = workspace.score({"fleet": "f", "input": str(source), "output": str(output), "shard_rows": 50})
        assert summary.ledger.balanced
    return output


def records(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    if path.suffix == ".csv":
        return pl.read_csv(path, infer_schema_length=None).to_dicts()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_classification(tmp_path: Path, source: Path, form: str) -> None:
    models = {("k0",): classifier(["a", "b", "c"]), ("k1",): classifier(["a", "c"]), ("k2",): classifier(["b", "c"])}
    found = records(score(tmp_path, models, "classification", source, f"out.{form}"))
    for row, (owner, x) in enumerate(zip(OWNERS, X, strict=True)):
        said, model = found[row], models.get((owner,))
        assert said["_row"] == row
        each = [said[f"probability_{c}"] for c in "abc"] if form == "csv" else said["probability"] or [None] * 3
        if model is None:
            assert (said["prediction"], said["outcome"], each) == (None, "no_model", [None] * 3)
            continue
        assert said["prediction"] == model.predict([x])[0]
        known = dict(zip(model.classes_, model.predict_proba([x])[0], strict=True))
        assert [p is None for p in each] == [c not in known for c in "abc"]
        np.testing.assert_allclose(
            [p for p in each if p is not None], [known[c] for c in "abc" if c in known], atol=1e-9
        )


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_anomaly(tmp_path: Path, source: Path, form: str) -> None:
    models = {(key,): OneClassSVM(nu=0.3, gamma=0.5).fit(RNG.normal(size=(40, 2))) for key in KEYS}
    found = records(score(tmp_path, models, "anomaly", source, f"out.{form}"))
    for row, (owner, x) in enumerate(zip(OWNERS, X, strict=True)):
        model = models.get((owner,))
        if model is None:
            assert (found[row]["score"], found[row]["is_anomaly"]) == (None, None)
        else:
            value = model.decision_function([x])[0]
            assert found[row]["score"] == pytest.approx(value, rel=1e-9, abs=1e-9)
            assert found[row]["is_anomaly"] is bool(value < 0)


def test_a_fleet_of_one_model_needs_no_key(tmp_path: Path, source: Path) -> None:
    fleet = shoal.Fleet.from_estimators(
        keys=[], models={(): Ridge().fit(X, X[:, 0])}, features=["x", "y"], task="regression"
    )
    with shoal.open(tmp_path / "home") as workspace:
        workspace.register(fleet, "one")
        workspace.promote("one", 1)
        workspace.score({"fleet": "one", "input": str(source), "output": str(tmp_path / "out.csv")})
    assert pl.read_csv(tmp_path / "out.csv")["outcome"].unique().to_list() == ["scored"]


@pytest.mark.parametrize("name", ["_file", "_row", "outcome", "prediction", "snapshot", "model_level", "reason"])
def test_input_columns_named_like_ours_do_not_mix_with_them(tmp_path: Path, name: str) -> None:
    """They are neither shown nor in the way; carrying one, or a fleet that is keyed by one, is refused."""
    source = tmp_path / "in.parquet"
    pl.DataFrame({"k": ["k0"] * 3, "x": [1.0, 2.0, 3.0], name: ["mine"] * 3}).write_parquet(source)
    model = Ridge().fit([[0.0], [1.0]], [0.0, 1.0])
    job = {"fleet": "g", "input": str(source), "output": str(tmp_path / "out")}
    with shoal.open(tmp_path / "home") as workspace:
        fleet = shoal.Fleet.from_estimators(
            keys=["k"], models={("k0",): model}, features=["x"], task="regression", name="g"
        )
        workspace.register(fleet)
        workspace.promote("g", 1)
        workspace.score(job)
        found = pl.read_parquet(tmp_path / "out/part-00000.parquet")
        assert "mine" not in found.select(pl.all().cast(pl.String)).row(0)
        assert found["_row"].to_list() == [0, 1, 2]
        with pytest.raises(InvalidSpec, match=f"carry.*{name}"):
            workspace.score({**job, "carry": name, "output": str(tmp_path / "o2")})
        with pytest.raises((InvalidInput, InvalidSpec), match="nowhere"):
            workspace.score({**job, "carry": "nowhere", "output": str(tmp_path / "o4")})


@pytest.mark.parametrize("name", ["_file", "_row"])
def test_row_ids_are_never_taken_for_values(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.parquet"
    pl.DataFrame({"k": ["k0"] * 3, "x": [1.0, 2.0, 3.0], name: [7.0] * 3}).write_parquet(source)
    model = Ridge().fit([[0.0], [1.0]], [0.0, 1.0])
    job = {"fleet": "g", "input": str(source), "output": str(tmp_path / "out")}
    with shoal.open(tmp_path / "home") as workspace:
        fleet = shoal.Fleet.from_estimators(
            keys=["k"], models={("k0",): model}, features=[name], task="regression", name="g"
        )
        workspace.register(fleet)
        workspace.promote("g", 1)
        with pytest.raises(InvalidSpec, match=f"feature '{name}'"):
            workspace.score(job)
        for rename in ({name: "x"}, {"x": name}):
            with pytest.raises(InvalidSpec, match=f"rename.*{name}"):
                workspace.score({**job, "rename": rename})


def test_carrying_what_is_there_anyway(tmp_path: Path, source: Path) -> None:
    with shoal.open(tmp_path / "home") as workspace:
        models = {(key,): Ridge().fit(X, X[:, 0]) for key in KEYS}
        fleet = shoal.Fleet.from_estimators(keys=["k"], models=models, features=["x", "y"], task="regression", name="f")
        workspace.register(fleet)
        workspace.promote("f", 1)
        job = {"fleet": "f", "input": str(source), "output": str(tmp_path / "out.parquet"), "carry": ["y", "k"]}
        workspace.score(job)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.columns.count("k") == 1
    assert found["y"].to_list() == X[:, 1].tolist()
    assert found["k"].to_list() == OWNERS.tolist()


WHEN = [f"2026-11-{day:02d}" for day in range(1, 11)]


def when_columns() -> dict[str, pl.Series]:
    times = pl.Series([f"{day}T12:00:00" for day in WHEN]).str.to_datetime()
    return {
        "string": pl.Series(WHEN),
        "date": pl.Series(WHEN).str.to_date(),
        "datetime": times,
        "datetime_ms": times.cast(pl.Datetime("ms")),
        "utc": times.dt.replace_time_zone("UTC"),
        "berlin": times.dt.replace_time_zone("Europe/Berlin"),
    }


@pytest.mark.parametrize("kind", list(when_columns()))
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_ranges_of_dates(tmp_path: Path, kind: str, form: str) -> None:
    source = tmp_path / f"in.{form}"
    frame = pl.DataFrame({"k": ["k0"] * 10, "x": np.arange(10.0), "when": when_columns()[kind]})
    frame = frame.vstack(frame.head(1).with_columns(when=pl.lit(None, dtype=frame.schema["when"])))
    frame.write_parquet(source) if form == "parquet" else frame.write_csv(source)
    model = Ridge().fit([[0.0], [1.0]], [0.0, 1.0])
    with shoal.open(tmp_path / "home") as workspace:
        fleet = shoal.Fleet.from_estimators(
            keys=["k"], models={("k0",): model}, features=["x"], task="regression", name="g"
        )
        workspace.register(fleet)
        workspace.promote("g", 1)
        job = {"fleet": "g", "input": str(source), "date": "when", "shard_rows": 4}
        for number, (window, rows) in enumerate([
            ({"from": "2026-11-03", "until": "2026-11-06"}, [2, 3, 4]), ({"from": "2026-11-09"}, [8, 9]),
            ({"until": "2026-11-02"}, [0]), ({"from": "2027-01-01"}, []),
        ]):  # fmt: skip
            output = tmp_path / f"out-{number}.jsonl"
            summary = workspace.score({**job, **window, "output": str(output)})
            assert [row["_row"] for row in records(output)] == rows
            assert (summary.ledger.totals.source_rows, summary.ledger.totals.counts.rows) == (11, len(rows))
        if kind in ("utc", "berlin") and form == "parquet":
            workspace.score(
                {**job, "from": "2026-11-05T11:30:00+00:00", "until": "2026-11-06", "output": str(tmp_path / "z.jsonl")}
            )
            assert [row["_row"] for row in records(tmp_path / "z.jsonl")] == ([4] if kind == "utc" else [])


@pytest.mark.parametrize(
    ("column", "start", "said"),
    [
        (pl.Series([20261101]), "2026-11-03", "neither a date nor a time"),
        (pl.Series(["2026-11-01"]).str.to_date(), "2026-11-03T00:00:00Z", "has no time zone"),
        (pl.Series(["2026-11-03", "2026-11-04"]).str.to_date(), "2026-11-03T08:00:00", None),
    ],
)
def test_a_range_must_fit_its_column(tmp_path: Path, column: pl.Series, start: str, said: str | None) -> None:
    source = tmp_path / "in.parquet"
    pl.DataFrame({"k": "k0", "x": 1.0, "when": column}).write_parquet(source)
    model = Ridge().fit([[0.0], [1.0]], [0.0, 1.0])
    job = {"fleet": "g", "input": str(source), "output": str(tmp_path / "out.jsonl"), "date": "when", "from": start}
    with shoal.open(tmp_path / "home") as workspace:
        fleet = shoal.Fleet.from_estimators(
            keys=["k"], models={("k0",): model}, features=["x"], task="regression", name="g"
        )
        workspace.register(fleet)
        workspace.promote("g", 1)
        if said is not None:
            with pytest.raises(InvalidInput, match=said):
                workspace.score(job)
        else:
            workspace.score(job)
            assert [row["_row"] for row in records(tmp_path / "out.jsonl")] == [1]
