"""Turning a frame of raw rows into what scikit-learn and what a kernel takes."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.families.composition import raw_names
from shoal.families.stacking import StackedModels
from shoal.types import Feature, FeatureKind, Floats

Rows: TypeAlias = pl.DataFrame | NDArray[np.float64] | NDArray[np.object_]
"""Raw rows: a frame with the features as columns, or an array of shape (rows, features)."""


def as_frame(rows: Rows, features: Sequence[str]) -> pl.DataFrame:
    """The rows as a Polars frame with the features as columns; NaN in numbers stays NaN."""
    if isinstance(rows, pl.DataFrame):
        return rows.select(features)
    return pl.DataFrame([_series(name, rows[:, i]) for i, name in enumerate(features)])


def _series(name: str, column: NDArray[np.generic]) -> pl.Series:
    if column.dtype == object:
        values = [None if isinstance(value, float) and np.isnan(value) else value for value in column.tolist()]
        return pl.Series(name, values, strict=True)
    return pl.Series(name, np.ascontiguousarray(column))


def as_fitted(frame: pl.DataFrame, estimator: object) -> pl.DataFrame | NDArray[np.generic]:
    """The rows as the estimator was fitted: a frame with its names in their order, or an array."""
    names = raw_names(estimator)
    if names is not None:
        return frame.select(names).with_columns(pl.selectors.numeric().fill_null(np.nan))
    if all(dtype.is_numeric() or dtype == pl.Boolean for dtype in frame.dtypes):
        return frame.select(pl.all().cast(pl.Float64).fill_null(np.nan)).to_numpy()
    return np.array(frame.rows(), dtype=object).reshape(frame.shape)


def as_batch_columns(frame: pl.DataFrame, stacked: StackedModels) -> Floats:
    """The rows as ``Batch.X``, shape (features, rows)."""
    layout = stacked.layout
    columns = [_column(frame[f.name], f, stacked.categories[i]) for i, f in enumerate(layout.features)]
    return np.array(columns, dtype=np.float64).reshape(len(layout.features), len(frame))


def _column(values: pl.Series, feature: Feature, categories: Sequence[str]) -> Floats:
    if feature.kind is FeatureKind.NUMERIC:
        return values.cast(pl.Float64).fill_null(np.nan).to_numpy()
    codes = {text: float(code) for code, text in enumerate(categories)}
    return np.array([np.nan if text is None else codes.get(text, -1.0) for text in values.to_list()], dtype=np.float64)
