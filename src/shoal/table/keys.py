"""Segment keys as canonical bytes: what is hashed, stored in the index, and compared.

A key is the concatenation, over the fleet's key columns in order, of

===  ==================================================================================
tag  then
===  ==================================================================================
0    nothing: the level leaves this column out
1    a text: its length in bytes as uint32, then UTF-8
2    an integer: int64
3    a boolean: one byte
4    a date: days since 1970-01-01 as int32
5    nothing: the value is missing; no stored key has it, so such a row finds no model
===  ==================================================================================

all little-endian. The encoding is injective, so equal bytes are equal keys. It is part of the index format.
"""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.table.hashing import BOOLEAN, DATE, INTEGER, LEFT_OUT, SLACK, TEXT, key_lengths, write_keys
from shoal.table.texts import READINGS, read_integers, whole
from shoal.types import Bytes, Integers, Key, KeyColumn, KeyType, KeyValue, Level

DTYPES: Final[dict[KeyType, pl.DataType]] = {
    KeyType.STRING: pl.String(),
    KeyType.INTEGER: pl.Int64(),
    KeyType.BOOLEAN: pl.Boolean(),
    KeyType.DATE: pl.Date(),
}
TAGS: Final = {KeyType.STRING: TEXT, KeyType.INTEGER: INTEGER, KeyType.BOOLEAN: BOOLEAN, KeyType.DATE: DATE}
ANY: Final = "*"

Flags = NDArray[np.bool_]

_NEWEST = pl.CompatLevel.newest()  # texts as views


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedKeys:
    """Canonical bytes of many keys.

    Attributes
    ----------
    data : ndarray of uint8
        All keys, one behind the other.
    offsets : ndarray of int64, shape (keys + 1,)
        Key ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
    """

    data: Bytes
    offsets: Integers

    def __len__(self) -> int:
        return len(self.offsets) - 1


def coerce(column: pl.Series, key: KeyColumn) -> tuple[pl.Series, Flags | None]:
    """Bring a column to its key's type, each value by itself; texts as :mod:`shoal.table.texts` says.

    A double from 2^53 on may stand for several integers and is none; NaN is missing, also as a text among integers.

    Returns
    -------
    series : polars.Series
        Of the key's type; null where the value is missing or cannot be one of that type.
    wrong : ndarray of bool, shape (rows,), or None
        Where a value is there but of the wrong type; None if nowhere.

    Raises
    ------
    InvalidInput
        The whole column has a type that no key of this type can come from.
    """
    target = DTYPES[key.type]
    if column.dtype == target:
        return column, None
    source = pl.String() if column.dtype in (pl.Categorical, pl.Enum) else column.dtype
    if column.dtype != source:
        column = column.cast(source)
    if column.dtype == pl.Null:
        return column.cast(target), None
    if not _convertible(source, key.type):
        raise InvalidInput(
            f"key column {key.name!r} is {column.dtype}, but the fleet's keys are {key.type}: cast it before scoring"
        )
    if source.is_float():
        column = column.fill_nan(None)
    coerced = _cast(column, key.type)
    if coerced.null_count() == column.null_count():
        return coerced, None
    wrong = coerced.is_null() & column.is_not_null()
    if key.type is KeyType.INTEGER and source == pl.String:
        wrong &= ~column.cast(pl.Float64, strict=False).is_nan().fill_null(False)
    return coerced, wrong.to_numpy() if wrong.any() else None


def _convertible(source: pl.DataType, target: KeyType) -> bool:
    if target is KeyType.STRING:
        return source.is_integer() or source in (pl.Boolean, pl.Date, pl.String)
    if target is KeyType.INTEGER:
        return source.is_numeric() or source == pl.String
    if target is KeyType.DATE:
        return source == pl.String or isinstance(source, pl.Datetime)
    return source == pl.String


def _cast(column: pl.Series, target: KeyType) -> pl.Series:
    if column.dtype == pl.String and target is KeyType.INTEGER:
        return read_integers(column)
    if column.dtype == pl.String and target in READINGS:
        return pl.select(READINGS[target](pl.lit(column)).alias(column.name)).to_series()
    if target is KeyType.INTEGER and column.dtype.is_float():
        return pl.select(whole(pl.lit(column)).alias(column.name)).to_series()
    return column.cast(DTYPES[target], strict=False)


def encode(columns: Sequence[KeyColumn], frame: pl.DataFrame, level: Level) -> EncodedKeys:
    """Encode the keys of a frame's rows at one level.

    Parameters
    ----------
    columns : sequence of KeyColumn
        The fleet's key columns.
    frame : polars.DataFrame
        Holds the level's columns in exactly the keys' types.
    level : Level
        Which of the columns take part.
    """
    rows = KeyRows.of(columns, frame, level)
    offsets = np.zeros(frame.height + 1, dtype=np.int64)
    key_lengths(rows.columns, offsets[1:])
    np.cumsum(offsets, out=offsets)
    data = np.empty(int(offsets[-1]) + SLACK, dtype=np.uint8)
    write_keys(rows.columns, rows.buffers, offsets, data)
    return EncodedKeys(data=data[: offsets[-1]], offsets=offsets)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRows:
    """The key columns of rows where they lie, for kernels that encode them; no text is copied.

    Attributes
    ----------
    columns : ndarray of uint64, shape (key columns, 4)
        See :func:`shoal.table.hashing.write_keys`.
    buffers : ndarray of uint64
        Addresses of the buffers that long texts are in.
    owners : tuple
        Keep all of that memory alive.
    """

    columns: NDArray[np.uint64]
    buffers: NDArray[np.uint64]
    owners: tuple[object, ...]

    @classmethod
    def of(cls, columns: Sequence[KeyColumn], frame: pl.DataFrame, level: Level) -> "KeyRows":
        """The key columns of a frame; parameters as of :func:`encode`."""
        return cls.of_series(columns, [frame.get_column(c.name) if c.name in level else None for c in columns], level)

    @classmethod
    def of_series(cls, columns: Sequence[KeyColumn], keys: "Sequence[pl.Series | None]", level: Level) -> "KeyRows":
        """Key columns as they are, one per column of ``columns``; those that the level leaves out are not looked at."""
        described: list[tuple[int, int, int, int]] = []
        buffers: list[int] = []
        owners: list[object] = []
        for column, series in zip(columns, keys, strict=True):
            if series is None or column.name not in level:
                described.append((LEFT_OUT, 0, 0, 0))
                continue
            values, arrow = _values(series if column.type is KeyType.STRING else series.cast(pl.Int64))
            present = series.is_not_null().to_numpy() if series.null_count() else None
            valid = 0 if present is None else present.ctypes.data
            described.append((TAGS[column.type], values, valid, len(buffers)))
            # A column without rows, or with short texts only, has no buffers.
            buffers += [buffer.address for buffer in arrow.buffers()[2:]]
            owners += [arrow, present]
        return cls(
            columns=np.array(described, dtype=np.uint64).reshape(-1, 4),
            buffers=np.array(buffers, dtype=np.uint64),
            owners=tuple(owners),
        )


def _values(series: pl.Series) -> tuple[int, pa.Array]:
    """The address of a column's first value, be it a number or the view of a text, and what keeps it alive."""
    arrow = series.to_arrow(compat_level=_NEWEST)
    values = arrow.buffers()[1]
    width = 16 if series.dtype == pl.String else 8
    return (values.address if values is not None else 0) + width * arrow.offset, arrow


def frame_of_keys(columns: Sequence[KeyColumn], level: Level, keys: Sequence[Key]) -> pl.DataFrame:
    """Keys of one level as a frame with the level's columns.

    Raises
    ------
    InvalidInput
        A key has the wrong number of values, a missing value, or one of the wrong type.
    """
    chosen = [column for column in columns if column.name in level]
    for key in keys:
        check_key(chosen, key)
    series = [pl.Series(c.name, [key[i] for key in keys], dtype=DTYPES[c.type]) for i, c in enumerate(chosen)]
    return frame_of(series, len(keys))


def frame_of(columns: Sequence[pl.Series], height: int) -> pl.DataFrame:
    """A frame of these columns that knows its height also where there are none: a fleet of one model has no key."""
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=height)


def check_key(columns: Sequence[KeyColumn], key: Key) -> None:
    """Refuse a key that does not fit the key columns.

    Raises
    ------
    InvalidInput
        Says which column and value.
    """
    names = [column.name for column in columns]
    if not isinstance(key, tuple) or len(key) != len(names):
        raise InvalidInput(f"key {key!r} must be a tuple of {len(names)} value(s), for {names}")
    for column, value in zip(columns, key, strict=True):
        if key_type(value) is not column.type:
            raise InvalidInput(
                f"key {key!r}: {value!r} ({type(value).__name__}) is no {column.type} that {column.name!r} can hold"
            )


def require_same_key(frame: pl.DataFrame, said: Sequence[tuple[KeyColumn, KeyValue]]) -> None:
    """Refuse rows for a single model that are another segment's; key columns may be left out.

    Parameters
    ----------
    frame : polars.DataFrame
        The rows.
    said : sequence of (KeyColumn, value)
        The key of the model.

    Raises
    ------
    InvalidInput
        Names the first such row.
    """
    for column, value in said:
        if column.name not in frame.columns:
            continue
        own = coerce(pl.Series([value]), column)[0]
        other = coerce(frame[column.name], column)[0].ne_missing(own).arg_true()
        if len(other):
            given = frame[column.name][int(other[0])]
            raise InvalidInput(
                f"row {other[0]}: key column {column.name!r} is {given!r}, and this is the model of {own[0]!r}; leave "
                "the column out, or ask the fleet"
            )


def key_type(value: object) -> KeyType | None:
    """The key type a value has, or None if it can be no key."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return KeyType.BOOLEAN
    if isinstance(value, int):
        return KeyType.INTEGER if -(2**63) <= value < 2**63 else None
    if isinstance(value, str):
        return KeyType.STRING if _is_unicode(value) else None
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return KeyType.DATE
    return None


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def key_text(columns: Sequence[KeyColumn], level: Level, key: Key) -> str:
    """A key as people and addresses write it: percent-encoded values joined by colons, ``*`` for a left-out column.

    Examples
    --------
    >>> origin, dest = (KeyColumn(name=n, type=KeyType.STRING) for n in ("origin", "dest"))
    >>> key_text([origin, dest], ("dest",), ("LAX",))
    '*:LAX'
    """
    values = iter(key)
    return ":".join(quote(_text(next(values)), safe="") if c.name in level else ANY for c in columns)


def level_name(level: Level) -> str:
    """A level as people read it: its key columns joined by ``+``, ``global`` for none."""
    return "+".join(level) or "global"


def _text(value: KeyValue) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, bool) else str(value)
