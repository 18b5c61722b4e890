"""A worker process of the local engine: takes work and batches of items from a connection, answers item by item.

Messages to the worker are ``(setup, context)`` or a list of ``(position, item)``; from it come ``(READY, error)``
after a setup and ``(DONE, position, answer, seconds)`` or ``(RAISED, position, reason, seconds)`` for every item, as
soon as it ends, so that the other side always knows which item a worker is at.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

READY: Final = 0
DONE: Final = 1
RAISED: Final = 2

Task = Callable[[object], object]


def serve(descriptor: int) -> None:
    """Work until the other side hangs up.

    Parameters
    ----------
    descriptor : int
        File descriptor of this end of the connection.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    task: Task | None = None
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionError):
            return
        if isinstance(message, tuple):
            task = _set_up(connection, *message)
        elif task is not None:
            _run(connection, task, message)


def _set_up(connection: Connection, setup: Callable[[object], Task], context: object) -> Task | None:
    try:
        task = setup(context)
    except Exception as error:  # noqa: BLE001 - it is raised again on the other side
        connection.send((READY, describe(error)))
        return None
    connection.send((READY, None))
    return task


def _run(connection: Connection, task: Task, batch: list[tuple[int, object]]) -> None:
    for position, item in batch:
        start = time.perf_counter()
        try:
            answer = task(item)
            connection.send((DONE, position, answer, time.perf_counter() - start))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it costs its item, never the worker
            connection.send((RAISED, position, describe(error), time.perf_counter() - start))


def describe(error: BaseException) -> str:
    """An exception in one line: its class, and the first lines of what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def _leave_with(parent: int) -> None:
    """End this process when its parent has ended without saying so; a task that never ends would stay for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
