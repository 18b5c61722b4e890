"""Whether a turn takes in more of the requests that have come to a door which hands them over one by one.

gRPC's server keeps calls in a queue of its own and hands over one in several ticks of the event loop, however many
have come. A turn that took what it has been handed so far would run them one by one, at a whole call's cost each. So
it goes on looking until as many are there as were there last time. Now and then it looks further, which tells whether
there are more; where that is in vain it does so ever less often, so that who asks alone does not wait. When fewer
come it expects a few less, not as few at once: a process that stood still for a moment would otherwise run them in
small calls for long, which cost so much that the next ones are small as well.
"""

import math
import time
from typing import Final

#: So many requests are enough.
MOST: Final = 32

#: How long it looks when nothing comes, and how long in all, in seconds.
QUIET_S, LONGEST_S = 0.0006, 0.003

#: For how many turns it does not look further after that was in vain, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 16, 1024

#: By which share of it the number that is expected shrinks when fewer come.
_SHRINKS: Final = 1 / 8


class Gathering:
    """What one queue knows of how its requests come."""

    __slots__ = ("_began_s", "_came_s", "_expected", "_found", "_pause", "_paused")

    def __init__(self) -> None:
        self._expected = 1
        self._found = 0
        self._began_s = self._came_s = 0.0
        self._pause = FIRST_PAUSE
        self._paused = 0

    def goes_on(self, waiting: int, now_s: float | None = None) -> bool:
        """Whether to look again at the next tick.

        Parameters
        ----------
        waiting : int
            Requests that wait now.
        now_s : float, optional
            Point of ``time.perf_counter()``; now unless told, in seconds.
        """
        if waiting >= MOST or (waiting >= self._expected and self._paused):
            return self._ended(waiting, further=False)
        now_s = time.perf_counter() if now_s is None else now_s
        if not self._found:
            self._began_s = now_s
        if waiting > self._found:
            self._found, self._came_s = waiting, now_s
        if now_s - self._came_s < QUIET_S and now_s - self._began_s < LONGEST_S:
            return True
        return self._ended(waiting, further=waiting >= self._expected)

    def _ended(self, waiting: int, *, further: bool) -> bool:
        if waiting > self._expected:
            self._pause, self._paused = FIRST_PAUSE, 0
        elif further:
            self._paused = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif self._paused:
            self._paused -= 1
        self._expected = min(MOST, max(waiting, self._expected - math.ceil(_SHRINKS * self._expected)))
        self._found = 0
        return False
