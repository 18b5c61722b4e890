"""Packing scikit-learn's scalers, in the very order and with the very operations that they use."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shoal.families.columns import Column, ProgramWriter
from shoal.kernels.program import Op


def write_standard(
    writer: ProgramWriter, columns: Sequence[Column], scaler: object, part: str, *, sparse: bool
) -> list[Column]:
    """``StandardScaler``: subtract the mean, then divide by the deviation."""
    if scaler.with_mean:  # type: ignore[attr-defined]
        columns = _each(writer, Op.SUBTRACT, columns, scaler.mean_, f"{part}, mean_")  # type: ignore[attr-defined]
    scale = scaler.scale_ if scaler.with_std else None  # type: ignore[attr-defined]
    return _divided(writer, columns, scale, f"{part}, scale_", sparse=sparse)


def write_robust(
    writer: ProgramWriter, columns: Sequence[Column], scaler: object, part: str, *, sparse: bool
) -> list[Column]:
    """``RobustScaler``: subtract the median, then divide by the quantile range."""
    if scaler.with_centering and not sparse:  # type: ignore[attr-defined]
        columns = _each(writer, Op.SUBTRACT, columns, scaler.center_, f"{part}, center_")  # type: ignore[attr-defined]
    scale = scaler.scale_ if scaler.with_scaling else None  # type: ignore[attr-defined]
    return _divided(writer, columns, scale, f"{part}, scale_", sparse=sparse)


def write_max_abs(
    writer: ProgramWriter, columns: Sequence[Column], scaler: object, part: str, *, sparse: bool
) -> list[Column]:
    """``MaxAbsScaler``: divide by the largest magnitude, perhaps clip."""
    scale = scaler.scale_  # type: ignore[attr-defined]
    columns = _divided(writer, columns, scale, f"{part}, scale_", sparse=sparse)
    if getattr(scaler, "clip", False):
        columns = _clipped(writer, columns, -1.0, 1.0, f"{part}, clip")
    return list(columns)


def write_min_max(
    writer: ProgramWriter, columns: Sequence[Column], scaler: object, part: str, *, sparse: bool
) -> list[Column]:
    """``MinMaxScaler``: multiply, add, perhaps clip. Sparse input never reaches it: scikit-learn refuses it."""
    columns = _each(writer, Op.MULTIPLY, columns, scaler.scale_, f"{part}, scale_")  # type: ignore[attr-defined]
    columns = _each(writer, Op.ADD, columns, scaler.min_, f"{part}, min_")  # type: ignore[attr-defined]
    if scaler.clip:  # type: ignore[attr-defined]
        low, high = scaler.feature_range  # type: ignore[attr-defined]
        columns = _clipped(writer, columns, low, high, f"{part}, feature_range")
    return list(columns)


def _divided(
    writer: ProgramWriter,
    columns: Sequence[Column],
    scale: NDArray[np.generic] | None,
    part: str,
    *,
    sparse: bool,
) -> list[Column]:
    """Divide; sparse columns are multiplied by the reciprocal, which is how scikit-learn scales them."""
    if scale is None:
        return list(columns)
    if sparse:
        return _each(writer, Op.MULTIPLY, columns, 1.0 / np.asarray(scale), part)
    return _each(writer, Op.DIVIDE, columns, scale, part)


def _each(
    writer: ProgramWriter, op: Op, columns: Sequence[Column], numbers: NDArray[np.generic], part: str
) -> list[Column]:
    """Apply ``op`` to every column; padding gets the operation's neutral number and stays 0."""
    neutral = 1.0 if op in (Op.DIVIDE, Op.MULTIPLY) else 0.0
    values = iter(numbers.tolist())
    return [writer.calculate(op, column, part, neutral if column.padding else next(values)) for column in columns]


def _clipped(writer: ProgramWriter, columns: Sequence[Column], low: float, high: float, part: str) -> list[Column]:
    return [
        writer.calculate(Op.CLIP, column, part, *((0.0, 0.0) if column.padding else (low, high))) for column in columns
    ]
