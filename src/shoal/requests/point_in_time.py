"""Features as they were: rows joined with what a source said at each row's own time, never later.

Training and jobs use this; serving asks a source for the same at the present time. All choose among a key's rows by
the same words: the newest that does not lie after the time, not older than ``max_age_s``; of several of that very time,
the greatest by its values in the order of the spec, where null is below all.
"""

import datetime as dt
from collections.abc import Mapping, Sequence

import polars as pl

from shoal.errors import InvalidInput
from shoal.requests.spec import LookupSpec
from shoal.storage.lookup_reader import moment
from shoal.table.keys import DTYPES, coerce
from shoal.types import KeyColumn, KeyType

_TIME = "_shoal_time"
_SOURCE_TIME = "_shoal_as_of"
_ROW = "_shoal_row"

FOUND = "_shoal_found"
"""Column that says whether the source had anything."""


def ordered(
    history: pl.DataFrame, keys: Mapping[str, KeyType], values: Sequence[str], as_of: str | None
) -> pl.DataFrame:
    """A source's rows by key, time and values, so that the one that counts is the last at or before a time.

    Rows without a whole key or without a time are left out. Keys get their types, numbers become doubles and NaN null;
    the time becomes microseconds since 1970, rounded up, in the column ``as_of``.

    Raises
    ------
    InvalidInput
        A key cannot be of its type, or a time is none.
    """
    columns = [coerce(history[name], KeyColumn(name=name, type=kind))[0] for name, kind in keys.items()]
    times = [] if as_of is None else [microseconds(history[as_of], up=True).alias(as_of)]
    features = [_plain(history[name]) for name in values if name not in keys]
    usable = pl.DataFrame([*columns, *times, *features]).drop_nulls([*keys, *([as_of] if as_of else [])])
    return usable.sort(usable.columns, nulls_last=False)


def _plain(column: pl.Series) -> pl.Series:
    """A column's numbers as the doubles that models see."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64).fill_nan(None)
    return column.cast(pl.String) if column.dtype in (pl.Categorical, pl.Enum) else column


def microseconds(times: pl.Series, *, up: bool) -> pl.Series:
    """Times of any kind as microseconds since 1970, UTC; nanoseconds are rounded.

    Raises
    ------
    InvalidInput
        Some are no times.
    """
    if isinstance(times.dtype, pl.Datetime):
        if times.dtype.time_unit == "ns":
            raw = times.cast(pl.Int64)
            return (raw + 999 if up else raw) // 1000
        return times.cast(pl.Datetime("us")).cast(pl.Int64)
    if times.dtype == pl.Date:
        return times.cast(pl.Datetime("us")).cast(pl.Int64)
    if times.dtype == pl.Null:
        return times.cast(pl.Int64)
    known = times.unique().drop_nulls()
    moments = [moment(value) for value in known]
    return times.replace_strict(known, pl.Series([_microseconds(m) for m in moments], dtype=pl.Int64), default=None)


def join(frame: pl.DataFrame, history: pl.DataFrame, lookup: LookupSpec, time: str | None) -> pl.DataFrame:
    """Give every row the features that the source had for its key at its time.

    Parameters
    ----------
    frame : polars.DataFrame
        Holds the lookup's key columns and ``time``.
    history : polars.DataFrame
        The source's rows, see :meth:`shoal.storage.lookup_reader.Reader.history`.
    lookup : LookupSpec
        Which columns are which, how old a row may be, and the defaults.
    time : str or None
        The frame's column with each row's time; None joins features that never change.

    Returns
    -------
    polars.DataFrame
        The frame in its order with the features; null, or the default, where the source had nothing.

    Raises
    ------
    InvalidInput
        Columns are missing, or of types that cannot be compared.
    """
    _require(frame, [*lookup.keys, *([time] if time else [])], "the input")
    as_of = lookup.as_of if time is not None else None
    _require(history, [*lookup.keys.values(), *lookup.features.values(), *([as_of] if as_of else [])], "the source")
    types = {source: key_type_of(name, frame.schema[name]) for name, source in lookup.keys.items()}
    keys = frame.select(pl.col(name).cast(DTYPES[kind]) for name, kind in zip(lookup.keys, types.values(), strict=True))
    times = None if time is None else microseconds(frame[time], up=False)
    found = matched(keys, times, history, lookup, types)
    features = [_with_default(found[name], lookup) for name in lookup.features]
    return frame.drop(list(lookup.features), strict=False).with_columns(features)


def matched(
    keys: pl.DataFrame, times: pl.Series | None, history: pl.DataFrame, lookup: LookupSpec, types: Mapping[str, KeyType]
) -> pl.DataFrame:
    """What the source had for each key at its time.

    Parameters
    ----------
    keys : polars.DataFrame
        The lookup's key columns in their types.
    times : polars.Series or None
        When, in microseconds since 1970; null finds nothing. None takes features that never change.
    history : polars.DataFrame
        The source's rows.
    lookup : LookupSpec
        Which columns are which, and how old a row may be.
    types : mapping of str to KeyType
        The types of the keys, as the source calls them.

    Returns
    -------
    polars.DataFrame
        In the order of the keys: the features as the source has them, numbers as doubles, and :data:`FOUND`.
    """
    as_of = None if times is None else lookup.as_of
    past = ordered(history, types, list(lookup.features.values()), as_of)
    by = [f"_shoal_key_{i}" for i in range(len(types))]
    named = past.select(
        *(pl.col(source).alias(key) for key, source in zip(by, types, strict=True)),
        *([pl.col(as_of).alias(_SOURCE_TIME)] if as_of else []),
        *(pl.col(source).alias(name) for name, source in lookup.features.items()),
        pl.lit(True).alias(FOUND),
    )
    rows = pl.DataFrame([
        pl.int_range(keys.height, eager=True).alias(_ROW),
        *(keys[name].alias(key) for key, name in zip(by, lookup.keys, strict=True)),
        *([] if times is None else [times.alias(_TIME)]),
    ])  # fmt: skip
    found = _latest(rows, named, by) if times is None else _timed(rows, named, by, lookup)
    return found.select(*lookup.features, pl.col(FOUND).fill_null(False))


def key_type_of(name: str, dtype: pl.DataType) -> KeyType:
    """The key type of a column that is looked up by.

    Raises
    ------
    InvalidInput
        It can be no key.
    """
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return KeyType.STRING
    if dtype.is_integer():
        return KeyType.INTEGER
    for plain, key in ((pl.Boolean, KeyType.BOOLEAN), (pl.Date, KeyType.DATE)):
        if dtype == plain:
            return key
    raise InvalidInput(f"{name!r} is {dtype}: look up by a text, an integer, a boolean or a date")


def _timed(rows: pl.DataFrame, past: pl.DataFrame, by: list[str], lookup: LookupSpec) -> pl.DataFrame:
    tolerance = None if lookup.max_age_s is None else round(lookup.max_age_s * 1_000_000)
    newest = past.unique([*by, _SOURCE_TIME], keep="last", maintain_order=True).sort(_SOURCE_TIME)
    known = rows.drop_nulls([_TIME, *by]).sort(_TIME)
    joined = known.join_asof(
        newest, left_on=_TIME, right_on=_SOURCE_TIME, by=by, strategy="backward", tolerance=tolerance,
        check_sortedness=False,
    )  # fmt: skip
    found = joined.select(_ROW, *lookup.features, FOUND)
    return rows.select(_ROW).join(found, on=_ROW, how="left", maintain_order="left")


def _latest(rows: pl.DataFrame, past: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    return rows.join(past.unique(by, keep="last", maintain_order=True), on=by, how="left", maintain_order="left")


def _with_default(column: pl.Series, lookup: LookupSpec) -> pl.Series:
    default = lookup.defaults.get(column.name)
    if default is None:
        return column
    if isinstance(default, str) != (column.dtype == pl.String) and column.dtype != pl.Null:
        raise InvalidInput(f"field 'lookup.defaults.{column.name}': {default!r} does not fit {column.dtype}")
    default = default if isinstance(default, str) else float(default)
    return pl.select(pl.lit(column).fill_null(pl.lit(default)).alias(column.name)).to_series()


def _require(frame: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InvalidInput(f"{what} has no column {missing[0]!r}; it has {', '.join(frame.columns)}")


def _microseconds(time: dt.datetime | None) -> int | None:
    if time is None:
        return None
    since = time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
