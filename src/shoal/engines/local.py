"""Processes on this machine: every item runs alone in a process that may fail, hang or be killed.

Worker processes are started as programs of their own, not forked (threads and locks of this process stay out of it)
and not through :mod:`multiprocessing` (which would run the user's script again in every worker). They compute with one
thread each, so that results do not depend on how many cores share the work.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, cast

from shoal.engines.contract import Answer, Context, Done, Failure, Item, Lost, Work
from shoal.engines.threads import usable_cores
from shoal.engines.worker import DONE, READY
from shoal.errors import ShoalError

#: A batch of items is about this much work, so that handing it over costs little and nobody waits long at the end.
_BATCH_S = 0.1
_LARGEST_BATCH = 64
#: How often to look whether a silent worker is still alive.
_LOOK_S = 0.5
#: How often an item may take a worker with it: the first time, another process may have used up the memory.
_DEATHS = 2

_ONE_THREAD = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "LOKY_MAX_CPU_COUNT",
)  # fmt: skip


class LocalEngine:
    """Runs tasks in processes on this machine.

    Workers start with the first run and are kept between runs. Not thread-safe: one run at a time.

    Parameters
    ----------
    processes : int, optional
        How many items to work on at once; the number of usable cores unless told.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes or usable_cores()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, work: Work[Context, Item, Answer], items: Sequence[Item]) -> Iterator[Done[Answer] | Lost]:
        """Run a task over items, see :meth:`shoal.engines.contract.Engine.run`."""
        self._workers = [worker for worker in self._workers if worker.process.poll() is None]
        run = _Run(work, items)
        finished = False
        try:
            while not run.finished:
                self._staff(run)
                yield from run.collect(self._workers)
                self._bury()
            finished = True
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _staff(self, run: "_Run[Context, Item, Answer]") -> None:
        """Give everybody who waits something to do."""
        while len(self._workers) < self.processes:
            self._workers.append(_Worker())
        for worker in self._workers:
            run.employ(worker)

    def _bury(self) -> None:
        self._workers = [worker for worker in self._workers if not worker.gone]


class _Worker:
    """A worker process as seen from here."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"from shoal.engines.worker import serve; serve({theirs.fileno()})"
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an estimator prints must not mix with our own output
                env=_environment(),
                process_group=0,  # Ctrl-C is for us; we stop the workers
            )
        self.connection = Connection(ours.detach())
        self.work: object = None
        self.ready = False
        self.todo: deque[int] = deque()
        self.since = 0.0
        self.gone = False

    def set_up(self, work: Work[Context, Item, Answer]) -> None:
        self.work, self.ready = work, False
        self._send((work.setup, work.context))

    def hand(self, batch: list[tuple[int, Item]]) -> None:
        self.todo.extend(position for position, _ in batch)
        self.since = time.monotonic()
        self._send(batch)

    def _send(self, message: object) -> None:
        with contextlib.suppress(ConnectionError):  # it has died: whoever listens to it finds out
            self.connection.send(message)

    def messages(self) -> Iterator[tuple[object, ...]]:
        """What it has said; marks it as gone when it hung up."""
        try:
            while self.connection.poll():
                yield self.connection.recv()
                self.since = time.monotonic()
        except (EOFError, ConnectionError):
            self.gone = True

    def stop(self) -> str:
        """End the process at once; it holds nothing that could be damaged. Returns how it ended."""
        if not self.gone:
            self.process.kill()
        try:
            code = self.process.wait(timeout=10 if self.gone else None)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.connection.close()
        self.gone = True
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


class _Run(Generic[Context, Item, Answer]):
    """One task over many items: what is left to do, and who is at it."""

    def __init__(self, work: Work[Context, Item, Answer], items: Sequence[Item]) -> None:
        self.work = work
        self.items = items
        self.left = len(items)
        self.queue = deque(range(len(items)))
        self.suspects: deque[int] = deque()
        self.deaths: dict[int, int] = {}
        self.pace_s = _BATCH_S

    @property
    def finished(self) -> bool:
        return self.left == 0

    def employ(self, worker: _Worker) -> None:
        """Set a worker up, or hand it its next items."""
        if worker.work is not self.work:
            worker.set_up(self.work)
        elif worker.ready and not worker.todo:
            batch = self._batch()
            if batch:
                worker.hand([(position, self.items[position]) for position in batch])

    def _batch(self) -> list[int]:
        """The next items; what a worker died of goes alone, when all else is handed out."""
        size = max(1, min(_LARGEST_BATCH, int(_BATCH_S / self.pace_s)))
        if self.queue:
            return [self.queue.popleft() for _ in range(min(size, len(self.queue)))]
        return [self.suspects.popleft()] if self.suspects else []

    def collect(self, workers: Sequence[_Worker]) -> Iterator[Done[Answer] | Lost]:
        """Wait for news and pass it on."""
        now = time.monotonic()
        deadlines = [worker.since + self.work.timeout_s - now for worker in workers if worker.todo]
        patience = max(0.0, min([_LOOK_S, *deadlines]))
        heard = wait([worker.connection for worker in workers], timeout=patience)
        for worker in workers:
            # Whoever takes the answers may have kept us from listening: what was said meanwhile is not late.
            if worker.connection in heard or self._is_late(worker):
                for message in worker.messages():
                    yield from self._news(worker, message)
            elif worker.process.poll() is not None:
                worker.gone = True
            if worker.gone:
                yield from self._died(worker)
            elif self._is_late(worker):
                yield self._timed_out(worker)

    def _is_late(self, worker: _Worker) -> bool:
        return bool(worker.todo) and time.monotonic() - worker.since > self.work.timeout_s

    def _news(self, worker: _Worker, message: tuple[object, ...]) -> Iterator[Done[Answer] | Lost]:
        if message[0] == READY:
            if message[1] is not None:
                raise ShoalError(f"the worker processes could not be set up: {message[1]}")
            worker.ready = True
            return
        kind, position, content, seconds = cast("tuple[int, int, Any, float]", message)
        worker.todo.popleft()
        self.left -= 1
        self.pace_s += 0.1 * (seconds - self.pace_s)
        if kind == DONE:
            yield Done(position=position, answer=content, seconds=seconds)
        else:
            yield Lost(position=position, failure=Failure.RAISED, reason=content, seconds=seconds)

    def _died(self, worker: _Worker) -> Iterator[Lost]:
        """Only the item that the worker was at is under suspicion; those behind it go back to the queue."""
        how = worker.stop()
        if not worker.ready:
            raise ShoalError(f"a worker process ended while starting ({how}); its messages are on standard error")
        if not worker.todo:
            return
        position = worker.todo.popleft()
        self._put_back(worker)
        self.deaths[position] = self.deaths.get(position, 0) + 1
        if self.deaths[position] < _DEATHS:
            self.suspects.append(position)
            return
        self.left -= 1
        reason = f"its worker process ended {self.deaths[position]} times ({how})"
        seconds = time.monotonic() - worker.since
        yield Lost(position=position, failure=Failure.DIED, reason=reason, seconds=seconds)

    def _timed_out(self, worker: _Worker) -> Lost:
        position = worker.todo.popleft()
        self._put_back(worker)
        worker.stop()
        self.left -= 1
        return Lost(
            position=position,
            failure=Failure.TIMED_OUT,
            reason=f"it took longer than {self.work.timeout_s:g} s",
            seconds=time.monotonic() - worker.since,
        )

    def _put_back(self, worker: _Worker) -> None:
        self.queue.extendleft(reversed(worker.todo))
        worker.todo.clear()


def _environment() -> dict[str, str]:
    """The environment of this process, with its import path, and one thread for whatever computes."""
    paths = [str(Path(path).absolute()) for path in sys.path]
    return {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
