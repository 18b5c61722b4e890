"""What a worker is answering just now, through whichever door it came: not more than it may, and nothing for longer."""

import asyncio
import contextlib
import math
import time
from types import TracebackType
from typing import Final, Self

from shoal.errors import DeadlineExceeded, InvalidInput, Overloaded
from shoal.server.options import Limits

_SWEEP_S: Final = 0.25


class UnderWay:
    """The requests being answered, and when the time of each is over.

    Parameters
    ----------
    limits : Limits
        How many there may be, and how long each may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns: set[Turn] = set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._turns)

    def deadline_s(self, asked: str | bytes | None, remaining_s: float | None = None) -> float:
        """When the time of a request that comes now is over.

        Parameters
        ----------
        asked : str or bytes or None
            What its caller sent as ``Request-Timeout``, in seconds.
        remaining_s : float, optional
            How long its protocol lets it take, in seconds.

        Returns
        -------
        float
            Point of ``time.monotonic()``, in seconds.

        Raises
        ------
        InvalidInput
            What was sent is no time.
        """
        limit_s = self._limits.request_s
        if asked is not None:
            limit_s = min(limit_s, _seconds(asked))
        if remaining_s is not None:
            limit_s = min(limit_s, remaining_s)
        return time.monotonic() + limit_s

    def turn(self, deadline_s: float) -> "Turn":
        """A context in which the running task answers a request; at the deadline it ends with DeadlineExceeded.

        Parameters
        ----------
        deadline_s : float
            Point of ``time.monotonic()``, in seconds.

        Raises
        ------
        Overloaded
            There are as many as there may be.
        """
        if len(self._turns) >= self._limits.requests:
            raise Overloaded("too many requests are under way; try again in a second")
        return Turn(self._turns, deadline_s)

    async def sweep(self) -> None:
        """End what takes too long, for ever; one look at all is far cheaper than an alarm for each."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._end_before(time.monotonic(), "it took longer than it may; ask for less, or give it more time")

    def give_up(self) -> None:
        """End everything now."""
        self._end_before(math.inf, "the server ends and waited as long as it may; ask again")

    def _end_before(self, now_s: float, reason: str) -> None:
        for turn in [one for one in self._turns if one.deadline_s < now_s]:
            turn.end(reason)


class Turn:
    """A request being answered; :meth:`UnderWay.turn` makes one."""

    __slots__ = ("_ended", "_task", "_turns", "deadline_s")

    def __init__(self, turns: "set[Turn]", deadline_s: float) -> None:
        self._turns = turns
        self._task: asyncio.Task[object] | None = None
        self._ended: str | None = None
        self.deadline_s = deadline_s

    def __enter__(self) -> Self:
        """Begin."""
        self._task = asyncio.current_task()
        self._turns.add(self)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        """Be over; an end that came from here is no hanging up."""
        self._turns.discard(self)
        if self._ended is None:
            return
        assert self._task is not None
        self._task.uncancel()
        if isinstance(error, asyncio.CancelledError):
            raise DeadlineExceeded(self._ended) from None

    def end(self, reason: str) -> None:
        """Have it end, once, and its caller told why."""
        if self._ended is None:
            assert self._task is not None
            self._ended = reason
            self._task.cancel()


def _seconds(text: str | bytes) -> float:
    seconds = math.nan
    with contextlib.suppress(ValueError):
        seconds = float(text)
    if not seconds > 0:
        raise InvalidInput("Request-Timeout has to be a number of seconds above 0, e.g. 0.25")
    return seconds
