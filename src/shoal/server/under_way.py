"""What a worker is answering just now, through whichever door it came: not more than it may, and nothing for longer.

A request takes a turn while it is answered, and holds the bytes that came with it. A stream that waits for its next
request has a pause, which is no turn: it keeps nobody from being answered.
"""

import asyncio
import contextlib
import math
import time
from types import TracebackType
from typing import Final, Self

from shoal.errors import DeadlineExceeded, InvalidInput, NotReady, Overloaded, ShoalError
from shoal.server.options import Limits

_SWEEP_S: Final = 0.25
_LOOK_S: Final = 0.01
_ENDS: Final = "the server ends; open a stream to another"

#: Messages of unknown size that may take longer to come than the sweep waits; each may be as large as a body.
SLOW_MESSAGES: Final = 64


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
        self._pauses: set[Turn] = set()
        self._bodies_bytes = 0
        self._closing = False

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

    def turn(self, deadline_s: float, *, always: bool = False) -> "Turn":
        """A context in which the running task answers a request; at the deadline it ends with DeadlineExceeded.

        Parameters
        ----------
        deadline_s : float
            Point of ``time.monotonic()``, in seconds.
        always : bool
            Whether it is answered however many there are: whether a server is well has to be told also when it is
            busy, or it is taken for dead and ended.

        Raises
        ------
        Overloaded
            There are as many as there may be.
        """
        if len(self._turns) >= self._limits.requests and not always:
            raise Overloaded("too many requests are under way; try again in a second")
        return Turn(self._turns, deadline_s)

    def pause(self, most_s: float) -> "Turn":
        """A context in which the running task waits for the next request of its stream.

        Parameters
        ----------
        most_s : float
            After so many seconds it ends with DeadlineExceeded.

        Raises
        ------
        Overloaded
            There are as many as there may be requests.
        NotReady
            The server ends.
        """
        if self._closing:
            raise NotReady(_ENDS)
        if len(self._pauses) >= self._limits.requests:
            raise Overloaded("too many streams are open; try again in a second")
        return Turn(self._pauses, time.monotonic() + most_s)

    def hold(self, size_bytes: int) -> "Held":
        """A context in which bytes of a body are under way.

        Raises
        ------
        Overloaded
            They would be too many, together with those of others.
        """
        held = Held(self)
        held.add(size_bytes)
        return held

    def take(self, size_bytes: int) -> None:
        """Count bytes of bodies, or count them no more where it is below zero; raises as :meth:`hold` does."""
        if size_bytes > 0 and self._bodies_bytes + size_bytes > self._limits.bodies_bytes:
            raise Overloaded("too many bytes are under way; try again in a second")
        self._bodies_bytes += size_bytes

    async def sweep(self) -> None:
        """End what takes too long, for ever; one look at all is far cheaper than an alarm for each."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = time.monotonic()
            _end(self._turns, now_s, DeadlineExceeded, "it took longer than it may; ask for less, or give it more time")
            _end(self._pauses, now_s, DeadlineExceeded, "nothing came through this stream for long; open another")
            self._end_slow_messages(now_s)

    def _end_slow_messages(self, now_s: float) -> None:
        """Bound what may be coming: nobody knows how large a message is going to be, but a small one is there soon."""
        waits = ((turn.reading_since_s, turn) for turn in self._turns if turn.reading_since_s is not None)
        slow = sorted((pair for pair in waits if now_s - pair[0] > _SWEEP_S), key=lambda pair: pair[0])
        for place, (since_s, turn) in enumerate(slow):
            if place >= SLOW_MESSAGES:
                turn.end(Overloaded("too many messages are coming slowly; try again in a second"))
            elif now_s - since_s > self._limits.body_s:
                turn.end(DeadlineExceeded(f"the message had not come after {self._limits.body_s:g} s; send it faster"))

    def close(self) -> None:
        """Wait for no stream's next request any more."""
        self._closing = True
        _end(self._pauses, math.inf, NotReady, _ENDS)

    async def finish(self, deadline_s: float) -> bool:
        """Wait until everything is answered, not longer than to a point of ``time.monotonic()``; whether it is."""
        while self._turns and time.monotonic() < deadline_s:
            await asyncio.sleep(_LOOK_S)
        return not self._turns

    def give_up(self) -> None:
        """End everything now."""
        _end(self._turns, math.inf, DeadlineExceeded, "the server ends and waited as long as it may; ask again")


class Turn:
    """A request being answered, or a pause between two; :class:`UnderWay` makes them.

    Attributes
    ----------
    deadline_s : float
        When its time is over, a point of ``time.monotonic()``.
    reading_since_s : float or None
        Since when its message has been coming, in the same time; None while none is.
    """

    __slots__ = ("_ended", "_task", "_turns", "deadline_s", "reading_since_s")

    def __init__(self, turns: "set[Turn]", deadline_s: float) -> None:
        self._turns = turns
        self._task: asyncio.Task[object] | None = None
        self._ended: ShoalError | None = None
        self.deadline_s = deadline_s
        self.reading_since_s: float | None = None

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
            raise self._ended from None

    def end(self, error: ShoalError) -> None:
        """Have it end, once, and its caller told why."""
        if self._ended is None:
            assert self._task is not None
            self._ended = error
            self._task.cancel()


class Held:
    """Bytes that are under way; :meth:`UnderWay.hold` makes one."""

    __slots__ = ("_size_bytes", "_under_way")

    def __init__(self, under_way: UnderWay) -> None:
        self._under_way = under_way
        self._size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """More of them have come, or are going to; raises as :meth:`UnderWay.hold` does."""
        self._under_way.take(size_bytes)
        self._size_bytes += size_bytes

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """They are under way no more."""
        self._under_way.take(-self._size_bytes)


def _end(turns: "set[Turn]", now_s: float, kind: type[ShoalError], reason: str) -> None:
    for turn in [one for one in turns if one.deadline_s < now_s]:
        turn.end(kind(reason))


def _seconds(text: str | bytes) -> float:
    seconds = math.nan
    with contextlib.suppress(ValueError):
        seconds = float(text)
    if not seconds > 0:
        raise InvalidInput("Request-Timeout has to be a number of seconds above 0, e.g. 0.25")
    return seconds
