"""Leaving a neighbour that fails alone for a while, so that its failing costs requests nothing."""

import threading
import time
from collections.abc import Callable

FAILURES = 5
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0


class Circuit:
    """Says whether a neighbour is worth asking; safe to use from several threads.

    After ``failures`` failures in a row nobody asks for a while. Then one may try; if that fails too, the while gets
    twice as long, up to a limit.

    Parameters
    ----------
    failures : int
        Failures in a row after which it opens.
    first_wait_s, longest_wait_s : float
        How long it stays open at first and at most, in seconds.
    clock : callable
        The time, in seconds.
    """

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._wait_s = first_wait_s
        self._try_at_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the neighbour is being left alone."""
        return self._in_a_row >= self._failures

    def allows(self) -> bool:
        """Whether to ask now. While open, one caller per while is told yes; it should report how it went."""
        with self._lock:
            if not self.is_open:
                return True
            now = self._clock()
            if now < self._try_at_s:
                return False
            self._try_at_s = now + self._wait_s
            return True

    def succeeded(self) -> None:
        """Take note of an answer."""
        with self._lock:
            self._in_a_row = 0
            self._wait_s = self._first_wait_s

    def failed(self) -> None:
        """Take note of a failure."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row > self._failures:
                self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
            if self.is_open:
                self._try_at_s = self._clock() + self._wait_s
