"""One connection: what uvicorn's HTTP/1.1 protocol does, with limits, and without what we have no use for.

Left out are WebSockets, uvicorn's access log, and a timer for every connection that idles. Added are limits on how long
and how large the head of a request may be (it has none), and errors in our own form.
"""

import asyncio
import contextlib
import email.utils
import logging
import socket
import time
from typing import Final, cast
from urllib.parse import unquote

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from shoal.server.errors import error_body
from shoal.server.exchanges import Bell, Exchange
from shoal.server.options import Limits
from shoal.server.outgoing import EXCHANGE

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}

#: How long who was refused may still send what it has begun, in seconds.
_LINGER_S: Final = 2.0

#: What a header is written with beside its name and value: a colon, a space and the end of the line.
_BETWEEN_BYTES: Final = 4

#: More than this no parser of URLs takes.
_LONGEST_URL: Final = 2**16 - 1

_log = logging.getLogger("shoal.server")


class _LargeHead(Exception):
    """The head of a request is larger than is allowed."""


class Shared(ServerState):
    """What the connections of a server share.

    Attributes
    ----------
    default_lines : bytes
        The headers of every answer, as they are written.
    """

    default_lines = b""

    def set_date(self) -> None:
        """Have answers say what time it is."""
        self.default_headers = [(b"date", email.utils.formatdate(usegmt=True).encode())]
        self.default_lines = b"".join([b"%s: %s\r\n" % header for header in self.default_headers])


class Connection(HttpToolsProtocol):
    """One connection of a client.

    Attributes
    ----------
    head_bytes, spare_bytes : int
        What came of a head that has not come as a whole, and of a body that nobody waits for.
    taken_bytes : int
        What came since the last head or more, in which the next one is.
    waiting_since_s : float or None
        Since when the sweep has seen it wait for the rest of a head or body; None while it does not.
    carrier : socket or None
        What carries the encrypted bytes, of a connection that is secured.
    closing_since_s : float
        Since when the sweep has seen a secured connection wait for the client's goodbye.
    running : Exchange or None
        The request that is being answered, or was last; others wait for it.
    refusal : tuple or None
        With which status and why the client is refused once it has the answers that it waits for.
    lingers_until_s : float or None
        How long a client that was refused may still send; None before that.
    has_ended : bool
        Whether the client has said that it sends nothing more; it may still read.
    """

    cycle: Exchange | None  # type: ignore[assignment]  # None before the first request
    waiting_since_s: float | None = None
    waited_for: object = None
    head_bytes = spare_bytes = taken_bytes = 0
    header_bytes = Limits().header_bytes
    most_spare_bytes = Limits().body_bytes
    made_s = 0.0
    carrier: socket.socket | None = None
    closing_since_s = 0.0
    running: Exchange | None = None
    refusal: tuple[int, str] | None = None
    lingers_until_s: float | None = None
    has_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.made_s = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what was asked: it leads back here, and would stay until the collector comes to look."""
        if self.running is not None and not self.running.response_complete:
            self.running.hang_up()
        super().connection_lost(exc)
        for waiting, _ in self.pipeline:
            cast("Exchange", waiting).forget()
        self.pipeline.clear()
        self.cycle = self.running = None

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the head of a request grows without end."""
        if self.lingers_until_s is not None or self.refusal is not None:
            self._spare(data)
            return
        before = self.cycle
        is_body = before is not None and before.more_body
        self.taken_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # there is nothing to upgrade to; the request is answered as it is
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _LargeHead):
                self._refuse_head()
            else:
                self.send_400_response("")
            return
        if self.cycle is not before:
            self.head_bytes = self.spare_bytes = 0
            self.taken_bytes = len(data)
        elif before is not None and is_body:
            if before.response_complete:
                self._spare(data)  # it was answered before all of it had come
        else:
            self.head_bytes += len(data)
            if self.head_bytes > self.header_bytes:
                self._refuse_head()

    def eof_received(self) -> bool:  # type: ignore[override]  # True keeps the connection
        """Hang up on a client that sends nothing more, once it has the answers to what came whole.

        TLS knows no such half of a connection, whatever is returned.
        """
        self.has_ended = True
        if self.carrier is not None or self.lingers_until_s is not None or not self._owes_answer():
            return False
        self._forget_half()
        return True

    def _owes_answer(self) -> bool:
        """Whether a request is being answered that came whole."""
        running = self.running
        return running is not None and not running.response_complete and not running.more_body

    def _forget_half(self) -> None:
        """Forget a request that waits for its turn and has not come whole."""
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
            self.cycle = self.running if not self.pipeline else cast("Exchange", self.pipeline[0][0])

    def _refuse_head(self) -> None:
        self.refuse(431, "the head of the request is too large")

    def _require_small_head(self) -> None:
        """Refuse a head that has come as a whole and is too large; only where so much has come is it measured."""
        if self.taken_bytes > self.header_bytes:
            sizes = [len(name) + len(value) + _BETWEEN_BYTES for name, value in self.headers]
            if len(self.url) + sum(sizes) > self.header_bytes or len(self.url) > _LONGEST_URL:
                raise _LargeHead

    def _spare(self, data: bytes) -> None:
        """Throw away what came, up to a limit: who still sends hears the answer only if we take the rest."""
        self.spare_bytes += len(data)
        if self.spare_bytes > self.most_spare_bytes:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin with the head of a request."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin with a request whose head has come."""
        self._require_small_head()
        parser, before = self.parser, self.cycle
        version = parser.get_http_version()
        path, query = _parts(self.url)
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "method": parser.get_method().decode("ascii"),
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
        }
        shared = cast("Shared", self.server_state)
        cycle = self.cycle = Exchange(
            scope,  # type: ignore[arg-type]
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            False,
            shared.default_headers,
            Bell(),  # type: ignore[arg-type]
            self.expect_100_continue,
            version != "1.0" and parser.should_keep_alive(),
            self.on_response_complete,
        )
        scope[EXCHANGE] = cycle
        cycle.body = b""  # type: ignore[assignment]
        cycle.default_lines = shared.default_lines
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Take some of a request's body."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Note that a request has come as a whole."""
        cycle = self.cycle
        if cycle is not None:
            cycle.more_body = False
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Answer a request in a task of its own, which leaves the list by itself: a callback each would cost more."""
        assert isinstance(cycle, Exchange)
        cycle.tasks = self.tasks
        self.running = cycle
        cycle.task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(cycle.task)

    def on_response_complete(self) -> None:
        """Go on with the next request if it is there; who sends none for too long is found by :meth:`look`."""
        if self.transport.is_closing() or self.lingers_until_s is not None:
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.refusal is not None:
            self.refuse(*self.refusal)
        elif self.has_ended:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.refuse(400, "this is no request that HTTP/1.1 knows")

    def refuse(self, status: int, text: str) -> None:
        """Say why, and hang up; after the answers to requests that came whole before, for they are owed first."""
        if self.transport.is_closing() or self.lingers_until_s is not None:
            return
        if self._owes_answer():
            self._refuse_later(status, text)
            return
        body = error_body(text)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self._linger()

    def _refuse_later(self, status: int, text: str) -> None:
        if self.refusal is None:
            self.refusal = status, text
            self._forget_half()  # it is what is refused
            self.flow.resume_reading()  # who hangs up meanwhile is heard

    def _linger(self) -> None:
        """Say no more, and go when the client does, or soon.

        The system takes back what was said to somebody who sends to a socket that is closed. TLS has a goodbye of its
        own, for which the loop waits.
        """
        if self.has_ended or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.lingers_until_s, self.spare_bytes = time.monotonic() + _LINGER_S, 0
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.waiting_for_100_continue = False
            self.cycle.hang_up()
        self.flow.resume_reading()
        self.transport.write_eof()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete or self.lingers_until_s is not None

    def shutdown(self) -> None:
        """Close when no request is under way, else after its answer."""
        if self.lingers_until_s is not None:
            self.transport.close()
        super().shutdown()
        self.part()

    def part(self) -> None:
        """End a secured connection that is being closed, once everything has been sent.

        TLS waits for the client to say goodbye too, which clients that keep connections for later do not. The loop
        hears that nothing more will come, as if the client had hung up.
        """
        if self.carrier is not None and self.transport.is_closing() and not self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # it has ended already
                self.carrier.shutdown(socket.SHUT_RD)

    def look(self, now_s: float, limits: Limits) -> None:
        """Hang up when the client keeps us waiting for too long."""
        if self.carrier is not None and self.transport.is_closing():
            self.closing_since_s = self.closing_since_s or now_s
            if now_s - self.closing_since_s > limits.handshake_s:  # some lose what they have not read when we go first
                self.part()
            return
        if self.lingers_until_s is not None:
            if now_s > self.lingers_until_s:
                self.transport.close()
            return
        cycle = self.cycle
        is_idle = self.is_idle
        waits = (cycle, self.head_bytes > 0, is_idle)
        if not (cycle is None or is_idle or cycle.more_body):
            self.waiting_since_s = None
        elif self.waiting_since_s is None or self.waited_for != waits:
            self.waiting_since_s, self.waited_for = now_s, waits
        elif cycle is not None and is_idle and not self.head_bytes:
            if now_s - self.waiting_since_s > (limits.body_s if cycle.more_body else limits.idle_s):
                self.transport.close()
        elif now_s - self.waiting_since_s > (limits.header_s if is_idle else limits.body_s):
            self.refuse(408, f"the {'head' if is_idle else 'body'} of the request took too long")


class Misled(Connection):
    """A connection of a client that does not speak TLS where the server does."""

    def data_received(self, data: bytes) -> None:
        """Say so."""
        self.refuse(400, "this port speaks HTTPS; write https:// instead of http:// in the address")


def _parts(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of what a request asks for, as they were sent."""
    if url[:1] == b"/" and b"?" not in url and b"#" not in url:
        return url, b""
    parsed = httptools.parse_url(url)
    return parsed.path, parsed.query or b""
