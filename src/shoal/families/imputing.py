"""Packing scikit-learn's SimpleImputer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.categories import MISSING, claim_values, is_missing, known_value, write_look_up
from shoal.families.columns import Column, Number, ProgramWriter
from shoal.kernels.program import Op


def write_imputer(
    writer: ProgramWriter, columns: Sequence[Column], imputer: object, part: str, *, sparse: bool
) -> list[Column]:
    """Fill what is missing, leave out columns that were never observed, and append the indicators."""
    del sparse  # the same values either way
    missing = known_value(imputer.missing_values, f"{part}, missing_values")  # type: ignore[attr-defined]
    columns = [_checked(writer, writer.load(column), missing, part) for column in columns]
    indicators = _indicators(writer, columns, imputer, missing, part)
    fillings = iter(_fillings(imputer, part))
    filled: list[Column] = []
    for column in columns:
        if column.padding:
            filled.append(_filled(writer, column, missing, 0.0, part))
        elif (filling := next(fillings)) is not None:
            filled.append(_filled(writer, column, missing, filling, part))
    return filled + indicators


def _checked(writer: ProgramWriter, column: Column, missing: Number, part: str) -> Column:
    """Note what the column is compared with; scikit-learn takes no NaN where another number means missing."""
    claim_values(writer, column, [missing], part)
    if isinstance(missing, float) and missing != MISSING:
        writer.write(Op.REQUIRE, column)
    return column


def _filled(writer: ProgramWriter, column: Column, missing: Number, filling: Number, part: str) -> Column:
    claim_values(writer, column, [filling], part)
    if missing == MISSING:
        writer.write(Op.IMPUTE, column, [filling], coded=range(1) if column.raw else None)
    else:
        writer.write(Op.REPLACE, column, [missing, filling], coded=range(2) if column.raw else None)
    return replace(column, binary=False)


def _fillings(imputer: object, part: str) -> list[Number | None]:
    """Per input column, what it is filled with; None where the column is left out."""
    keep = bool(imputer.keep_empty_features)  # type: ignore[attr-defined]
    constant = imputer.strategy == "constant"  # type: ignore[attr-defined]
    if constant and imputer.fill_value is not None and is_missing(imputer.fill_value):  # type: ignore[attr-defined]
        raise UnsupportedEstimator(f"{part}, fill_value", "is missing itself; fill with a number or a text")
    dtype = getattr(imputer, "_fill_dtype", np.dtype(object))
    statistics = imputer.statistics_  # type: ignore[attr-defined]
    return [_filling(value, dtype, keep=keep, part=part) for value in statistics]


def _filling(value: object, dtype: np.dtype[np.generic], *, keep: bool, part: str) -> Number | None:
    if is_missing(value):
        if keep:
            raise UnsupportedEstimator(f"{part}, statistics_", "has a missing value for a column that is kept")
        return None
    cast = np.asarray(value).astype(dtype).item() if dtype.kind in "iuf" else value
    return known_value(cast, f"{part}, statistics_")


def _indicators(
    writer: ProgramWriter, columns: Sequence[Column], imputer: object, missing: Number, part: str
) -> list[Column]:
    """One 0/1 column per input column; those that the imputer does not add are padding, multiplied to 0."""
    indicator = getattr(imputer, "indicator_", None)
    if indicator is None:
        return []
    added = set(np.asarray(indicator.features_).tolist())
    real = [i for i, column in enumerate(columns) if not column.padding]
    wanted = {real[position] for position in added}
    return [_indicator(writer, column, missing, part, padding=i not in wanted) for i, column in enumerate(columns)]


def _indicator(writer: ProgramWriter, source: Column, missing: Number, part: str, *, padding: bool) -> Column:
    column = Column(feature=source.feature, place=writer.reserve(), raw=False, binary=True, padding=padding)
    if missing == MISSING:
        writer.write(Op.INDICATOR, column, source=source.place)
    else:
        write_look_up(writer, Op.ONEHOT, source, column, [missing], [0], unknown=-1, part=part)
    writer.write(Op.MULTIPLY, column, [0.0 if padding else 1.0])
    return column
