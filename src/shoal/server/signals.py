"""The signals that end a server, heard by whoever waits for news at a selector."""

import contextlib
import selectors
import signal
import socket
from collections.abc import Iterator
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def heard(selector: selectors.BaseSelector) -> Iterator[list[int]]:
    """The signals that have come so far; each, and the end of a child, also ends the selector's wait.

    Parameters
    ----------
    selector : BaseSelector
        Told of a socket without data, from which whoever waits has to read what came.
    """
    came: list[int] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        selector.register(ours, selectors.EVENT_READ, None)
        before = {number: signal.signal(number, lambda got, _: came.append(got)) for number in _ENDING}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield came
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
