"""Queues: what waits together runs together, bounds hold, and nobody pays for another's fault."""

import asyncio
import itertools
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import DeadlineExceeded, InvalidInput, Overloaded
from shoal.requests import gathering
from shoal.requests.batcher import Batcher, Lane, Limits
from shoal.requests.cost import Cost

INLINE = Limits(queue_rows=1000, inline_s=10.0, call_s=10.0)
THREADED = Limits(queue_rows=1000, inline_s=0.0, call_s=10.0)


@pytest.fixture
def lane():
    made = Lane(queue_bytes=1 << 20)
    yield made
    made.close()


class Doubler:
    """Doubles numbers, refuses texts, and remembers its calls."""

    def __init__(self):
        self.calls = []
        self.threads = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items):
        assert self.gate.wait(20)
        self.calls.append(list(items))
        self.threads.add(threading.current_thread().name)
        if any(isinstance(item, str) for item in items):
            raise InvalidInput("no number")
        return [2 * item for item in items]


def batcher_of(run, lane, limits=INLINE, **options):
    return Batcher(run, lane=lane, limits=limits, **options)


@pytest.mark.parametrize("limits", [INLINE, THREADED])
def test_what_waits_together_runs_together_and_each_gets_its_own(lane, limits):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, limits)
        answers = await asyncio.gather(*[batcher.submit(i, rows=1) for i in range(20)])
        assert answers == [2 * i for i in range(20)]
        assert await batcher.submit(50, rows=1) == 100
        assert batcher.idle
        assert (batcher.tally.batches, batcher.tally.rows) == (2, 21)

    asyncio.run(main())
    assert run.calls == [list(range(20)), [50]]
    assert all(name.startswith("shoal-score") == (limits is THREADED) for name in run.threads)


def test_a_request_without_rows_counts_no_call(lane):
    async def main():
        batcher = batcher_of(Doubler(), lane)
        assert await batcher.submit(1, rows=0) == 2
        assert (batcher.tally.batches, batcher.tally.rows) == (0, 0)

    asyncio.run(main())


def test_while_a_call_runs_the_queue_fills_and_is_drained_as_one(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, THREADED)
        run.gate.clear()
        first = batcher.submit(0, rows=1)
        await asyncio.sleep(0.01)
        later = [batcher.submit(i, rows=1) for i in range(1, 6)]
        run.gate.set()
        assert await asyncio.gather(first, *later) == [0, 2, 4, 6, 8, 10]

    asyncio.run(main())
    assert run.calls == [[0], [1, 2, 3, 4, 5]]


def test_what_a_door_hands_over_one_by_one_becomes_one_call_and_what_others_bring_does_not_wait(lane, monkeypatch):
    ticks = itertools.count()  # a tick may take long on a busy machine; here each look comes a moment after the last
    monkeypatch.setattr(gathering, "time", SimpleNamespace(perf_counter=lambda: next(ticks) * gathering.QUIET_S / 5))
    run = Doubler()

    async def trickling(batcher, one_by_one):
        """Requests that each come a tick after the one before."""
        futures = []
        for i in range(6):
            futures.append(batcher.submit(i, rows=1, one_by_one=one_by_one))
            await asyncio.sleep(0)
        assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8, 10]

    async def main():
        await trickling(batcher_of(run, lane), one_by_one=True)
        together = len(run.calls)
        await trickling(batcher_of(run, lane), one_by_one=False)
        return together, len(run.calls) - together

    assert asyncio.run(main()) == (1, 6)


def test_without_batching_every_request_is_a_call(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, Limits(queue_rows=100, inline_s=10, call_s=10, batching=False))
        await asyncio.gather(*[batcher.submit(i, rows=3) for i in range(4)])

    asyncio.run(main())
    assert run.calls == [[0], [1], [2], [3]]


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=12), st.booleans())
def test_a_bad_request_fails_alone(items, inline):
    async def main():
        lane = Lane(queue_bytes=1 << 20)
        batcher = batcher_of(Doubler(), lane, INLINE if inline else THREADED)
        answers = await asyncio.gather(*[batcher.submit(i, rows=1) for i in items], return_exceptions=True)
        for item, answer in zip(items, answers, strict=True):
            assert isinstance(answer, InvalidInput) if isinstance(item, str) else answer == 2 * item
        assert batcher.waiting_rows == lane.waiting_bytes == 0
        lane.close()

    asyncio.run(main())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, Limits(queue_rows=10, inline_s=0, call_s=10), cost=Cost(call_s=1.0, row_s=0.5))
        run.gate.clear()
        running = batcher.submit(1, rows=1)
        await asyncio.sleep(0.01)
        waiting = batcher.submit(2, rows=10)
        with pytest.raises(Overloaded, match="10 rows") as refused:
            batcher.submit(3, rows=1)
        assert refused.value.retry_after_s == 6.0
        run.gate.set()
        assert await asyncio.gather(running, waiting) == [2, 4]
        assert await batcher.submit(4, rows=1) == 8

    asyncio.run(main())


def test_bytes_count_over_all_queues_and_a_large_request_passes_an_empty_one():
    run = Doubler()

    async def main():
        lane = Lane(queue_bytes=100)
        one, other = batcher_of(run, lane), batcher_of(run, lane)
        large = one.submit(1, rows=5000, size_bytes=5000)
        with pytest.raises(Overloaded, match="5000 bytes"):
            other.submit(2, rows=1, size_bytes=1)
        assert await large == 2
        assert await other.submit(2, rows=1, size_bytes=100) == 4
        one.admit(10, 60)
        with pytest.raises(Overloaded):
            other.admit(1, 60)
        one.release(10, 60)
        other.admit(1, 60)
        lane.close()

    asyncio.run(main())


def test_expired_requests_are_dropped_before_the_call(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane)
        late = batcher.submit(1, rows=1, deadline_s=time.monotonic() - 1)
        on_time = batcher.submit(2, rows=1, deadline_s=time.monotonic() + 60)
        with pytest.raises(DeadlineExceeded, match="deadline"):
            await late
        assert await on_time == 4

    asyncio.run(main())
    assert run.calls == [[2]]


def test_a_deadline_that_passes_behind_a_long_call_is_told_at_once(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, THREADED)
        run.gate.clear()
        first = batcher.submit(0, rows=1)
        await asyncio.sleep(0.01)
        waiting = [batcher.submit(i, rows=1, deadline_s=time.monotonic() + i / 100) for i in (3, 1, 2)]
        patient = batcher.submit(9, rows=1, deadline_s=time.monotonic() + 60)
        for future in waiting:
            with pytest.raises(DeadlineExceeded):
                await future
        assert not first.done()
        run.gate.set()
        assert await asyncio.gather(first, patient) == [0, 18]

    asyncio.run(main())
    assert run.calls == [[0], [9]]


def test_who_goes_away_is_taken_out_of_the_queue(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, THREADED)
        run.gate.clear()
        first = batcher.submit(0, rows=1)
        await asyncio.sleep(0.01)

        async def caller(item):
            return await batcher.submit(item, rows=1, size_bytes=10)

        tasks = [asyncio.create_task(caller(i)) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        run.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [answers[i] for i in (0, 1, 3)] == [0, 2, 6]
        assert isinstance(answers[2], asyncio.CancelledError)
        assert batcher.waiting_rows == lane.waiting_bytes == 0

    asyncio.run(main())
    assert run.calls == [[0], [1, 3]]


def test_heavy_queues_take_turns_and_light_ones_do_not_wait_for_them(lane):
    order = []

    def running(name, gate):
        def run(items):
            gate.wait(20)
            order.append(name)
            return items

        return run

    async def main():
        gate, opened = threading.Event(), threading.Event()
        opened.set()
        one_call = Limits(queue_rows=10**6, inline_s=0, call_s=0)
        heavy, other = (batcher_of(running(n, gate), lane, one_call) for n in ("heavy", "other"))
        light = batcher_of(running("light", opened), lane)
        futures = [heavy.submit(i, rows=10_000) for i in range(3)]
        futures += [other.submit(i, rows=10_000) for i in range(3)]
        await asyncio.sleep(0.01)
        assert await light.submit(7, rows=1) == 7
        gate.set()
        assert await asyncio.gather(*futures) == [0, 1, 2, 0, 1, 2]

    asyncio.run(main())
    assert order == ["light", "heavy", "other", "heavy", "other", "heavy", "other"]


def test_cost_is_learnt_from_calls():
    cost = Cost(call_s=1e-3, row_s=1e-3)
    for _ in range(100):
        cost.learn(1, spent_s=2e-4)
        cost.learn(1000, spent_s=2e-4 + 1000 * 5e-6)
    assert cost.of(1) == pytest.approx(2e-4, rel=0.1)
    assert cost.of(1000) == pytest.approx(5.2e-3, rel=0.1)
    assert cost.rows_in(0.02) == pytest.approx(3960, rel=0.05)
    assert cost.rows_in(0) == 256


def test_memory_does_not_grow_with_refusals_and_cancellations(lane):
    run = Doubler()

    async def main():
        batcher = batcher_of(run, lane, THREADED)
        run.gate.clear()
        first = batcher.submit(0, rows=1)
        await asyncio.sleep(0.01)
        waiting = [batcher.submit(i, rows=1) for i in range(1000)]
        refused = 0
        for _ in range(10_000):
            try:
                batcher.submit(0, rows=1)
            except Overloaded:
                refused += 1
        assert refused == 10_000
        assert batcher.waiting_rows == 1000
        for future in waiting:
            future.cancel()
        run.gate.set()
        await first
        assert batcher.waiting_rows == 0
        assert batcher.idle

    asyncio.run(main())
    assert len(run.calls) == 1
