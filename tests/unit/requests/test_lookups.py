"""Lookups: what rows get, how often the source is asked, and what happens when it does not answer."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import polars as pl
import pytest

from shoal.errors import ConnectionFailed, DeadlineExceeded, InvalidSpec, StorageError, Unavailable
from shoal.requests.circuit import Circuit
from shoal.requests.loading import load_lookup
from shoal.requests.lookup_columns import read_as
from shoal.requests.lookups import FETCHES, Completed, Lookup
from shoal.requests.spec import FleetSchema
from shoal.storage.lookup_reader import Found
from shoal.types import Feature, FeatureKind, Key, KeyColumn, KeyType, Task

SCHEMA = FleetSchema(
    keys=(KeyColumn(name="site", type=KeyType.STRING), KeyColumn(name="day", type=KeyType.DATE)),
    features=(
        Feature(name="age", kind=FeatureKind.NUMERIC),
        Feature(name="kind", kind=FeatureKind.CATEGORY),
        Feature(name="own", kind=FeatureKind.NUMERIC),
    ),
    task=Task.REGRESSION,
)
USUAL: Mapping[str, object] = {"source": "pumps", "keys": ["site"], "features": {"age": "years", "kind": "type"}}


class Source:
    """Rows in memory, with doors that tests open and close; counts what it is asked."""

    def __init__(self, rows: Mapping[Key, Found]) -> None:
        self.rows = rows
        self.asked: list[list[Key]] = []
        self.door = asyncio.Event()
        self.door.set()
        self.error: Exception | None = None

    async def fetch(self, keys: Sequence[Key], timeout_s: float) -> Sequence[Found]:
        self.asked.append(list(keys))
        async with asyncio.timeout(timeout_s):
            await self.door.wait()
        if self.error is not None:
            raise self.error
        return [self.rows.get(key) for key in keys]

    def history(self) -> pl.DataFrame:
        raise NotImplementedError

    async def close(self) -> None:
        pass


ROWS: Mapping[Key, Found] = {("a",): (3, "x"), ("b",): ("4.5", None), ("c",): (None, "z")}


def run(
    work: Callable[[Lookup, Source], Awaitable[None]],
    rows: Mapping[Key, Found] = ROWS,
    circuit: Circuit | None = None,
    **changes: object,
) -> None:
    async def go() -> None:
        source = Source(rows)
        lookup = Lookup(load_lookup({**USUAL, **changes}), SCHEMA, source, circuit=circuit)
        await work(lookup, source)
        await lookup.close()

    asyncio.run(go())


def listed(done: Completed) -> list[tuple[object, ...]]:
    return list(zip(*done.columns.values(), strict=True))


def test_rows_get_their_features_in_order() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        done = await lookup.complete([("b",), ("?",), ("a",), (None,), ("b",), (b"c",), (np.str_("a"),)])
        assert list(done.columns) == ["age", "kind"]
        assert listed(done) == [
            (4.5, None), (None, None), (3.0, "x"), (None, None), (4.5, None), (None, "z"), (3.0, "x"),
        ]  # fmt: skip
        assert done.reasons == {}
        assert source.asked == [[("b",), ("?",), ("a",), ("c",)]]
        assert lookup.stats().missing == 2
        assert listed(await lookup.complete([])) == []

    run(work)


def test_defaults_stand_in_for_what_is_not_there() -> None:
    async def work(lookup: Lookup, _: Source) -> None:
        done = await lookup.complete([("?",), ("b",), ("c",), (None,)])
        assert listed(done) == [(40.0, "y"), (4.5, "y"), (40.0, "z"), (40.0, "y")]

    run(work, defaults={"age": 40, "kind": "y"})


def test_a_key_that_is_not_there_can_be_invalid() -> None:
    async def work(lookup: Lookup, _: Source) -> None:
        done = await lookup.complete([("a",), ("?",), (None,)])
        assert set(done.reasons) == {1, 2}
        assert "knows no such key" in done.reasons[1]

    run(work, on_missing="invalid")


def test_a_value_of_the_wrong_kind_costs_only_its_row() -> None:
    async def work(lookup: Lookup, _: Source) -> None:
        done = await lookup.complete([("a",), ("b",), ("c",)])
        assert done.reasons == {
            1: "lookup in 'pumps': 'abc' is no number",
            2: "lookup in 'pumps': 5 is no text",
        }
        assert listed(done)[0] == (1.0, "x")

    run(work, rows={("a",): (True, "x"), ("b",): ("abc", "x"), ("c",): (1, 5)})


def test_keys_are_brought_to_their_types() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        assert lookup.keys == (KeyColumn(name="day", type=KeyType.DATE), KeyColumn(name="meter", type=KeyType.INTEGER))
        assert lookup.inputs == (KeyColumn(name="meter", type=KeyType.INTEGER),)
        await lookup.complete([("2026-01-31", np.int64(5)), ("x", 5), ("2026-01-31", True), ("2026-01-31", "5")])
        assert source.asked == [[(dt.date(2026, 1, 31), 5)]]

    run(work, keys={"day": "day", "meter": "id"}, key_types={"meter": "integer"})


def test_many_that_wait_for_a_key_share_one_fetch() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.door.clear()
        waiting = [asyncio.create_task(lookup.complete([(key,), ("a",)])) for key in "ab" * 50]
        while not source.asked:
            await asyncio.sleep(0.001)
        assert source.asked == [[("a",), ("b",)]]
        source.door.set()
        done = await asyncio.gather(*waiting)
        assert {listed(one)[0] for one in done} == {(3.0, "x"), (4.5, None)}
        assert len(source.asked) == 1

    run(work, timeout_ms=60_000)


def test_who_comes_while_all_fetches_run_goes_together_with_the_next() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.door.clear()
        waiting = []
        for i in range(20):
            waiting.append(asyncio.create_task(lookup.complete([(f"k{i}",)])))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(source.asked) == FETCHES
        source.door.set()
        await asyncio.gather(*waiting)
        assert [len(keys) for keys in source.asked] == [1] * FETCHES + [20 - FETCHES]

    run(work, timeout_ms=60_000)


def test_the_cache_answers_again_also_that_there_is_nothing() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        for _ in range(3):
            assert listed(await lookup.complete([("a",), ("?",)])) == [(3.0, "x"), (None, None)]
        assert source.asked == [[("a",), ("?",)]]
        assert lookup.stats().cache.hits == 2
        assert lookup.stats().cache.entries == 1
        assert 0 < lookup.stats().cache.size_bytes < 1000

    run(work, cache={"ttl_s": 600})


def test_that_there_is_nothing_may_be_asked_again_each_time() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        for _ in range(2):
            await lookup.complete([("a",), ("?",)])
        assert source.asked == [[("a",), ("?",)], [("?",)]]

    run(work, cache={"ttl_s": 600, "missing_ttl_s": 0})


def test_failures_are_never_kept() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.error = StorageError("gone")
        assert listed(await lookup.complete([("a",)])) == [(None, None)]
        source.error = None
        assert listed(await lookup.complete([("a",)])) == [(3.0, "x")]

    run(work, cache={"ttl_s": 600})


def test_a_slow_source_is_waited_for_as_long_as_said() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.door.clear()
        done = await lookup.complete([("a",)])
        assert listed(done) == [(40.0, None)]
        while not lookup.stats().timeouts:  # the fetch gives up by itself
            await asyncio.sleep(0.001)
        source.door.set()
        assert listed(await lookup.complete([("b",)])) == [(4.5, None)]
        assert lookup.stats().timeouts == 1
        assert lookup.stats().defaulted == 1

    run(work, timeout_ms=50, defaults={"age": 40})


def test_a_request_in_a_hurry_does_not_wait_and_the_fetch_goes_on_for_others() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.door.clear()
        patient = asyncio.create_task(lookup.complete([("a",)]))
        assert listed(await lookup.complete([("a",)], timeout_s=0.01)) == [(None, None)]
        assert listed(await lookup.complete([("a",)], timeout_s=-1)) == [(None, None)]
        source.door.set()
        assert listed(await patient) == [(3.0, "x")]
        assert len(source.asked) == 1

    run(work, timeout_ms=60_000)


def test_what_a_failure_means_is_for_the_spec_to_say() -> None:
    async def invalid(lookup: Lookup, source: Source) -> None:
        source.error = ConnectionFailed("gone", detail="secret")
        done = await lookup.complete([("a",), (None,)])
        assert done.reasons == {0: "lookup in 'pumps' failed: gone"}
        assert "secret" in str(done.failure)
        source.error = StorageError("/secret is gone")
        assert (await lookup.complete([("b",)])).reasons == {0: "lookup in 'pumps' failed"}

    async def fail(lookup: Lookup, source: Source) -> None:
        source.error = ConnectionFailed("gone", detail="secret")
        with pytest.raises(Unavailable) as refused:
            await lookup.complete([("a",)])
        assert refused.value.message == "lookup in 'pumps' failed: gone; try again"
        assert refused.value.detail == "secret"

    run(invalid, on_failure="invalid")
    run(fail, on_failure="fail")


def test_rows_with_defaults_say_that_the_source_failed() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.error = ConnectionFailed("gone", detail="secret")
        done = await lookup.complete([("a",), (None,)])
        assert done.reasons == {}
        assert done.defaulted == {0: "lookup in 'pumps' failed: gone; defaults stand in"}

    async def without(lookup: Lookup, source: Source) -> None:
        source.error = StorageError("/secret is gone")
        assert (await lookup.complete([("b",)])).defaulted == {0: "lookup in 'pumps' failed"}

    run(work, defaults={"age": 40, "kind": "y"})
    run(without)


def test_whose_time_was_over_is_said_where_a_failure_refuses() -> None:
    async def hurried(lookup: Lookup, source: Source) -> None:
        source.door.clear()
        for left_s in (0.01, -1.0):
            with pytest.raises(DeadlineExceeded, match="give the request more time"):
                await lookup.complete([("a",)], timeout_s=left_s)

    async def patient(lookup: Lookup, source: Source) -> None:
        source.door.clear()
        with pytest.raises(Unavailable, match="took longer than 60 ms; try again"):
            await lookup.complete([("a",)], timeout_s=10)

    run(hurried, on_failure="fail", timeout_ms=60_000)
    run(patient, on_failure="fail", timeout_ms=60)


def test_a_surprise_leaves_nobody_waiting() -> None:
    async def work(lookup: Lookup, source: Source) -> None:
        source.error = ZeroDivisionError("surprise")
        done = await lookup.complete([("a",)])
        assert done.reasons == {0: "lookup in 'pumps' failed"}
        assert "surprise" in str(done.failure)
        source.error = None
        assert listed(await lookup.complete([("a",)])) == [(3.0, "x")]

    run(work, on_failure="invalid", timeout_ms=60_000)


def test_one_key_that_fails_costs_only_its_rows() -> None:
    async def work(lookup: Lookup, _: Source) -> None:
        done = await lookup.complete([("a",), ("bad",)])
        assert listed(done)[0] == (3.0, "x")
        assert done.reasons == {1: "no JSON"}
        assert not lookup.stats().is_open

    rows: Mapping[Key, Found] = {**ROWS, ("bad",): ConnectionFailed("no JSON", detail="at 3")}
    run(work, rows=rows, on_failure="invalid", circuit=Circuit(failures=1))


def test_a_source_that_fails_again_and_again_is_left_alone_and_tried_later() -> None:
    now = [0.0]

    async def work(lookup: Lookup, source: Source) -> None:
        source.error = ConnectionFailed("gone")
        for _ in range(10):
            assert listed(await lookup.complete([("a",)])) == [(1.0, None)]
        stats = lookup.stats()
        assert (len(source.asked), stats.failures, stats.skipped, stats.defaulted) == (3, 3, 7, 10)
        assert stats.is_open
        assert stats.last_error == "lookup in 'pumps' failed: gone"
        source.error = None
        now[0] = 1.0
        assert listed(await lookup.complete([("a",)])) == [(3.0, "x")]
        assert not lookup.stats().is_open

    circuit = Circuit(failures=3, first_wait_s=1, clock=lambda: now[0])
    run(work, circuit=circuit, defaults={"age": 1})


def test_rows_of_the_future_and_rows_too_old_are_missing() -> None:
    now = dt.datetime.now(dt.UTC)
    rows: Mapping[Key, Found] = {
        ("new",): (1, "x", now - dt.timedelta(seconds=5)),
        ("old",): (2, "x", (now - dt.timedelta(hours=2)).isoformat()),
        ("future",): (3, "x", now.timestamp() + 3600),
        ("never",): (4, "x", None),
        ("odd",): (5, "x", "yesterday"),
    }

    async def work(lookup: Lookup, _: Source) -> None:
        done = await lookup.complete([(key,) for (key,) in rows])
        assert done.columns["age"] == [1.0, None, None, None, None]

    run(work, rows=rows, as_of="since", max_age_s=3600)


def test_closing_ends_what_is_under_way() -> None:
    async def go() -> None:
        source = Source(ROWS)
        source.door.clear()
        lookup = Lookup(load_lookup({**USUAL, "timeout_ms": 60_000}), SCHEMA, source)
        waiting = asyncio.create_task(lookup.complete([("a",)]))
        await asyncio.sleep(0.01)
        await lookup.close()
        assert listed(await waiting) == [(None, None)]

    asyncio.run(go())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": ["speed"]}, "field 'lookup.features': the fleet has no feature 'speed'; it has age, kind, own"),
        ({"keys": ["own"]}, "'own' is a numeric feature; look up by texts and keys"),
        ({"keys": ["stie"]}, "field 'lookup.keys': the fleet has no column 'stie'; if requests are to bring it"),
        ({"key_types": {"site": "integer"}}, "field 'lookup.key_types': 'site' is string in this fleet"),
        ({"defaults": {"age": "old"}}, "field 'lookup.defaults.age': 'old' is not what this feature is: numeric"),
        ({"defaults": {"kind": 5}}, "field 'lookup.defaults.kind'"),
    ],
)
def test_what_does_not_fit_the_fleet_is_named(changes: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        Lookup(load_lookup({**USUAL, **changes}), SCHEMA, Source(ROWS))
    assert words in str(error.value)


def test_values_become_what_models_see() -> None:
    numbers = [1, True, "2.5", b"3", 1e300, "nan", None, float("nan")]
    assert [read_as(value, FeatureKind.NUMERIC) for value in numbers] == [1, 1, 2.5, 3, 1e300, None, None, None]
    assert [read_as(value, FeatureKind.CATEGORY) for value in ("x", b"y", None)] == ["x", "y", None]
