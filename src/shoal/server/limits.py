"""Whether a worker wants traffic, what it takes on at once over REST, and how large a request may be."""

from collections.abc import Awaitable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import NotReady, TooLarge
from shoal.server.options import Limits
from shoal.server.outgoing import OUTGOING, Outgoing
from shoal.server.permissions import OPEN_PATHS
from shoal.server.under_way import Held, UnderWay

_DEADLINE_HEADER: Final = b"request-timeout"


class Traffic:
    """Whether the server wants traffic: not before all of it is ready, and not when it is about to end.

    Attributes
    ----------
    open : bool
        False while the server starts or drains: every door says then that it is not ready, and still answers.
    draining : bool
        Whether it is about to end; connections are closed after their next answer.
    """

    def __init__(self) -> None:
        self.open = False
        self.draining = False

    def drain(self) -> None:
        """Ask for no more traffic."""
        self.open, self.draining = False, True


class Doorkeeper:
    """Refuses what is too large or too much, at once, and gives the rest no more time than it may take.

    Parameters
    ----------
    app : ASGI application
        What answers.
    limits : Limits
        How large a body may be.
    under_way : UnderWay
        What is being answered.
    """

    def __init__(self, app: ASGIApp, limits: Limits, under_way: UnderWay) -> None:
        self._app = app
        self._limits = limits
        self._under_way = under_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        headers: dict[bytes, bytes] = scope["shoal.headers"]
        size_bytes = self._size_bytes(headers)
        deadline_s = scope["shoal.deadline_s"] = self._under_way.deadline_s(headers.get(_DEADLINE_HEADER))
        is_health = scope["path"] in OPEN_PATHS
        with self._under_way.hold(size_bytes or 0) as held, self._under_way.turn(deadline_s, always=is_health):
            if size_bytes is None:
                receive = _counted(receive, self._limits.body_bytes, held)
            await self._app(scope, receive, send)

    def _size_bytes(self, headers: dict[bytes, bytes]) -> int | None:
        """The size of the body as announced; None where it is sent in chunks of whatever size."""
        length = headers.get(b"content-length")
        if length is None:
            return None if b"transfer-encoding" in headers else 0
        size_bytes = int(length)
        if size_bytes > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)
        return size_bytes


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


def _counted(receive: Receive, most_bytes: int, held: Held) -> Receive:
    """Refuse a body of unknown size as soon as it is too large, or too much together with others."""
    left_bytes = most_bytes

    async def counted() -> Message:
        nonlocal left_bytes
        message = await receive()
        size_bytes = len(message.get("body", b""))
        left_bytes -= size_bytes
        if left_bytes < 0:
            raise _too_large(most_bytes)
        held.add(size_bytes)
        return message

    return counted


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"a request may have {most_bytes} bytes at most; split it, or score files with `shoal score`")
