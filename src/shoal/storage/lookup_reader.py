"""What every kind of source that features are looked up in can do."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import polars as pl

from shoal.errors import InvalidInput, StorageError
from shoal.types import Key, KeyType

Values: TypeAlias = tuple[object, ...]
"""What a source has for a key: a value for each column that is wanted, then the time if there is one."""

Found: TypeAlias = "Values | StorageError | None"
"""What is known of a key: values, nothing, or why it could not be found out for this key alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What to read of a source.

    Attributes
    ----------
    keys : mapping of str to KeyType
        Its columns that a key is made of, in order, and the types of a key's values.
    values : tuple of str
        Its columns to read.
    as_of : str or None
        Its column that says from when on a row held; the newest row of a key that is not in the future counts.
    """

    keys: Mapping[str, KeyType]
    values: tuple[str, ...]
    as_of: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read beside the keys."""
        return self.values if self.as_of is None else (*self.values, self.as_of)

    @property
    def all(self) -> tuple[str, ...]:
        """The keys and those, each once."""
        return tuple(dict.fromkeys((*self.keys, *self.columns)))


class Reader(Protocol):
    """Reads a source. Used from one event loop."""

    async def fetch(self, keys: Sequence[Key], timeout_s: float) -> Sequence[Found]:
        """What the source has for each of some different keys, in their order; None where it has nothing.

        Parameters
        ----------
        keys : sequence of tuple
            Values of the types wanted, none missing.
        timeout_s : float
            How long it may take, in seconds.

        Raises
        ------
        TimeoutError
            It took longer.
        StorageError
            The source cannot be reached, or answers what it should not.
        """
        ...

    def history(self) -> pl.DataFrame:
        """All rows there are: the key columns, the values and the time, as the source calls them.

        Raises
        ------
        InvalidInput
            The source cannot tell.
        StorageError
            The source cannot be reached.
        """
        ...

    async def past(self, keys: Sequence[Key], timeout_s: float, most: int | None) -> pl.DataFrame | None:
        """The rows of :meth:`history` that some different keys have; raises as that and :meth:`fetch` do.

        Parameters
        ----------
        keys : sequence of tuple
            Values of the types wanted, none missing.
        timeout_s : float
            How long it may take, in seconds.
        most : int or None
            Most rows to read; where there are more, the answer is None.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


def moment(value: object) -> dt.datetime | None:
    """A time as sources give it, aware and in UTC; None where there is none.

    Dates mean their beginning, times without a zone are in UTC, numbers are seconds since 1970.

    Raises
    ------
    InvalidInput
        The value is no time.
    """
    if value is None:
        return None
    try:
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return dt.datetime.fromtimestamp(value, dt.UTC)
        if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
            value = dt.datetime(value.year, value.month, value.day)
        if isinstance(value, dt.datetime):
            return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{value!r} is no time: {error}") from error
    raise InvalidInput(f"{value!r} is no time; write an ISO date or time, or seconds since 1970")


def _parsed(text: str) -> dt.datetime | float:
    try:
        return float(text)
    except ValueError:
        return dt.datetime.fromisoformat(text)


def best(rows: Sequence[Values], timed: bool) -> Values:
    """The one of a key's rows that counts: of the newest, the greatest by its values, null below all.

    Which of two rows of the same time is meant, nobody can know; this choice does not depend on their order, and
    :func:`shoal.requests.point_in_time.ordered` makes the same.
    """
    return max(rows, key=lambda row: _rank(row, timed))


def _rank(row: Values, timed: bool) -> tuple[object, ...]:
    values = row[:-1] if timed else row
    time = (moment(row[-1]),) if timed else ()
    known = ((value is not None and value == value, value) for value in values)  # NaN is as good as null
    return (*time, *((there, value if there else 0) for there, value in known))
