"""The prediction cache: its keys, its memory, and Redis alive and dead."""

import asyncio
import itertools
import logging
import math
import os
import signal
import struct
import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidInput, InvalidSpec
from shoal.requests.circuit import Circuit
from shoal.requests.opening import open_store
from shoal.requests.prediction_cache import PredictionKeys, ProcessStore, RedisStore
from shoal.requests.sources import RedisSource, load_source
from shoal.requests.spec import CacheSpec, FleetSchema
from shoal.types import Feature, FeatureKind, KeyColumn, KeyType, Task
from tests.lookup_servers import RedisServer

SCHEMA = FleetSchema(
    keys=(KeyColumn(name="site", type=KeyType.STRING), KeyColumn(name="unit", type=KeyType.INTEGER)),
    features=(Feature(name="temp", kind=FeatureKind.NUMERIC), Feature(name="mode", kind=FeatureKind.CATEGORY)),
    task=Task.REGRESSION,
)
KEYS = PredictionKeys(SCHEMA, snapshot_digest="s1", spec_digest="d1")
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]


def of(*rows: tuple[object, ...], keys: PredictionKeys = KEYS) -> list[bytes]:
    return keys.of(list(zip(*rows, strict=True)))


def test_rows_that_differ_in_anything_differ_in_their_key() -> None:
    rows = [
        ("a", 1, 1.0, "x"), ("b", 1, 1.0, "x"), ("a", 2, 1.0, "x"), ("a", 1, 2.0, "x"), ("a", 1, 1.0, "y"),
        ("a", 1, 0.0, "x"), ("a", 1, -0.0, "x"), ("a", 1, None, "x"), ("a", 1, math.inf, "x"), ("a", 1, 1.0, None),
        ("a", 1, 1.0, ""), (None, 1, 1.0, "x"), ("a", None, 1.0, "x"), ("a1", 1, 1.0, "x"), ("", 1, 1.0, "x"),
        ("a", 1, math.nextafter(1.0, 2.0), "x"), ("a", 1, 1.0, "None"), ("None", 1, 1.0, "x"),
    ]  # fmt: skip
    found = of(*rows)
    assert len(set(found)) == len(rows)
    assert {len(key) for key in found} == {16}
    other = [
        PredictionKeys(SCHEMA, snapshot_digest=s, spec_digest=d) for s, d in (("s2", "d1"), ("s1", "d2"), ("s1d", "1"))
    ]
    assert len({key for keys in (KEYS, *other) for key in of(*rows, keys=keys)}) == 4 * len(rows)


def test_what_scoring_cannot_tell_apart_has_one_key() -> None:
    assert len(set(of(*[("a", 1, value, "x") for value in (None, math.nan, OTHER_NAN, float(np.nan))]))) == 1
    assert len(set(of(*[("a", 1, value, "x") for value in (3, 3.0, np.float64(3))]))) == 1
    assert of(("a", 1, 2**53 + 1, "x")) == of(("a", 1, float(2**53 + 1), "x"))
    assert of((b"a", 1, 1.0, b"x")) == of(("a", 1, 1.0, "x"))
    arrays = KEYS.of([["a", "b"], np.array([1, 2]), np.array([1.5, np.nan]), ["x", None]])
    assert arrays == of(("a", 1, 1.5, "x"), ("b", 2, None, None))


def test_a_number_beyond_doubles_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too large"):
        of(("a", 1, 10**400, "x"))


texts = st.none() | st.text(max_size=4)
numbers = st.none() | st.floats() | st.integers(-(10**20), 10**20)


@given(st.lists(st.tuples(texts, st.none() | st.integers(-(2**63), 2**63 - 1), numbers, texts), min_size=1, max_size=8))
def test_a_row_has_the_same_key_in_any_company(rows: list[tuple[object, ...]]) -> None:
    together = of(*rows)
    assert together == [of(row)[0] for row in rows]
    for (one, a), (other, b) in itertools.combinations(zip(rows, together, strict=True), 2):
        assert (a == b) == (_canonical(one) == _canonical(other))


def _canonical(row: tuple[object, ...]) -> tuple[object, ...]:
    number = row[2]
    double = b"nan" if number is None or math.isnan(float(number)) else struct.pack("<d", float(number))  # type: ignore[arg-type]
    return (*row[:2], double, row[3])


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_entries_live_for_their_time_and_are_counted() -> None:
    clock = Clock()
    store = ProcessStore(CacheSpec(ttl_s=10), clock=clock)
    store.put_many_now([b"a"], [b"1"])
    clock.now_s = 4.0
    store.put_many_now([b"b"], [b"2"])
    assert store.get_many_now([b"a", b"x", b"b"]) == [b"1", None, b"2"]
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.entries, stats.oldest_age_s) == (2, 1, 2, 4.0)
    clock.now_s = 10.0
    assert store.get_many_now([b"a", b"b"]) == [None, b"2"]
    assert (store.stats().entries, store.stats().oldest_age_s) == (1, 6.0)


@pytest.mark.parametrize("value_bytes", [20, 300])
def test_the_bytes_are_those_that_memory_takes(value_bytes: int) -> None:
    store = ProcessStore(CacheSpec(ttl_s=1000, size_bytes=8 << 20))
    keys = [os.urandom(16) for _ in range(30_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for key in keys:
            store.put_many_now([bytes(bytearray(key))], [os.urandom(value_bytes)])
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    stats = store.stats()
    assert stats.size_bytes <= 8 << 20
    assert stats.evictions > 0
    assert stats.entries + stats.evictions == len(keys)
    assert 0.8 < stats.size_bytes / taken < 1.2


def test_the_least_recently_used_go_first_and_nothing_too_large_comes_in() -> None:
    store = ProcessStore(CacheSpec(ttl_s=1000, size_bytes=1600))
    store.put_many_now([b"a", b"b"], [b"1", b"2"])
    store.put_many_now([b"huge"], [bytes(3000)])
    store.get_many_now([b"a"])
    store.put_many_now([b"c", b"d"], [b"3", b"4"])
    assert store.get_many_now([b"a", b"b", b"d", b"huge"]) == [b"1", None, b"4", None]


def test_threads_share_it() -> None:
    store = ProcessStore(CacheSpec(ttl_s=1000, size_bytes=50_000))

    def work(seed: int) -> None:
        for i in range(2000):
            key = str((i * seed) % 300).encode()
            (found,) = store.get_many_now([key])
            assert found in (None, key)
            store.put_many_now([key], [key])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = store.stats()
    assert stats.hits + stats.misses == 6000
    assert stats.size_bytes <= 50_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def test_redis_keeps_predictions_for_all_processes_and_for_a_time(server: RedisServer) -> None:
    async def run() -> None:
        one, other = (RedisStore(server.url, CacheSpec(ttl_s=60), timeout_s=20) for _ in range(2))
        keys = of(("a", 1, 1.0, "x"), ("b", 1, 1.0, "x"))
        assert await one.get_many(keys) == [None, None]
        await one.put_many(keys, [b"1", b"\x00\xff"])
        assert await other.get_many([*keys, b"?"]) == [b"1", b"\x00\xff", None]
        with server.client() as client:
            assert all(0 < client.pttl(key) <= 60_000 for key in client.keys("shoal:prediction:*"))
        assert (other.stats().hits, other.stats().misses, other.stats().failures) == (2, 1, 0)
        assert await one.get_many([]) == []
        await one.close()
        await other.close()

    asyncio.run(run())


def test_redis_that_is_down_is_empty_and_seen_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        server = RedisServer()
        store = RedisStore(server.url, CacheSpec(ttl_s=60), timeout_s=20, circuit=Circuit(failures=2, first_wait_s=0))
        for _ in range(3):
            assert await store.get_many([b"k"]) == [None]
            await store.put_many([b"k"], [b"v"])
        assert store.stats().failures == 6
        with server:
            await store.put_many([b"k"], [b"v"])
            assert await store.get_many([b"k"]) == [b"v"]
        await store.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "predictions are computed" in caplog.text


def test_redis_that_hangs_is_waited_for_no_longer_than_said_and_then_left_alone() -> None:
    async def run(server: RedisServer) -> None:
        store = RedisStore(
            server.url, CacheSpec(ttl_s=60), timeout_s=0.05, circuit=Circuit(failures=2, first_wait_s=600)
        )
        server.signal(signal.SIGSTOP)
        found = [await store.get_many([b"k"]) for _ in range(50)]
        assert found == [[None]] * 50
        assert store.stats().failures == 2
        server.signal(signal.SIGCONT)
        await store.close()

    with RedisServer() as server:
        asyncio.run(run(server))


def test_a_store_is_named_and_has_to_be_redis(server: RedisServer) -> None:
    found = {"r": RedisSource(url=server.url), "p": load_source({"kind": "parquet", "path": "x"})}
    assert isinstance(open_store(CacheSpec(ttl_s=1), found.__getitem__), ProcessStore)
    redis_store = open_store(CacheSpec(ttl_s=1, store="r"), found.__getitem__)
    assert isinstance(redis_store, RedisStore)
    asyncio.run(redis_store.close())
    with pytest.raises(InvalidSpec, match="'p' is not of kind redis"):
        open_store(CacheSpec(ttl_s=1, store="p"), found.__getitem__)
