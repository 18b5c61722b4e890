"""The answer to one request on its way out: one room that the middlewares share, instead of a wrapper for each.

Each wrapper of ``send`` costs a closure and a coroutine for every message. There is one, made by the outermost
middleware; what others want to add to the answer, or to know of it, is here.
"""

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from starlette.types import Message, Scope, Send

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"

OUTGOING: Final = "shoal.outgoing"
"""Where in the scope it is."""

EXCHANGE: Final = "shoal.exchange"
"""Where in the scope a server says that it writes whole answers at once; see :class:`WholeAnswers`."""


class WholeAnswers(Protocol):
    """What our own server offers beside ASGI's messages."""

    def send_whole(self, status: int, headers: Headers, body: bytes) -> bool:
        """Write an answer with its length, if it can go out in one piece; False, and nothing is written, if not."""
        ...


class Outgoing:
    """An answer on its way out.

    Parameters
    ----------
    scope : scope
        The request's; this is found in it as :data:`OUTGOING`.
    send : callable
        ASGI's.

    Attributes
    ----------
    status : int
        Of the answer; 0 until it has begun.
    finished : bool
        Whether all of it was handed on.
    headers : list of (bytes, bytes)
        What middlewares add to it.
    """

    __slots__ = ("_exchange", "_send", "finished", "headers", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status = 0
        self.finished = False
        self.headers: list[tuple[bytes, bytes]] = []
        self._send = send
        self._exchange: WholeAnswers | None = scope.get(EXCHANGE)
        scope[OUTGOING] = self

    async def send(self, message: Message) -> None:
        """Hand on a message; what middlewares have to add is added."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._send({**message, "headers": [*message.get("headers", ()), *self.headers]})
        else:
            await self._send(message)
            self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def send_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer, in one piece where the server can; its length is added."""
        exchange = self._exchange
        if exchange is not None and not self.status and exchange.send_whole(status, [*headers, *self.headers], body):
            self.status, self.finished = status, True
            return
        described = [(b"content-length", b"%d" % len(body)), *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": described})
        await self.send({"type": "http.response.body", "body": body})
