"""Features by key for requests: one fetch for many that wait, with a cache, defaults and a limit to the waiting."""

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.errors import ConnectionFailed, DeadlineExceeded, ShoalError, StorageError, Unavailable
from shoal.requests.circuit import Circuit
from shoal.requests.found_features import FoundFeatures
from shoal.requests.lookup_columns import Feature, key_columns, typed
from shoal.requests.spec import FleetSchema, LookupSpec
from shoal.requests.timed_cache import CacheStats, TimedCache
from shoal.storage.lookup_reader import Found, Reader, Values
from shoal.types import Key

_log = logging.getLogger(__name__)

FETCHES = 4
"""Fetches of one lookup that run at a time; who comes meanwhile goes with the next."""

MOST_KEYS = 2_000
"""Keys of one fetch."""

_GRACE_S = 0.25
"""A reader keeps its limit itself; one that does not is left alone so long after it, in seconds."""

_MISSING: Values = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """Features of some rows.

    Attributes
    ----------
    columns : mapping of str to list
        For each feature one value per row: float, str, or None where there is none.
    reasons : mapping of int to str
        Rows that are not to be scored, and why.
    defaulted : mapping of int to str
        Rows that got defaults because the source failed, and what there is to say of it.
    failure : StorageError or None
        A failure of the source that is among those reasons, with all that there is to say of it.
    """

    columns: Mapping[str, list[Feature]]
    reasons: Mapping[int, str]
    defaulted: Mapping[int, str] = field(default_factory=dict)
    failure: StorageError | None = None


@dataclass(kw_only=True, slots=True)
class LookupStats:
    """How a lookup is doing, since the server began.

    Attributes
    ----------
    rows : int
        Rows it was asked for.
    fetches, keys : int
        Fetches from the source, and keys in them.
    missing : int
        Rows whose key the source does not have.
    defaulted : int
        Rows that got defaults because the source failed or took too long.
    timeouts, failures : int
        Fetches that took too long, and that failed.
    skipped : int
        Rows for which the source was not asked because it had just failed again and again.
    is_open : bool
        Whether it is being left alone now.
    last_error : str
        What went wrong last.
    cache : CacheStats
        The cache.
    """

    rows: int = 0
    fetches: int = 0
    keys: int = 0
    missing: int = 0
    defaulted: int = 0
    timeouts: int = 0
    failures: int = 0
    skipped: int = 0
    is_open: bool = False
    last_error: str = ""
    cache: CacheStats = field(default_factory=CacheStats)


class Lookup:
    """The lookup of one fleet. Used from one event loop.

    Parameters
    ----------
    spec : LookupSpec
        What to look up, and what to do when that fails.
    schema : FleetSchema
        The fleet's columns.
    reader : Reader
        The source.
    circuit : Circuit, optional
        When the source is left alone.

    Attributes
    ----------
    inputs : tuple of KeyColumn
        Columns that it looks up by and that are neither key columns nor features: inputs that requests need besides.
    keys : tuple of KeyColumn
        All columns that it looks up by.
    features : tuple of str
        Features that it brings.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet.
    """

    def __init__(
        self, spec: LookupSpec, schema: FleetSchema, reader: Reader, *, circuit: Circuit | None = None
    ) -> None:
        self.keys = key_columns(spec, schema)
        known = {column.name for column in schema.keys} | {feature.name for feature in schema.features}
        self.inputs = tuple(column for column in self.keys if column.name not in known)
        self.features = tuple(spec.features)
        self._spec = spec
        self._found = FoundFeatures(spec, schema)
        self._reader = reader
        self._timeout_s = spec.timeout_ms / 1000
        self._circuit = circuit or Circuit()
        self._waiting: dict[Key, asyncio.Future[Found]] = {}
        self._queue: list[Key] = []
        self._running: set[asyncio.Task[None]] = set()
        self._is_called = False
        self._stats = LookupStats()
        self._last_failure = ConnectionFailed("")
        cache = spec.cache
        self._cache: TimedCache[Key, Values] | None = None
        self._absent: TimedCache[Key, Values] | None = None
        if cache is not None:
            self._cache = TimedCache(ttl_s=cache.ttl_s, size_bytes=cache.size_bytes - cache.size_bytes // 8)
            absent_s = cache.ttl_s if cache.missing_ttl_s is None else cache.missing_ttl_s
            if absent_s > 0:
                self._absent = TimedCache(ttl_s=absent_s, size_bytes=cache.size_bytes // 8)

    async def complete(self, keys: Sequence[tuple[object, ...]], timeout_s: float | None = None) -> Completed:
        """Find the features of rows.

        Parameters
        ----------
        keys : sequence of tuple
            For each row the values of :attr:`keys`; None for a missing one.
        timeout_s : float, optional
            What is left of the request's own time, in seconds; the lookup's own limit holds besides.

        Raises
        ------
        Unavailable
            The source failed or took too long, and the spec says to fail then.
        DeadlineExceeded
            The request's own time was over first, and the spec says to fail then.
        """
        self._stats.rows += len(keys)
        asked = [typed(key, self.keys) for key in keys]
        found = self._cached(asked)
        awaited = {key: self._future(key) for key in asked if key is not None and key not in found}
        if awaited:
            limit_s = self._timeout_s if timeout_s is None else max(0.0, min(timeout_s, self._timeout_s))
            _, late = await asyncio.wait(awaited.values(), timeout=limit_s)
            if late and limit_s < self._timeout_s and self._spec.on_failure == "fail":
                raise DeadlineExceeded(
                    "the deadline passed while features were looked up; give the request more time, and raise the "
                    "fleet's limits.timeout_s where that is shorter"
                )
            for key, future in awaited.items():
                found[key] = future.result() if future.done() else self._found.late(limit_s)
        return self._columns(asked, found)

    def stats(self) -> LookupStats:
        """How it is doing."""
        now = self._stats
        now.is_open = self._circuit.is_open
        if self._cache is not None:
            now.cache = self._cache.stats()
        return now

    async def close(self) -> None:
        """End what is under way and let go of the source."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self._reader.close()

    def _cached(self, keys: Sequence[Key | None]) -> dict[Key, Found]:
        """What is known of keys without asking."""
        if self._cache is None:
            return {}
        distinct = list(dict.fromkeys(key for key in keys if key is not None))
        found: dict[Key, Found] = {
            key: values
            for key, values in zip(distinct, self._cache.get_many(distinct), strict=True)
            if values is not None
        }
        rest = [key for key in distinct if key not in found]
        if self._absent is not None and rest:
            absent = self._absent.get_many(rest)
            found |= {key: None for key, mark in zip(rest, absent, strict=True) if mark is not None}
        return found

    def _future(self, key: Key) -> "asyncio.Future[Found]":
        """Who waits for a key waits with all others that do."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._queue.append(key)
            if not self._is_called:
                self._is_called = True
                asyncio.get_running_loop().call_soon(self._start)
        return future

    def _start(self) -> None:
        """Fetch what has queued, if a fetch may begin: a tick after the first key came, or when another fetch ended."""
        self._is_called = False
        while self._queue and len(self._running) < FETCHES:
            keys, self._queue = self._queue[:MOST_KEYS], self._queue[MOST_KEYS:]
            task = asyncio.get_running_loop().create_task(self._fetch(keys))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._start()

    async def _fetch(self, keys: Sequence[Key]) -> None:
        found: Sequence[Found]
        try:
            found = await self._asked(keys)
        except asyncio.CancelledError:
            found = [ConnectionFailed("the server ends")] * len(keys)
        self._keep(keys, found)
        for key, values in zip(keys, found, strict=True):
            self._waiting.pop(key).set_result(values)

    async def _asked(self, keys: Sequence[Key]) -> Sequence[Found]:
        """What the source says of keys; it says why not where it fails."""
        if not self._circuit.allows():
            self._stats.skipped += len(keys)
            last = self._last_failure
            paused = f"lookup in {self._spec.source!r} is paused: {last.message}"
            return [ConnectionFailed(paused, detail=last.detail)] * len(keys)
        self._stats.fetches += 1
        self._stats.keys += len(keys)
        try:
            async with asyncio.timeout(self._timeout_s + _GRACE_S):
                found = await self._reader.fetch(keys, self._timeout_s)
        except TimeoutError:
            self._stats.timeouts += 1
            return self._failed(self._found.late(self._timeout_s), len(keys))
        except ShoalError as error:
            return self._broken(error, len(keys))
        except Exception as error:  # noqa: BLE001 - a driver's surprise must not leave anybody waiting
            _log.exception("lookup in %r failed", self._spec.source)
            return self._broken(error, len(keys))
        errors = [values for values in found if isinstance(values, StorageError)]
        if errors and len(errors) == len(found):
            self._stats.failures += 1
            self._failed(self._found.failure(errors[0]), 0)
        else:
            self._circuit.succeeded()
        return found

    def _broken(self, error: Exception, keys: int) -> Sequence[Found]:
        self._stats.failures += 1
        return self._failed(self._found.failure(error), keys)

    def _failed(self, error: ConnectionFailed, keys: int) -> Sequence[Found]:
        if not self._stats.last_error or not self._circuit.is_open:
            _log.warning("%s", error)
        self._stats.last_error, self._last_failure = str(error), error
        self._circuit.failed()
        return [error] * keys

    def _keep(self, keys: Sequence[Key], found: Sequence[Found]) -> None:
        if self._cache is None:
            return
        have = [(key, values) for key, values in zip(keys, found, strict=True) if isinstance(values, tuple)]
        self._cache.put_many(
            [key for key, _ in have],
            [values for _, values in have],
            [_size(key) + _size(values) for key, values in have],
        )
        if self._absent is not None:
            absent = [key for key, values in zip(keys, found, strict=True) if values is None]
            self._absent.put_many(absent, [_MISSING] * len(absent), [_size(key) for key in absent])

    def _columns(self, keys: Sequence[Key | None], found: Mapping[Key, Found]) -> Completed:
        reasons: dict[int, str] = {}
        defaulted: dict[int, str] = {}
        rows = [self._row(position, key, found, reasons, defaulted) for position, key in enumerate(keys)]
        columns = zip(*rows, strict=True) if rows else ([] for _ in self.features)
        refused = (found.get(key) for key in map(keys.__getitem__, reasons) if key is not None)
        return Completed(
            columns={name: list(column) for name, column in zip(self.features, columns, strict=True)},
            reasons=reasons,
            defaulted=defaulted,
            failure=next((one for one in refused if isinstance(one, StorageError)), None),
        )

    def _row(
        self,
        position: int,
        key: Key | None,
        found: Mapping[Key, Found],
        reasons: dict[int, str],
        defaulted: dict[int, str],
    ) -> Sequence[Feature]:
        values = None if key is None else found[key]
        if isinstance(values, StorageError):
            if self._spec.on_failure == "fail":
                raise Unavailable(f"{self._found.told(values)}; try again", detail=values.detail)
            self._stats.defaulted += 1
            features, reason = self._found.without(values)
            if reason is None:
                defaulted[position] = self._found.instead(values)
        else:
            values = self._found.current(values)
            if values is None:
                self._stats.missing += 1
            features, reason = self._found.features(values)
        if reason is not None:
            reasons[position] = reason
        return features


def _size(values: Sequence[object]) -> int:
    """Memory of a tuple and what it holds."""
    return sys.getsizeof(values) + sum(map(sys.getsizeof, values))
