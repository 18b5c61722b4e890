"""One request on a connection and its answer, which leaves in one piece where it comes as a whole."""

import asyncio
import functools
from collections.abc import MutableSet
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from shoal.server.outgoing import Headers

_OVER: Scope = {"method": ""}


class Bell:
    """Wakes who waits for news of a request, as far as anybody does; an event of asyncio costs more to make."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake who waits now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next news."""
        if self._waiter is None or self._waiter.done():
            self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiter)


class Exchange(RequestResponseCycle):
    """A request and its answer.

    The head of an answer waits for the first of the body, as ASGI has it: so a whole answer is written at once, at a
    third of what it takes in pieces. Whatever is not a whole answer goes uvicorn's way.
    """

    message_event: Bell  # type: ignore[assignment]
    default_lines = b""
    tasks: "MutableSet[asyncio.Task[Any]]"
    task: "asyncio.Task[None] | None" = None
    _head: Any = None
    _has_told_all = False

    async def run_asgi(self, app: Any) -> None:
        """Answer the request; what the application leaves undone, or raises, uvicorn deals with."""
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                await super().run_asgi(_nothing)
        except BaseException as error:  # noqa: BLE001 - the loop must not see it, and it is logged
            await super().run_asgi(functools.partial(_raised, [error]))
        finally:
            self.forget()
            if self.task is not None:
                self.tasks.discard(self.task)
                self.task = None

    def forget(self) -> None:
        """Let go of the request: scope and connection lead back here, and without the circles all is freed at once."""
        self.scope, self.on_response = _OVER, _over  # type: ignore[assignment]

    def hang_up(self) -> None:
        """Tell who works on it that nobody hears the answer any more."""
        self.disconnected = True
        self.message_event.set()

    async def receive(self) -> Any:
        """What there is of the request's body, as soon as there is any; then the end of the exchange."""
        if self.waiting_for_100_continue:
            self._go_on()
        while not (self.disconnected or self.response_complete or (self._has_news() and not self._has_told_all)):
            self.flow.resume_reading()
            await self.message_event.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""  # type: ignore[assignment]
        self._has_told_all = not self.more_body
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def _has_news(self) -> bool:
        return not self.more_body or bool(self.body)

    def _go_on(self) -> None:
        self.waiting_for_100_continue = False
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def send(self, message: Any) -> None:
        """Send a message of the application to the client."""
        if self.response_started:
            await super().send(message)
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        head = self._head
        if head is not None and not self._send_whole(head, message):
            await super().send(head)
        if not self.response_complete:
            await super().send(message)

    def _send_whole(self, head: Any, message: Any) -> bool:
        """Write a whole answer that says its length; False where it is no such answer, and nothing was written."""
        body = message.get("body", b"")
        headers = [header for header in head["headers"] if header != (b"content-length", b"%d" % len(body))]
        if len(headers) == len(head["headers"]) or message.get("more_body"):
            return False
        return self.send_whole(head["status"], headers, body)

    def send_whole(self, status: int, headers: Headers, body: bytes) -> bool:
        """See :class:`~shoal.server.outgoing.WholeAnswers`."""
        if not self.keep_alive or self.disconnected or self.flow.write_paused or self.response_started:
            return False
        lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        # A header with a line break in it would be two; names are in lower case, as ASGI has it.
        is_plain = lines.count(b"\r") == lines.count(b"\n") == len(headers)
        if not is_plain or b"connection: " in lines or b"content-length: " in lines or self.scope["method"] == "HEAD":
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        parts = (STATUS_LINE[status], self.default_lines, lines, len(body), body)
        self.transport.write(b"%s%s%scontent-length: %d\r\n\r\n%s" % parts)
        self.message_event.set()
        self.on_response()
        return True


def _over() -> None:
    """Nobody is to be told any more."""


async def _nothing(*_: object) -> None:
    """An application that does nothing more."""


async def _raised(errors: list[BaseException], *_: object) -> None:
    """An application that ended like this; an error that its own traceback led to would stay for the collector."""
    raise errors.pop()
