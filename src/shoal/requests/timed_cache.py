"""A cache in memory whose entries age and whose bytes are counted."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import cachetools

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 420
"""What an entry takes beside its key and value: links, dictionary slots, its time and size. Measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """How a cache is doing.

    Attributes
    ----------
    hits, misses : int
        How often something was and was not there.
    entries : int
        Entries in it; -1 where it does not know, as with Redis.
    size_bytes : int
        Memory that they take; -1 likewise.
    oldest_age_s : float
        How long the oldest has been in it, in seconds; 0 where there is none.
    evictions : int
        Entries that had to go for want of room.
    failures : int
        How often the store could not be asked.
    """

    hits: int = 0
    misses: int = 0
    entries: int = 0
    size_bytes: int = 0
    oldest_age_s: float = 0.0
    evictions: int = 0
    failures: int = 0


class TimedCache(Generic[K, V]):
    """Entries that live for a time and share a number of bytes; the least recently used go first. Safe with threads.

    Parameters
    ----------
    ttl_s : float
        How long an entry lives, in seconds.
    size_bytes : int
        Memory that entries may take.
    clock : callable
        The time, in seconds.
    """

    def __init__(self, *, ttl_s: float, size_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = _Counted[K, tuple[float, int, V]](size_bytes, ttl_s, clock, lambda entry: entry[1])
        self._clock = clock
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def get_many(self, keys: Sequence[K]) -> list[V | None]:
        """What is there for each key; None where nothing is."""
        with self._lock:
            found = [None if entry is None else entry[2] for entry in map(self._entries.get, keys)]
            missed = sum(value is None for value in found)
            self._hits += len(found) - missed
            self._misses += missed
        return found

    def put_many(self, keys: Sequence[K], values: Sequence[V], sizes_bytes: Sequence[int]) -> None:
        """Keep values; ``sizes_bytes`` are those of each key and value together."""
        with self._lock:
            now = self._clock()
            for key, value, size in zip(keys, values, sizes_bytes, strict=True):
                size += ENTRY_BYTES
                if size <= self._entries.maxsize:
                    self._entries[key] = (now, size, value)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def stats(self) -> CacheStats:
        """How it is doing."""
        with self._lock:
            oldest = next(iter(self._entries), None)
            # Past the cache's own way of reading, so that looking does not make the entry look used.
            since = self._clock() if oldest is None else cachetools.Cache.__getitem__(self._entries, oldest)[0]
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                entries=len(self._entries),
                size_bytes=int(self._entries.currsize),
                oldest_age_s=self._clock() - since,
                evictions=self._entries.evictions,
            )


class _Counted(cachetools.TTLCache[K, V]):
    """Counts what had to go for want of room."""

    evictions = 0

    def popitem(self) -> tuple[K, V]:
        self.evictions += 1
        return super().popitem()
