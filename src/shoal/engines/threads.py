"""Threads that share one process's kernels: ranges of rows are cut into tasks, results never depend on the cut."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Fewer rows than this are not worth waking another thread for.
SMALL = 4096


class Threads:
    """A pool of threads for calls that let go of the GIL.

    Parameters
    ----------
    count : int, optional
        How many threads work at once; the number of usable cores unless told.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or usable_cores()
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def over(self, total: int, task: Callable[[int, int], None], *, grain: int = SMALL) -> None:
        """Call ``task(lo, hi)`` for ranges that cover ``0 .. total``, side by side where that pays.

        Parameters
        ----------
        total : int
            Number of items.
        task : callable
            Works on the items ``lo`` to ``hi``; an exception is raised here once all tasks have ended.
        grain : int
            Items in the smallest range worth a task of its own.
        """
        tasks = min(self.count * 4, total // max(grain, 1))
        if self.count == 1 or tasks < 2:
            if total:
                task(0, total)
            return
        bounds = [total * i // tasks for i in range(tasks + 1)]
        futures = [self._executor().submit(task, lo, hi) for lo, hi in itertools.pairwise(bounds)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="shoal-kernel")
            return self._pool


def usable_cores() -> int:
    """Cores this process may run on: its affinity where the system has one, all of them elsewhere."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


_shared: Threads | None = None
_shared_lock = threading.Lock()


def shared_threads() -> Threads:
    """The process's own pool, made at the first call and again in a forked child."""
    global _shared  # noqa: PLW0603 - a pool of threads belongs to the process, like its standard output
    with _shared_lock:
        if _shared is None:
            _shared = Threads()
        return _shared


def _forget() -> None:
    """Threads do not survive a fork; the child makes its own pool and lock."""
    global _shared, _shared_lock  # noqa: PLW0603
    _shared = None
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
