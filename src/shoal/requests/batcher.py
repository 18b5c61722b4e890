"""Requests that wait at the same moment run as one call.

Nobody waits for company: a turn takes what has queued while the last call ran, or within the same tick of the event
loop. What a door hands over one by one, though more have come to it, is gathered first: see :mod:`.gathering`.

Light calls run in the event loop itself, for handing them to a thread costs more than they do; heavy ones run in the
process's one worker thread, in turns, so that no queue keeps the others waiting.

A queue belongs to one event loop and is not safe for threads; only ``run`` may be called in the worker thread.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from shoal.errors import DeadlineExceeded, Overloaded
from shoal.requests.cost import SHARED_ROWS, Cost
from shoal.requests.futures import settle
from shoal.requests.gathering import Gathering

Item = TypeVar("Item")
Answer = TypeVar("Answer")

#: Fewest and most seconds that a refused caller is told to stay away.
SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.05, 30.0


class Lane:
    """What all batchers of a process share: one worker thread, and the bytes that may wait.

    Parameters
    ----------
    queue_bytes : int
        Bytes that may wait in all queues.
    """

    def __init__(self, queue_bytes: int) -> None:
        self.queue_bytes = queue_bytes
        self.waiting_bytes = 0
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="shoal-score")

    def close(self) -> None:
        """Let the worker thread end."""
        self.executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of a batcher.

    Attributes
    ----------
    queue_rows : int
        Rows that may wait.
    inline_s : float
        Calls that are expected to take longer run in the worker thread, in seconds.
    call_s : float
        How long a call should take at most, in seconds; what waits beyond that has to wait for the next.
    batching : bool
        False: every request is a call of its own.
    """

    queue_rows: int
    inline_s: float
    call_s: float
    batching: bool = True


class Waiting(Generic[Item, Answer]):
    """A request in the queue."""

    __slots__ = ("deadline_s", "future", "item", "queued_ns", "rows", "size_bytes")

    def __init__(
        self, item: Item, rows: int, size_bytes: int, deadline_s: float | None, future: "asyncio.Future[Answer]"
    ) -> None:
        self.item = item
        self.rows = rows
        self.size_bytes = size_bytes
        self.deadline_s = deadline_s
        self.future = future
        self.queued_ns = time.perf_counter_ns()


class Tally:
    """What a batcher has done; only ever grows.

    Attributes
    ----------
    batches, rows : int
        Calls with any rows, and rows in them.
    queue_ns, compute_ns : int
        How long requests waited and calls took, summed, in nanoseconds.
    """

    __slots__ = ("batches", "compute_ns", "queue_ns", "rows")

    def __init__(self) -> None:
        self.batches = self.rows = self.queue_ns = self.compute_ns = 0


class Batcher(Generic[Item, Answer]):
    """One queue and the calls that empty it.

    Parameters
    ----------
    run : callable
        From items to their answers, in the same order; an item whose answer is an exception fails with it. If it
        raises, each item is run by itself, and only those that raise again fail.
    lane : Lane
        Shared by the batchers of the process.
    limits : Limits
        Bounds.
    cost : Cost, optional
        What calls are known to cost, e.g. from the snapshot before.
    name : str
        What is asked, for messages.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        *,
        lane: Lane,
        limits: Limits,
        cost: Cost | None = None,
        name: str = "this model",
    ) -> None:
        self._run = run
        self._lane = lane
        self._limits = limits
        self.cost = cost or Cost()
        self._name = name
        self._waiting: deque[Waiting[Item, Answer]] = deque()
        self._turning = False
        self._gathering = Gathering()
        self._one_by_one = False
        self._sweep: asyncio.TimerHandle | None = None
        self.waiting_rows = 0
        self.tally = Tally()

    def submit(
        self,
        item: Item,
        *,
        rows: int,
        size_bytes: int = 0,
        deadline_s: float | None = None,
        admitted: bool = False,
        one_by_one: bool = False,
    ) -> "asyncio.Future[Answer]":
        """Queue a request.

        Parameters
        ----------
        item : Item
            What ``run`` gets.
        rows, size_bytes : int
            What it counts against the bounds.
        deadline_s : float, optional
            Point of ``time.monotonic()`` after which nobody wants the answer.
        admitted : bool
            Whether :meth:`admit` counted it already.
        one_by_one : bool
            Whether it came from a door that hands over requests one by one, though more may have come to it.

        Returns
        -------
        Future of Answer
            Cancelling it takes the request out of the queue.

        Raises
        ------
        Overloaded
            The queue is full; says when to come back.
        """
        if not admitted:
            self.admit(rows, size_bytes)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(Waiting(item, rows, size_bytes, deadline_s, future))
        self._one_by_one = self._one_by_one or one_by_one
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        elif deadline_s is not None:
            self._sweep_at(loop, deadline_s)
        return future

    def admit(self, rows: int, size_bytes: int) -> None:
        """Count rows and bytes as waiting, be it before they are submitted; :meth:`release` what never is.

        Raises
        ------
        Overloaded
            They do not fit. A request that alone is more than the bounds passes when nothing else waits.
        """
        lane = self._lane
        if self.waiting_rows and self.waiting_rows + rows > self._limits.queue_rows:
            raise self._overloaded(f"{self.waiting_rows} rows are waiting for {self._name}")
        if lane.waiting_bytes and lane.waiting_bytes + size_bytes > lane.queue_bytes:
            raise self._overloaded(f"{lane.waiting_bytes} bytes are waiting in this server")
        self.waiting_rows += rows
        lane.waiting_bytes += size_bytes

    def release(self, rows: int, size_bytes: int) -> None:
        """Count rows and bytes as waiting no more."""
        self.waiting_rows -= rows
        self._lane.waiting_bytes -= size_bytes

    def piece_rows(self) -> int:
        """How many rows of a large request should be submitted at a time, so that others get their turn."""
        return self.cost.rows_in(self._limits.call_s / 4)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._turning

    def _overloaded(self, why: str) -> Overloaded:
        wait_s = self.cost.of(self.waiting_rows)
        retry_after_s = min(max(wait_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)
        return Overloaded(f"{why}; try again in {retry_after_s:.2g} s", retry_after_s=retry_after_s)

    def _turn(self) -> None:
        """Take what waits and run it, here or in the worker thread."""
        loop = asyncio.get_running_loop()
        if self._one_by_one and self._limits.batching and self._gathering.goes_on(len(self._waiting)):
            loop.call_soon(self._turn)
            return
        self._one_by_one = False
        batch, rows = self._take()
        if not batch:
            self._turning = False
        elif self.cost.of(rows) <= self._limits.inline_s:
            _settle(batch, self._call(batch, rows))
            if self._waiting:
                loop.call_soon(self._turn)
            else:
                self._turning = False
        else:
            call = loop.run_in_executor(self._lane.executor, self._call, batch, rows)
            call.add_done_callback(lambda done: self._returned(batch, done))

    def _returned(
        self, batch: Sequence[Waiting[Item, Answer]], done: "asyncio.Future[Sequence[Answer | Exception]]"
    ) -> None:
        if done.cancelled():
            for waiting in batch:
                waiting.future.cancel()
            self._turning = False
            return
        _settle(batch, done.result())
        self._turn()

    def _take(self) -> tuple[list[Waiting[Item, Answer]], int]:
        """What runs next: everything that waits and is still wanted, up to the rows that fit one call."""
        most = self.cost.rows_in(self._limits.call_s) if self._limits.batching else 0
        batch: list[Waiting[Item, Answer]] = []
        rows = 0
        now_s: float | None = None
        while self._waiting and (not batch or rows + self._waiting[0].rows <= most):
            waiting = self._waiting.popleft()
            self.release(waiting.rows, waiting.size_bytes)
            if waiting.future.done():
                continue
            if waiting.deadline_s is not None:
                now_s = time.monotonic() if now_s is None else now_s
                if waiting.deadline_s <= now_s:
                    waiting.future.set_exception(_expired())
                    continue
            batch.append(waiting)
            rows += waiting.rows
        return batch, rows

    def _call(self, batch: Sequence[Waiting[Item, Answer]], rows: int) -> Sequence[Answer | Exception]:
        started_ns, started_s = time.perf_counter_ns(), time.thread_time()
        answers = self._answers([waiting.item for waiting in batch])
        cpu_s, wall_ns = time.thread_time() - started_s, time.perf_counter_ns() - started_ns
        self.cost.learn(rows, spent_s=cpu_s if rows < SHARED_ROWS else wall_ns / 1e9)
        tally = self.tally
        tally.compute_ns += wall_ns
        tally.queue_ns += sum([started_ns - waiting.queued_ns for waiting in batch])
        tally.batches += rows > 0  # no kernel is called for none
        tally.rows += rows
        return answers

    def _answers(self, items: list[Item]) -> Sequence[Answer | Exception]:
        try:
            return self._run(items)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one request's, and is raised to its caller
            if len(items) == 1:
                return [error]
        return [self._answers([item])[0] for item in items]

    def _sweep_at(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        """See to it that a request whose deadline passes behind a long call is told at once."""
        when = loop.time() + deadline_s - time.monotonic()
        if self._sweep is None or when < self._sweep.when():
            if self._sweep is not None:
                self._sweep.cancel()
            self._sweep = loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._sweep = None
        now_s = time.monotonic()
        later = [w.deadline_s for w in self._waiting if w.deadline_s is not None and w.deadline_s > now_s]
        for waiting in self._waiting:
            if waiting.deadline_s is not None and waiting.deadline_s <= now_s and not waiting.future.done():
                waiting.future.set_exception(_expired())
        if later:
            self._sweep_at(asyncio.get_running_loop(), min(later))


def _settle(batch: Sequence[Waiting[Item, Answer]], answers: Sequence[Answer | Exception]) -> None:
    settle(zip([waiting.future for waiting in batch], answers, strict=True))


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the request waited; give it more time, or send fewer at once")
