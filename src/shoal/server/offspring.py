"""Processes that the supervisor starts: forks of itself where that is safe, fresh interpreters elsewhere.

A fork has all modules and kernels that the supervisor loaded, in the same memory until one of the two writes there: a
worker starts in milliseconds and takes a fraction of the memory. It is safe where nothing of ours runs beside it: on
Linux, from a process with one thread, that has opened no database and asked nothing of Polars, whose threads would be
missing in the child. That is checked each time, not assumed.
"""

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

from shoal.scoring.warming import warm_kernels
from shoal.server.worker import main

_TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Process(Protocol):
    """A process that was started here; as :class:`subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    returncode: int | None
    """How it ended, negative for a signal; None as far as is known."""

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        ...

    def wait(self) -> int:
        """Wait until it has ended."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


class Forked:
    """A fork of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Wait until it has ended."""
        code = self._reap(0)
        assert code is not None
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _reap(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:  # until it was waited for, its number is nobody else's
            os.kill(self.pid, number)


def prepare() -> None:
    """Load what every worker needs, once, before the first of them is forked."""
    if may_fork():
        warm_kernels()
        gc.collect()
        gc.freeze()  # objects that no collection looks at stay in memory that is shared


def may_fork() -> bool:
    """Whether a fork of this process would be whole."""
    return sys.platform == "linux" and threading.active_count() == 1


def start_worker(descriptor: int, kept: Collection[int], environment: Mapping[str, str], name: str) -> Process:
    """Start a worker.

    Parameters
    ----------
    descriptor : int
        File descriptor of its end of the pair; see :func:`shoal.server.worker.main`.
    kept : collection of int
        The other file descriptors that it needs; it gets no others.
    environment : mapping of str to str
        What is added to its environment.
    name : str
        What lists of processes call it, where it is a fork.
    """
    kept = {descriptor, *kept}
    if may_fork():
        return _fork(descriptor, kept, environment, name)
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        [sys.executable, "-P", "-c", f"from shoal.server.worker import main; main({descriptor})"],
        pass_fds=tuple(kept),
        stdin=subprocess.DEVNULL,
        stdout=2,  # the line that says where the server listens stays alone on the standard output
        env={**os.environ, **environment},
        process_group=0,  # Ctrl-C is for us; we end the workers
    )


def _fork(descriptor: int, kept: Collection[int], environment: Mapping[str, str], name: str) -> Forked:
    # A signal that comes before the child has ears of its own must not be heard with ours.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
    try:
        pid = os.fork()
        if not pid:
            _work(descriptor, kept, environment, name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Forked(pid)


def _work(descriptor: int, kept: Collection[int], environment: Mapping[str, str], name: str) -> NoReturn:
    """Be the worker; whatever happens, nothing of the supervisor's goes on here."""
    try:
        signal.set_wakeup_fd(-1)
        for number in _TOLD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        _close_all_but(kept)
        os.environ.update(environment)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(name)
        main(descriptor)
    except BaseException:  # noqa: BLE001 - there is nobody above who could handle it
        traceback.print_exc()
    finally:
        os._exit(1)


def _close_all_but(kept: Collection[int]) -> None:
    """Close all beyond the standard streams.

    Who keeps another worker's end of a pair open would keep that worker from noticing that we died.
    """
    for low, high in itertools.pairwise([2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]):
        if low + 1 < high:  # of an empty range the system closes everything
            os.closerange(low + 1, high)


def share_of_cores(workers: int) -> dict[str, str]:
    """What is added to the environment of the workers, which share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {} if "POLARS_MAX_THREADS" in os.environ else {"POLARS_MAX_THREADS": str(max(1, cores // workers))}
