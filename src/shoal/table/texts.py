"""How a text is read where a key or a number belongs: each by itself, whatever stands beside it.

Files, tensors, addresses and command lines bring texts; all of them go through here, so that a value means the same
wherever it is written. A text that cannot be read is null.
"""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

from shoal.types import KeyType

INEXACT: Final = 2**53
"""From here on a double stands for more than one integer, and so for none."""

PLAIN_DATE: Final = "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
_DATE: Final = f"^({PLAIN_DATE})(?:[T ][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(?:[.][0-9]{{1,9}})?)?$"
_one_date: Final = re.compile(_DATE)


def integers(text: pl.Expr) -> pl.Expr:
    """Whole numbers: as they are, or with a point or an exponent (``1.0``, ``1e3``) if they are below 2^53."""
    return pl.coalesce(text.cast(pl.Int64, strict=False), whole(text.cast(pl.Float64, strict=False)))


def whole(number: pl.Expr) -> pl.Expr:
    """Doubles that stand for one integer as that integer."""
    exact = number.is_finite() & (number == number.floor()) & (number.abs() < INEXACT)
    return pl.when(exact).then(number).otherwise(None).cast(pl.Int64, strict=False)


def booleans(text: pl.Expr) -> pl.Expr:
    """``true`` and ``false``, in capitals or not."""
    words = {"true": True, "false": False}
    return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


def dates(text: pl.Expr) -> pl.Expr:
    """``2026-01-31``, or the day of ``2026-01-31 07:00:00``."""
    return text.str.extract(_DATE).str.to_date("%Y-%m-%d", strict=False)


def date_of(text: str) -> dt.date | None:
    """What :func:`dates` makes of one text."""
    found = _one_date.fullmatch(text)
    try:
        return None if found is None else dt.date(*map(int, found[1].split("-")))
    except ValueError:
        return None


def numbers(text: pl.Expr) -> pl.Expr:
    """Doubles; ``true`` and ``false`` are 1 and 0."""
    return pl.coalesce(text.cast(pl.Float64, strict=False), booleans(text).cast(pl.Float64))


READINGS: Final[Mapping[KeyType, Callable[[pl.Expr], pl.Expr]]] = {
    KeyType.INTEGER: integers,
    KeyType.BOOLEAN: booleans,
    KeyType.DATE: dates,
}
"""How a key column of each type reads texts; texts stay what they are."""


def read_integers(column: pl.Series) -> pl.Series:
    """:func:`integers` of a column, at once where all of it are digits."""
    return _read(column, pl.Int64(), integers)


def read_numbers(column: pl.Series) -> pl.Series:
    """:func:`numbers` of a column, at once where all of it are numbers."""
    return _read(column, pl.Float64(), numbers)


def _read(column: pl.Series, dtype: pl.DataType, reading: Callable[[pl.Expr], pl.Expr]) -> pl.Series:
    plain = column.cast(dtype, strict=False)
    if plain.null_count() == column.null_count():
        return plain
    return pl.select(reading(pl.lit(column)).alias(column.name)).to_series()
