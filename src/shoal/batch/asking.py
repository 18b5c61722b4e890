"""What a shard asks of a source of features: many keys at a time, again where that fails, and no more than it must."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl

from shoal.errors import InvalidInput, StorageError
from shoal.requests.found_features import FoundFeatures
from shoal.requests.lookup_columns import Feature, read_as
from shoal.requests.point_in_time import FOUND, matched
from shoal.requests.spec import FEATURE_DTYPES, LookupSpec
from shoal.storage.lookup_reader import Found, Reader
from shoal.table.keys import DTYPES
from shoal.types import FeatureKind, Integers, Key, KeyColumn

FETCH_S = 60.0
"""How long a source may take for one fetch, in seconds: nobody waits, as somebody does for a request."""

MOST_KEYS = 2_000
"""Keys of one fetch."""

MOST_PAST = 50_000
"""Rows of a source's past that are held at a time, unless a single key has more."""

ATTEMPTS = 3
BACKOFF_S = 0.2
"""A fetch that failed is tried so often, a little later each time."""

WHY, INSTEAD = "_shoal_why", "_shoal_instead"
"""Columns beside the features: why a row is not to be scored; why it got defaults."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Asking:
    """What one shard asks of a source. Once a fetch has failed for good, all that would follow have failed too.

    Parameters
    ----------
    spec : LookupSpec
        What to look up, and what to do when that fails.
    keys : sequence of KeyColumn
        The columns that it goes by.
    found : FoundFeatures
        What the source's values mean.
    reader : Reader
        The source.
    """

    def __init__(self, spec: LookupSpec, keys: Sequence[KeyColumn], found: FoundFeatures, reader: Reader) -> None:
        self._spec = spec
        self._keys = keys
        self._found = found
        types = {name: FEATURE_DTYPES[kind] for name, kind in zip(spec.features, found.kinds, strict=True)}
        self._schema = {**types, WHY: pl.String(), INSTEAD: pl.String()}
        self._reader = reader
        self._failure: StorageError | None = None

    async def present(self, keys: Sequence[Key]) -> pl.DataFrame:
        """The features of each of some different keys now, and in the last row those of no key at all.

        Raises
        ------
        StorageError
            The source failed, and the spec says to fail then.
        """
        parts = []
        for start in range(0, len(keys), MOST_KEYS):
            found = await self._fetched(keys[start : start + MOST_KEYS])
            parts.append(self._frame([self._brought(values) for values in found]))
        return pl.concat([*parts, self._frame([(*self._found.features(None), None)])])

    def _brought(self, values: Found) -> tuple[Sequence[Feature], str | None, str | None]:
        if not isinstance(values, StorageError):
            return (*self._found.features(self._found.current(values)), None)
        return self._instead(values)

    def _instead(self, error: StorageError) -> tuple[Sequence[Feature], str | None, str | None]:
        """What a row gets where the source failed."""
        if self._spec.on_failure == "fail":
            raise error
        features, why = self._found.without(error)
        return features, why, self._found.instead(error) if why is None else None

    def _frame(self, rows: Sequence[tuple[Sequence[Feature], str | None, str | None]]) -> pl.DataFrame:
        values = [(*features, why, instead) for features, why, instead in rows]
        return pl.DataFrame(values, schema=self._schema, orient="row")

    async def _fetched(self, keys: Sequence[Key]) -> list[Found]:
        """What the source has for each key; those that it failed for alone are tried again alone."""
        found: dict[Key, Found] = dict.fromkeys(keys)
        left = list(keys)
        for attempt in range(1, self._attempts + 1):
            answers = await self._tried(partial(self._reader.fetch, left, FETCH_S))
            if isinstance(answers, StorageError):
                answers = [answers] * len(left)
            found.update(zip(left, answers, strict=True))
            if self._failure is not None:
                break
            left = [key for key in left if isinstance(found[key], StorageError)]
            if not left:
                break
            await self._wait(attempt)
        return [found[key] for key in keys]

    async def past(self, keys: Sequence[Key], positions: Integers, times: pl.Series) -> pl.DataFrame:
        """The features of each row at its time.

        Parameters
        ----------
        keys : sequence of tuple
            The different keys.
        positions : ndarray of int64, shape (rows,)
            Each row's among them; their number for a row without one.
        times : polars.Series
            Each row's, in microseconds since 1970.

        Raises
        ------
        StorageError
            The source failed, and the spec says to fail then.
        """
        order = np.argsort(positions, kind="stable")
        places = np.searchsorted(positions[order], np.arange(len(keys) + 1))
        parts = []
        async for start, stop, history in self._histories(keys):
            rows = order[places[start] : places[stop]]
            parts.append(self._at(keys[start:stop], positions[rows] - start, times[rows], history))
        keyless = np.zeros(len(order) - int(places[-1]), dtype=np.int64)
        parts.append(self._frame([(*self._found.features(None), None)])[keyless])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pl.concat(parts)[back]

    async def _histories(self, keys: Sequence[Key]) -> AsyncIterator[tuple[int, int, pl.DataFrame | StorageError]]:
        """The past of all keys, of so many at a time that it can be held."""
        start, count = 0, MOST_KEYS
        while start < len(keys):
            chosen = keys[start : start + count]
            most = None if len(chosen) == 1 else MOST_PAST
            history = await self._tried(partial(self._reader.past, chosen, FETCH_S, most))
            if history is None:
                count = max(1, len(chosen) // 2)
                continue
            yield start, start + len(chosen), history
            start += len(chosen)
            if isinstance(history, pl.DataFrame) and history.height < MOST_PAST // 4:
                count = min(MOST_KEYS, 2 * count)

    def _at(
        self, keys: Sequence[Key], positions: Integers, times: pl.Series, history: pl.DataFrame | StorageError
    ) -> pl.DataFrame:
        """The features of rows whose keys have this past."""
        if isinstance(history, StorageError):
            return self._frame([self._instead(history)] * len(positions))
        columns = {column.name: DTYPES[column.type] for column in self._keys}
        named = pl.DataFrame(keys, schema=columns, orient="row")[positions]
        types = {self._spec.keys[column.name]: column.type for column in self._keys}
        found = matched(named, times, history, self._spec, types)
        return self._read(found)

    def _read(self, found: pl.DataFrame) -> pl.DataFrame:
        """What the source had, as features; a row for which it had something odd gets the defaults."""
        why = pl.select(pl.when(found[FOUND]).then(None).otherwise(pl.lit(self._found.missing))).to_series()
        columns = []
        for name, kind in zip(self._spec.features, self._found.kinds, strict=True):
            values, odd = self._as(found[name], kind)
            columns.append(values)
            why = pl.select(pl.coalesce(why, odd).cast(pl.String)).to_series()
        bad = why.is_not_null()
        filled = [
            pl.select(pl.when(bad).then(None).otherwise(column).fill_null(_literal(default)).alias(column.name))
            .to_series()
            .cast(self._schema[column.name])
            for column, default in zip(columns, self._found.defaults, strict=True)
        ]
        return pl.DataFrame([*filled, why.alias(WHY), no_texts(len(why)).alias(INSTEAD)])

    def _as(self, column: pl.Series, kind: FeatureKind) -> tuple[pl.Series, pl.Series]:
        """A column as a feature, and why each row's value cannot be one."""
        target = FEATURE_DTYPES[kind]
        if column.dtype in (target, pl.Null()):
            return column.cast(target), no_texts(len(column))
        known = column.unique().drop_nulls()
        read = [self._value(value, kind) for value in known]
        values = column.replace_strict(known, pl.Series([v for v, _ in read], dtype=target), default=None)
        reasons = column.replace_strict(known, pl.Series([why for _, why in read], dtype=pl.String), default=None)
        return values, reasons

    def _value(self, value: object, kind: FeatureKind) -> tuple[Feature, str | None]:
        try:
            return read_as(value, kind), None
        except InvalidInput as error:
            return None, self._found.unreadable(error)

    @property
    def _attempts(self) -> int:
        """Where a failure fails the shard, that is tried again as a whole."""
        return 1 if self._spec.on_failure == "fail" else ATTEMPTS

    async def _tried(self, ask: Callable[[], Awaitable[T]]) -> "T | StorageError":
        """An answer of the source; why there is none where it failed again and again."""
        if self._failure is not None:
            return self._failure
        for attempt in range(1, self._attempts + 1):
            try:
                return await ask()
            except TimeoutError:
                failure = self._found.late(FETCH_S)
            except StorageError as error:
                failure = self._found.failure(error)
            _log.warning("attempt %d: %s", attempt, failure)
            await self._wait(attempt)
        self._failure = failure
        return failure

    async def _wait(self, attempt: int) -> None:
        if attempt < self._attempts:
            await asyncio.sleep(BACKOFF_S * 2**attempt)


def no_texts(rows: int) -> pl.Series:
    """So many texts that are not there."""
    return pl.repeat(None, rows, dtype=pl.String, eager=True)


def _literal(value: Feature) -> pl.Expr:
    return pl.lit(float(value) if isinstance(value, int) else value)
