"""What the tests of the engines let workers do."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

Task = Callable[[object], object]


def calculator(factor: int) -> Task:
    """Numbers are multiplied; some words do harm."""

    def task(item: object) -> object:
        if isinstance(item, int):
            return item * factor
        return HARM[str(item).partition(":")[0]](str(item).partition(":")[2])

    return task


def broken(_: object) -> Task:
    raise ImportError("no module named tomorrow")


def _die(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def _sleep(seconds: str) -> str:
    time.sleep(float(seconds))
    return "slept"


def _raise(text: str) -> None:
    raise ValueError(text)


def _exit(code: str) -> None:
    sys.exit(int(code))


def _lambda(_: str) -> object:
    return lambda: None


def _environment(name: str) -> str:
    return os.environ.get(name, "")


def _pid(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def _print(text: str) -> None:
    print(text)


HARM: dict[str, Callable[[str], object]] = {
    "die": _die, "die_once": _die_once, "sleep": _sleep, "raise": _raise, "exit": _exit, "lambda": _lambda,
    "environment": _environment, "pid": _pid, "print": _print,
}  # fmt: skip
