"""Rows for the tests of the command."""

import datetime as dt

import numpy as np
import polars as pl


def sales() -> pl.DataFrame:
    """Three shops with slopes of their own, and one with too few rows."""
    rng = np.random.default_rng(4)
    first = dt.date(2026, 1, 1)
    parts = [
        pl.DataFrame({
            "shop": shop,
            "day": [first + dt.timedelta(days=int(day)) for day in rng.integers(0, 365, rows)],
            "x": rng.normal(size=rows),
        }).with_columns(y=pl.col("x") * slope)
        for shop, slope, rows in (("a", 2.0, 150), ("b", -2.0, 150), ("c", 4.0, 150), ("tiny", 3.0, 8))
    ]  # fmt: skip
    frame = pl.concat(parts)
    return frame.with_columns(y=pl.col("y") + rng.normal(scale=0.1, size=frame.height))


def candidates() -> list[object]:
    """A ridge of two strengths."""
    return [{"name": "ridge", "steps": ["sklearn.linear_model.Ridge"], "grid": {"alpha": [0.1, 10.0]}}]
