"""A small world for tests of score jobs: a fleet, inputs, and the answers scikit-learn gives for each row."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.linear_model import LinearRegression

import shoal
from shoal.batch.run import Scorer
from shoal.batch.summary import ScoreSummary

FEATURES = ["a", "b"]
DEVICES = ["d0", "d1", "d2", "007"]
KNOWN = [(device, sensor) for device in DEVICES[:3] for sensor in (1, 2)] + [("007", 1)]
SHARD_ROWS = 100


def estimators() -> dict[tuple[str, int], LinearRegression]:
    """One model per known segment; ``("007", 2)`` and device ``d9`` have none."""
    rng = np.random.default_rng(7)
    return {key: fitted(rng) for key in KNOWN}


def fallback() -> LinearRegression:
    """The model of the device ``007`` as a whole."""
    return fitted(np.random.default_rng(8))


def fitted(rng: np.random.Generator) -> LinearRegression:
    X = rng.normal(size=(20, 2))
    return LinearRegression().fit(X, X @ rng.normal(size=2) + rng.normal())


def make_home(home: Path) -> None:
    """A workspace with the fleet ``pumps``, promoted."""
    fleet = shoal.Fleet.from_estimators(
        keys=["device", "sensor"], models=estimators(), features=FEATURES, task="regression",
        fallbacks={("device",): {("007",): fallback()}},
    )  # fmt: skip
    workspace = shoal.open(home)
    workspace.register(fleet, "pumps")
    workspace.promote("pumps", 1)


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    """Input rows: known segments, segments with only a fallback, unknown ones, missing and infinite values."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 2))
    values[rng.random(count) < 0.02, 0] = np.nan
    values[rng.random(count) < 0.02, 1] = np.inf
    return pl.DataFrame({
        "device": rng.choice([*DEVICES, "d9"], count),
        "sensor": rng.integers(1, 3, count),
        "a": values[:, 0],
        "b": values[:, 1],
        "n": np.arange(count),
        "kind": rng.choice(["x", "y"], count),
    })  # fmt: skip


def write_inputs(folder: Path, sizes: tuple[int, ...] = (350, 1, 220)) -> list[Path]:
    """Parquet files of several sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"in-{number}.parquet" for number in range(len(sizes))]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        rows(size, number).write_parquet(path, row_group_size=130)
    return paths


def expected(paths: list[Path]) -> pl.DataFrame:
    """Row id, key, outcome and scikit-learn's prediction of every row, in the order of the input."""
    models = {**estimators(), ("007", 2): fallback()}
    truth = []
    for path in paths:
        for number, row in enumerate(pl.read_parquet(path).iter_rows(named=True)):
            key = (row["device"], row["sensor"])
            model = models.get(key)
            x = np.array([[row["a"], row["b"]]])
            outcome = "no_model" if model is None else "scored" if key in KNOWN else "fallback"
            if model is not None and not np.isfinite(x).all():
                outcome = "invalid"
            value = float(model.predict(x)[0]) if model is not None and outcome in ("scored", "fallback") else None
            truth.append((str(path), number, *key, value, outcome))
    columns = ["_file", "_row", "device", "sensor", "prediction", "outcome"]
    return pl.DataFrame(truth, schema=columns, orient="row", infer_schema_length=None)


def read_output(path: Path) -> pl.DataFrame:
    """The rows of an output, in the order of its files."""
    files = [path] if path.is_file() else sorted(path.rglob("part-*.parquet"), key=lambda file: file.name)
    return pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])


def recount(output: Path, inputs: list[Path], *, ordered: bool = True) -> None:
    """Compare every row of an output with what scikit-learn says of the input, in order."""
    found = read_output(output).select("_file", "_row", "device", "sensor", "prediction", pl.col("outcome").cast(str))
    truth = expected(inputs)
    if not ordered:
        found = found.sort("_file", "_row")
    same = ["_file", "_row", "device", "sensor", "outcome"]
    assert found.select(same).equals(truth.select(same)), "rows or outcomes differ"
    assert found["prediction"].is_null().equals(truth["prediction"].is_null())
    both = np.column_stack([found["prediction"].drop_nulls(), truth["prediction"].drop_nulls()])
    np.testing.assert_allclose(both[:, 0], both[:, 1], rtol=1e-9, atol=1e-9)


def leftovers(output: Path) -> list[Path]:
    """What a run should not have left beside its output."""
    return [path for path in output.parent.iterdir() if path.name.startswith(f".{output.name}")]


def spec(inputs: list[Path] | Path, output: Path, **more: object) -> dict[str, object]:
    listed = [str(path) for path in inputs] if isinstance(inputs, list) else [str(inputs)]
    return {"fleet": "pumps", "input": listed, "output": str(output), "shard_rows": SHARD_ROWS, **more}


def run(home: Path, job: Mapping[str, object]) -> ScoreSummary:
    return shoal.open(home).score(job)


def scorer(home: Path, checkpoint: object = None) -> Scorer:
    workspace = shoal.open(home)
    return Scorer(
        ledger=workspace.ledger, open_fleet=workspace.fleet, serving_of=workspace.serving_of,
        find_source=workspace.source, actor="test", home=home,
        checkpoint=checkpoint or (lambda step: None),  # type: ignore[arg-type]
    )  # fmt: skip
