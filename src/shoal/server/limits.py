"""What a worker takes on at once, how large a request may be, and how long it may take."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import DeadlineExceeded, InvalidInput, NotReady, Overloaded, TooLarge
from shoal.server.options import Limits
from shoal.server.outgoing import OUTGOING, Outgoing

_SWEEP_S: Final = 0.25
_DEADLINE_HEADER: Final = b"request-timeout"


class Traffic:
    """Whether the server wants traffic: not before all of it is ready, and not when it is about to end.

    Attributes
    ----------
    open : bool
        False while the server starts or drains: readiness is refused then, requests are still answered.
    draining : bool
        Whether it is about to end; connections are closed after their next answer.
    """

    def __init__(self) -> None:
        self.open = False
        self.draining = False

    def drain(self) -> None:
        """Ask for no more traffic."""
        self.open, self.draining = False, True


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A request being answered."""

    task: "asyncio.Task[object]"
    deadline_s: float
    ended: str | None = None


class Doorkeeper:
    """Refuses what is too large or too much, at once, and ends what takes too long.

    Parameters
    ----------
    app : ASGI application
        What answers.
    limits : Limits
        What is taken on.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._under_way: set[_UnderWay] = set()
        self._bodies_bytes = 0

    @property
    def under_way(self) -> int:
        """How many requests are being answered."""
        return len(self._under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        headers: dict[bytes, bytes] = scope["shoal.headers"]
        size_bytes = self._admit(headers)
        limit_s = self._limits.request_s
        given = headers.get(_DEADLINE_HEADER)
        if given is not None:
            limit_s = min(limit_s, _seconds(given))
        deadline_s = scope["shoal.deadline_s"] = time.monotonic() + limit_s
        if size_bytes is None:
            receive = _counted(receive, self._limits.body_bytes)
            size_bytes = 0
        task = asyncio.current_task()
        assert task is not None
        request = _UnderWay(task, deadline_s)
        self._under_way.add(request)
        self._bodies_bytes += size_bytes
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if request.ended is None:
                raise
            task.uncancel()
            raise DeadlineExceeded(request.ended) from None
        finally:
            self._under_way.discard(request)
            self._bodies_bytes -= size_bytes

    def _admit(self, headers: dict[bytes, bytes]) -> int | None:
        """The size of the body as announced; None where it is sent in chunks of whatever size."""
        if len(self._under_way) >= self._limits.requests:
            raise Overloaded("too many requests are under way; try again in a second")
        length = headers.get(b"content-length")
        if length is None:
            return None if b"transfer-encoding" in headers else 0
        size_bytes = int(length)
        if size_bytes > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)
        if self._bodies_bytes + size_bytes > self._limits.bodies_bytes:
            raise Overloaded("too many bytes are under way; try again in a second")
        return size_bytes

    async def sweep(self) -> None:
        """End requests that take too long, for ever; one look at all is far cheaper than an alarm for each."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._end_before(time.monotonic(), "it took longer than it may; ask for less, or give it more time")

    def give_up(self) -> None:
        """End every request now."""
        self._end_before(math.inf, "the server ends and waited as long as it may; ask again")

    def _end_before(self, now_s: float, reason: str) -> None:
        for request in [one for one in self._under_way if one.deadline_s < now_s and one.ended is None]:
            request.ended = reason
            request.task.cancel()


class Readiness:
    """Refuses readiness while traffic is not wanted, whatever the door behind it thinks of itself.

    Parameters
    ----------
    app : ASGI application
        What answers.
    traffic : Traffic
        Whether traffic is wanted.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        traffic = self._traffic
        if not traffic.open:
            if scope["shoal.rule"].tells_readiness:
                raise NotReady("the server ends" if traffic.draining else "the server is still starting")
            if traffic.draining:
                # The caller's next request goes to another server.
                outgoing: Outgoing = scope[OUTGOING]
                outgoing.headers.append((b"connection", b"close"))
        return self._app(scope, receive, send)


def _counted(receive: Receive, most_bytes: int) -> Receive:
    """Refuse a body of unknown size as soon as it is too large."""
    left_bytes = most_bytes

    async def counted() -> Message:
        nonlocal left_bytes
        message = await receive()
        left_bytes -= len(message.get("body", b""))
        if left_bytes < 0:
            raise _too_large(most_bytes)
        return message

    return counted


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"a request may have {most_bytes} bytes at most; split it, or score files with `shoal score`")


def _seconds(text: bytes) -> float:
    seconds = math.nan
    with contextlib.suppress(ValueError):
        seconds = float(text)
    if not seconds > 0:
        raise InvalidInput("the header Request-Timeout must be a number of seconds above 0, e.g. 0.25")
    return seconds
