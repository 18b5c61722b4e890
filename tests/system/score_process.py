"""Processes for the tests of score jobs: each runs a job, or the rest of one, and may die at a step."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from score_world import scorer

# The imports happen once, in a server that has no threads yet; each process is a fork of it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["shoal", "sklearn.linear_model"])


@dataclass
class Worker:
    """A process and the file it leaves its last words in."""

    process: ForkServerProcess
    words: Path

    def wait(self) -> int:
        """Its exit code."""
        self.process.join(120)
        code = self.process.exitcode
        assert code is not None, "the process hangs"
        self.process.close()
        return code

    @property
    def said(self) -> str:
        return self.words.read_text() if self.words.exists() else ""


def start(home: Path, what: Mapping[str, object] | str, step: str = "", time: int = 1) -> Worker:
    """Run a job (a mapping) or resume a run (its id); dies when ``step`` comes for the given time."""
    words = home.parent / f"words-{os.urandom(4).hex()}"
    process = CONTEXT.Process(target=_work, args=(home, what, step, time, words))
    process.start()
    return Worker(process, words)


def kill(home: Path, what: Mapping[str, object] | str, step: str, time: int = 1) -> None:
    """Run or resume a job and see that it is killed at a step."""
    worker = start(home, what, step, time)
    code = worker.wait()
    assert code == -signal.SIGKILL, (code, worker.said)


def _work(home: Path, what: Mapping[str, object] | str, step: str, time: int, words: Path) -> None:
    one = scorer(home, dies_at(step, time))
    try:
        summary = one.resume(what) if isinstance(what, str) else one.score(what)
    except BaseException as error:
        words.write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
    words.write_text(summary.run)


def dies_at(step: str, time: int) -> Callable[[str], None]:
    """A checkpoint that kills the process when a step comes for the given time."""
    lock, seen = threading.Lock(), [0]

    def checkpoint(name: str) -> None:
        with lock:
            seen[0] += name == step
            if name == step and seen[0] == time:
                os.kill(os.getpid(), signal.SIGKILL)

    return checkpoint
