"""Packing scikit-learn's OneHotEncoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.categories import known_value, padded, write_look_up
from shoal.families.columns import Column, Number, ProgramWriter
from shoal.kernels.program import Op

NONE, REFUSE = -1, -2
"""Columns of an unknown category: all zeros, or the row cannot be scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Coding:
    """One input column's categories with their output columns (-1: dropped)."""

    values: list[Number]
    columns: list[int]
    unknown: int
    width: int


def write_one_hot(writer: ProgramWriter, columns: Sequence[Column], encoder: object, part: str) -> list[Column]:
    """Replace every column by its one-hot columns, padded."""
    dtype = np.dtype(getattr(encoder, "dtype", np.float64))
    if dtype.kind not in "iub" and dtype != np.float64:
        raise UnsupportedEstimator(f"{part}, parameter dtype", f"{dtype} is not packed; use float64")
    outputs: list[Column] = []
    for position, column in enumerate(_real(columns)):
        outputs += _write_column(writer, column, _coding(encoder, position, part), part)
    return outputs


def _real(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if not column.padding]


def _write_column(writer: ProgramWriter, column: Column, coding: _Coding, part: str) -> list[Column]:
    width = padded(coding.width)
    source = writer.load(column)
    first = writer.reserve(width)
    outputs = [
        Column(feature=column.feature, place=first + i, raw=False, binary=True, padding=i >= coding.width)
        for i in range(width)
    ]
    write_look_up(
        writer, Op.ONEHOT, source, outputs[0], coding.values, coding.columns,
        unknown=coding.unknown, width=width, part=part,
    )  # fmt: skip
    return outputs


def _coding(encoder: object, position: int, part: str) -> _Coding:
    categories = encoder.categories_[position]  # type: ignore[attr-defined]
    grouped, infrequent = _grouping(encoder, position, len(categories))
    dropped = _dropped(encoder, position)
    columns = [_shifted(group, dropped) for group in grouped]
    return _Coding(
        values=[known_value(value, f"{part}, categories_[{position}]") for value in categories],
        columns=columns,
        unknown=_unknown(encoder, infrequent, dropped),
        width=len({column for column in columns if column >= 0}),
    )


def _grouping(encoder: object, position: int, count: int) -> tuple[list[int], int | None]:
    """Each category's column before dropping, and the column of the infrequent ones."""
    if getattr(encoder, "_infrequent_enabled", False):
        mapping = encoder._default_to_infrequent_mappings[position]  # type: ignore[attr-defined]
        if mapping is not None:
            return [int(group) for group in mapping], int(max(mapping))
    return list(range(count)), None


def _dropped(encoder: object, position: int) -> int | None:
    """The column that ``drop`` leaves out, after infrequent categories are grouped."""
    dropped = encoder._drop_idx_after_grouping  # type: ignore[attr-defined]
    if dropped is None or dropped[position] is None:
        return None
    return int(dropped[position])


def _shifted(column: int, dropped: int | None) -> int:
    if dropped is None or column < dropped:
        return column
    return NONE if column == dropped else column - 1


def _unknown(encoder: object, infrequent: int | None, dropped: int | None) -> int:
    handling = encoder.handle_unknown  # type: ignore[attr-defined]
    if handling == "error":
        return REFUSE
    if handling in ("infrequent_if_exist", "warn") and infrequent is not None:
        return _shifted(infrequent, dropped)
    return NONE
