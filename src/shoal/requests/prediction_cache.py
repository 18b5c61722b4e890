"""Predictions that may be given again: in each process's memory, or in Redis for all of them.

A key is a digest of 128 bits over everything that an answer depends on: the snapshot, the serving spec, the row's
segment key and all of its inputs, exactly. A promotion changes the snapshot and so makes earlier entries unreachable.
"""

import asyncio
import hashlib
import logging
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.requests.circuit import Circuit
from shoal.requests.spec import MEBIBYTE, CacheSpec, FleetSchema
from shoal.requests.timed_cache import CacheStats, TimedCache
from shoal.storage.redis_client import connect, redis_errors
from shoal.types import FeatureKind

_log = logging.getLogger(__name__)

Column: TypeAlias = "Sequence[object] | NDArray[np.generic]"
"""Values of one input: a list, or an array."""

DIGEST_BYTES = 16
#: Memory that answers may take in a process unless told.
SIZE_BYTES = 64 * MEBIBYTE

_PREFIX: Final = b"shoal:prediction:"
_NAN = struct.pack("<d", float("nan"))
_NOTHING = b"\xff\xff\xff\xff"


class PredictionKeys:
    """Makes the keys of rows.

    Two rows have the same key where scoring cannot tell them apart, and only there: a missing number is the same as
    NaN of any kind, integers are the doubles they are scored as, and 0.0 differs from -0.0.

    Parameters
    ----------
    schema : FleetSchema
        The fleet's columns.
    snapshot_digest, spec_digest : str
        What else answers depend on.
    extra : int
        How many inputs there are after key columns and features.
    """

    def __init__(self, schema: FleetSchema, *, snapshot_digest: str, spec_digest: str, extra: int = 0) -> None:
        self._start = hashlib.blake2b(f"{snapshot_digest}\n{spec_digest}\n".encode(), digest_size=DIGEST_BYTES)
        taken = {column.name for column in schema.keys}
        features = [feature for feature in schema.features if feature.name not in taken]
        self._numeric = [False] * len(schema.keys)
        self._numeric += [feature.kind is FeatureKind.NUMERIC for feature in features] + [False] * extra

    def of(self, columns: Sequence[Column]) -> list[bytes]:
        """A key of 16 bytes for every row.

        Parameters
        ----------
        columns : sequence of list or array
            The key columns and features (that are no key columns) in the fleet's order, then other inputs, all of the
            same length.

        Raises
        ------
        InvalidInput
            A number does not fit double precision.
        """
        parts = [
            _numbers(column) if numeric else [_written(value) for value in column]
            for numeric, column in zip(self._numeric, columns, strict=True)
        ]
        return [self._digest(b"".join(row)) for row in zip(*parts, strict=True)]

    def _digest(self, row: bytes) -> bytes:
        digest = self._start.copy()
        digest.update(row)
        return digest.digest()


def _numbers(column: Column) -> list[bytes]:
    """Eight bytes for every number."""
    if len(column) == 1:
        value = column[0]
        if type(value) is float:
            return [struct.pack("<d", value) if value == value else _NAN]
    try:
        values = np.array(column, dtype=np.float64)
    except OverflowError as error:
        raise InvalidInput(f"a number is too large for double precision ({error})") from error
    values[np.isnan(values)] = np.nan
    data = values.astype("<f8").tobytes()
    return [data[i : i + 8] for i in range(0, len(data), 8)]


def _written(value: object) -> bytes:
    """A key's or category's value, so that different values are never written alike."""
    if value is None:
        return _NOTHING
    if isinstance(value, np.generic):
        value = value.item()
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    kind = b"t" if isinstance(value, str | bytes) else b"b" if isinstance(value, bool) else b"i"
    return len(text).to_bytes(4, "little") + kind + text


class Store(Protocol):
    """Where predictions are kept."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is there for each key."""
        ...

    async def put_many(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep values."""
        ...

    def stats(self) -> CacheStats:
        """How it is doing."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class ProcessStore:
    """Predictions in this process's memory; safe to use from several threads.

    Parameters
    ----------
    spec : CacheSpec
        How long and how much.
    clock : callable
        The time, in seconds.
    """

    def __init__(self, spec: CacheSpec, *, clock: Callable[[], float] = time.monotonic) -> None:
        size_bytes = SIZE_BYTES if spec.size_bytes is None else spec.size_bytes
        self._cache: TimedCache[bytes, bytes] = TimedCache(ttl_s=spec.ttl_s, size_bytes=size_bytes, clock=clock)

    def get_many_now(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is there for each key, without waiting."""
        return self._cache.get_many(keys)

    def put_many_now(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep values, without waiting."""
        sizes = [sys.getsizeof(key) + sys.getsizeof(value) for key, value in zip(keys, values, strict=True)]
        self._cache.put_many(keys, values, sizes)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is there for each key."""
        return self.get_many_now(keys)

    async def put_many(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep values."""
        self.put_many_now(keys, values)

    def stats(self) -> CacheStats:
        """How it is doing."""
        return self._cache.stats()

    async def close(self) -> None:
        """Forget everything."""
        self._cache.clear()


class RedisStore:
    """Predictions in Redis or Valkey, for all processes. One that cannot be reached is as good as empty.

    Parameters
    ----------
    url : str
        ``redis://host:port/0``, ``rediss://`` or ``unix://``.
    spec : CacheSpec
        How long.
    timeout_s : float
        How long a request waits for it, in seconds.
    circuit : Circuit, optional
        When it is left alone.
    """

    def __init__(self, url: str, spec: CacheSpec, *, timeout_s: float = 0.05, circuit: Circuit | None = None) -> None:
        self._redis = connect(url, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._ttl_ms = max(1, round(spec.ttl_s * 1000))
        self._circuit = circuit or Circuit()
        self._hits = self._misses = self._failures = 0

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is there for each key; nothing where Redis does not answer."""
        found: list[bytes | None] = [None] * len(keys)
        if keys and self._circuit.allows():
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._redis.mget([_PREFIX + key for key in keys])
                found = cast("list[bytes | None]", answer)
                self._circuit.succeeded()
            except redis_errors() as error:
                self._failed(error)
        missed = sum(value is None for value in found)
        self._hits += len(found) - missed
        self._misses += missed
        return found

    async def put_many(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep values, if Redis takes them."""
        if not keys or not self._circuit.allows():
            return
        try:
            async with asyncio.timeout(self._timeout_s), self._redis.pipeline(transaction=False) as pipeline:
                for key, value in zip(keys, values, strict=True):
                    pipeline.set(_PREFIX + key, value, px=self._ttl_ms)
                await pipeline.execute()
            self._circuit.succeeded()
        except redis_errors() as error:
            self._failed(error)

    def stats(self) -> CacheStats:
        """How it is doing, as far as this process knows."""
        return CacheStats(hits=self._hits, misses=self._misses, entries=-1, size_bytes=-1, failures=self._failures)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        if self._failures == 0 or not self._circuit.is_open:
            _log.warning("the prediction cache in Redis does not answer (%s); predictions are computed", error)
        self._failures += 1
        self._circuit.failed()
