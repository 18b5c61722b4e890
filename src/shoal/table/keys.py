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
from shoal.table.hashing import write_numbers, write_texts
from shoal.types import Bytes, Integers, Key, KeyColumn, KeyType, KeyValue, Level

DTYPES: Final[dict[KeyType, pl.DataType]] = {
    KeyType.STRING: pl.String(),
    KeyType.INTEGER: pl.Int64(),
    KeyType.BOOLEAN: pl.Boolean(),
    KeyType.DATE: pl.Date(),
}
TAGS: Final = {KeyType.INTEGER: (2, 8), KeyType.BOOLEAN: (3, 1), KeyType.DATE: (4, 4)}
ANY: Final = "*"

Flags = NDArray[np.bool_]


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
    """Bring a column to its key's type.

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
    wrong = (coerced.is_null() & column.is_not_null()).to_numpy()
    return coerced, wrong if wrong.any() else None


def _convertible(source: pl.DataType, target: KeyType) -> bool:
    if target is KeyType.STRING:
        return source.is_integer() or source in (pl.Boolean, pl.Date, pl.String)
    if target is KeyType.INTEGER:
        return source.is_numeric() or source == pl.String
    if target is KeyType.DATE:
        return source == pl.String or isinstance(source, pl.Datetime)
    return source == pl.String


def _cast(column: pl.Series, target: KeyType) -> pl.Series:
    if target is KeyType.DATE and column.dtype == pl.String:
        return column.str.to_date("%Y-%m-%d", strict=False)
    if target is KeyType.BOOLEAN:
        words = {"true": True, "false": False}
        return column.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if target is KeyType.INTEGER and column.dtype.is_float():
        whole = column.is_finite() & (column == column.floor())
        return pl.select(pl.when(whole).then(column).otherwise(None)).to_series().cast(pl.Int64, strict=False)
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
    writers = [_Column(column, frame[column.name] if column.name in level else None) for column in columns]
    sizes = [writer.sizes() for writer in writers]
    offsets = np.zeros(frame.height + 1, dtype=np.int64)
    for size in sizes:
        offsets[1:] += size
    np.cumsum(offsets, out=offsets)
    data = np.zeros(int(offsets[-1]), dtype=np.uint8)
    positions = offsets[:-1].copy()
    for writer, size in zip(writers, sizes, strict=True):
        writer.write(positions, data)
        positions += size
    return EncodedKeys(data=data, offsets=offsets)


class _Column:
    """One key column's values as arrays, and how they are written."""

    def __init__(self, column: KeyColumn, series: pl.Series | None) -> None:
        self.column = column
        self.series = series
        if series is None:
            return
        nothing = np.empty(0, dtype=np.uint8)
        self.valid = series.is_not_null().to_numpy().view(np.uint8) if series.null_count() else nothing
        if column.type is KeyType.STRING:
            self.texts = TextViews.of(series)
        else:
            self.numbers = series.to_physical().cast(pl.Int64).fill_null(0).to_numpy()

    def sizes(self) -> Integers | int:
        """Bytes that each row's value takes."""
        if self.series is None:
            return 1
        if self.column.type is KeyType.STRING:
            full: Integers | int = self.texts.lengths() + 5
        else:
            full = 1 + TAGS[self.column.type][1]
        return np.where(self.valid.view(np.bool_), full, 1) if self.valid.size else full

    def write(self, positions: Integers, data: Bytes) -> None:
        """Write every row's value at its position."""
        if self.series is None:
            return  # tag 0 is what the array was made with
        if self.column.type is KeyType.STRING:
            texts = self.texts
            write_texts(texts.views, texts.base, texts.buffers, self.valid, positions, data)
        else:
            write_numbers(self.numbers, self.valid, *TAGS[self.column.type], positions, 0, len(positions), data)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextViews:
    """A text column where it lies: Arrow's views, and the addresses of the buffers that long texts are in.

    Attributes
    ----------
    views : ndarray of uint64, shape (texts, 2)
        16 bytes per text.
    base : uint64
        Address of the first view.
    buffers : ndarray of uint64
        Addresses of the buffers.
    owner : pyarrow.Array
        Keeps all of that memory alive.
    """

    views: NDArray[np.uint64]
    base: np.uint64
    buffers: NDArray[np.uint64]
    owner: pa.Array

    @classmethod
    def of(cls, series: pl.Series) -> "TextViews":
        """The views of a text column, without copying a text."""
        arrow = series.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
        _, views, *buffers = arrow.buffers()
        # A column without rows, or with short texts only, has no buffers; kernels still want an array.
        addresses = np.array(
            [buffer.address if buffer is not None else 0 for buffer in buffers] or [0], dtype=np.uint64
        )
        raw = np.frombuffer(views, dtype=np.uint64) if views is not None else np.empty(0, dtype=np.uint64)
        shown = raw[2 * arrow.offset : 2 * (arrow.offset + len(arrow))].reshape(-1, 2)
        return cls(views=shown, base=np.uint64(shown.ctypes.data), buffers=addresses, owner=arrow)

    def lengths(self) -> Integers:
        """Bytes of each text; whatever a missing one holds."""
        lengths: Integers = (self.views[:, 0] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        return lengths


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


def _text(value: KeyValue) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, bool) else str(value)
