"""Small trainings for the tests: data with a known truth, and an engine that needs no processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shoal.engines.contract import Done, Failure, Lost, Work
from shoal.telemetry.progress import SILENT
from shoal.training.levels import Fitted, fit_levels
from shoal.training.plan import Plan, plan
from shoal.training.results import report

RIDGE = {
    "name": "ridge",
    "steps": ["sklearn.preprocessing.StandardScaler", {"sklearn.linear_model.Ridge": {"alpha": 0.5}}],
}
LOGISTIC = {"name": "logistic", "steps": ["sklearn.linear_model.LogisticRegression"]}
SVM = {"name": "svm", "steps": ["sklearn.preprocessing.StandardScaler", {"sklearn.svm.OneClassSVM": {"nu": 0.1}}]}


class InlineEngine:
    """Runs tasks here and now, one after the other, in the order given."""

    def run(self, work: Work[Any, Any, Any], items: Sequence[Any]) -> Iterator[Done[Any] | Lost]:
        task: Callable[[Any], Any] = work.setup(work.context)
        for position, item in enumerate(items):
            try:
                yield Done(position=position, answer=task(item), seconds=0.0)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                yield Lost(position=position, failure=Failure.RAISED, reason=reason, seconds=0.0)

    def close(self) -> None:
        pass


def shops(sizes: Mapping[tuple[str, int], int], *, seed: int = 0) -> pl.DataFrame:
    """Rows per (shop, item): each shop has a slope of its own, all its items share it but for a shift."""
    rng = np.random.default_rng(seed)
    frames = []
    for (shop, item), rows in sizes.items():
        slope = sum(shop.encode()) % 7 - 3
        x, z = rng.normal(size=rows), rng.normal(size=rows)
        frames.append(
            pl.DataFrame(
                {
                    "shop": [shop] * rows,
                    "item": [item] * rows,
                    "day": pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 12, 31), "1d", eager=True).sample(
                        rows, with_replacement=True, seed=seed + item
                    ),
                    "x": x,
                    "z": z,
                    "y": slope * x + z + item + rng.normal(scale=0.1, size=rows),
                }
            )
        )
    return pl.concat(frames)


def spec(source: Path, **changes: object) -> dict[str, object]:
    """A regression over :func:`shops`, with changes; a change of None takes the field out."""
    fields: dict[str, object] = {
        "fleet": "sales",
        "input": str(source),
        "keys": ["shop", "item"],
        "features": ["x", "z"],
        "target": "y",
        "task": "regression",
        "candidates": [RIDGE],
        "metric": "mae",
        "fallback": [["shop"], []],
        "minimum_rows": 20,
        "keep": {"minimum_validation_rows": 5},
        "seed": 3,
    }
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not None}


def saved(frame: pl.DataFrame, folder: Path, name: str = "rows.parquet") -> Path:
    """Write a frame where a spec can name it."""
    frame.write_parquet(folder / name)
    return folder / name


def run(document: Mapping[str, object], folder: Path, engine: Any = None) -> tuple[Plan, Fitted, pl.DataFrame]:
    """Plan and fit; returns the report as well."""
    planned = plan(document)
    work = folder / "work"
    work.mkdir()
    fitted = fit_levels(planned, work, engine or InlineEngine(), SILENT)
    return planned, fitted, report(planned, fitted)
