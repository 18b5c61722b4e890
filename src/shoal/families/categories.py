"""The values that encoders and imputers know: texts, numbers, and the missing value."""

import math
from dataclasses import replace

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.columns import Column, Number, ProgramWriter
from shoal.families.names import class_name
from shoal.kernels.program import Op
from shoal.types import FeatureKind

SMALLEST = 4
"""Lists of categories are padded to powers of two from here on, so that many models share a layout."""

MISSING = math.inf
"""How a missing value stands in a list of categories."""


def padded(size: int) -> int:
    """The length that a list of this size is padded to."""
    return max(SMALLEST, 1 << max(size - 1, 0).bit_length())


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN or pandas' NA."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return True
    return class_name(value) == "pandas.NAType"


def known_value(value: object, part: str) -> Number:
    """A category or filling value as the program's number: a text, a finite number, or ``MISSING``."""
    if isinstance(value, str):
        return str(value)
    if is_missing(value):
        return MISSING
    if isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating):
        number = float(value)
        if math.isfinite(number) and number == value:
            return number
    raise UnsupportedEstimator(part, f"has the value {value!r}; only text, finite numbers and booleans can be packed")


def claim_values(writer: ProgramWriter, column: Column, values: list[Number], part: str) -> None:
    """Settle whether a column is text or numeric by the values that it is compared with."""
    texts = any(isinstance(value, str) for value in values)
    if texts and any(isinstance(value, float) and math.isfinite(value) for value in values):
        raise UnsupportedEstimator(part, "mixes text and numbers; make the column one or the other")
    if values.count(MISSING) > 1:
        raise UnsupportedEstimator(part, "has None and NaN as two categories; replace one by the other before fitting")
    if texts and not column.raw:
        raise UnsupportedEstimator(part, "compares text with a column that holds numbers")
    if column.raw and (texts or any(value != MISSING for value in values)):
        writer.claim(column.feature, FeatureKind.CATEGORY if texts else FeatureKind.NUMERIC)


def write_look_up(
    writer: ProgramWriter,
    op: Op,
    source: Column,
    target: Column,
    values: list[Number],
    columns: list[int],
    *,
    unknown: int,
    width: int = 1,
    part: str,
) -> None:
    """Write an ONEHOT or ENCODE step: ascending values, each with its column, padded."""
    claim_values(writer, source, values, part)
    order = sorted(range(len(values)), key=lambda i: (values[i] == MISSING, values[i]))
    count = padded(len(values))
    padding = count - len(values)
    entries: list[Number] = [*(values[i] for i in order), *[math.nan] * padding]
    places = [*(float(columns[i]) for i in order), *[-1.0] * padding]
    coded = range(1, 1 + count) if source.raw else None
    writer.write(
        op, replace(target, feature=source.feature), [float(unknown), *entries, *places],
        source=source.place, width=width, count=count, coded=coded,
    )  # fmt: skip
