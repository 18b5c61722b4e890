"""Connections: accepting them fairly, giving up on those that only wait, and ending without losing a request.

uvicorn's HTTP/1.1 protocol does the talking, without what we have no use for: WebSockets, its access log, a timer for
every connection that idles. What is added here: limits on how long and how large the head of a request may be (it has
none), errors in our own form, and an acceptor. Workers share one listening socket, so that a worker that
dies takes no waiting connections with it. Each accepts one connection per turn: who accepts all that wait, as event
loops do, ends up with most of the clients while its neighbours idle.
"""

import asyncio
import contextlib
import email.utils
import errno
import itertools
import logging
import math
import resource
import socket
import time
from typing import Final, cast
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Scope
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from shoal.server.certificates import Certificates
from shoal.server.errors import error_body
from shoal.server.exchanges import Bell, Exchange
from shoal.server.handshakes import FailedHandshakes, begins_tls
from shoal.server.options import Limits
from shoal.server.outgoing import EXCHANGE

_SWEEP_S: Final = 0.5
_SPARE_FILES: Final = 256
_SHED: Final = 64
_FRESH_S: Final = 1.0
_FULL_PAUSE_S: Final = 0.1
_NO_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}

_log = logging.getLogger("shoal.server")


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
    waiting_since_s : float or None
        Since when the sweep has seen it wait for the rest of a head or body; None while it does not.
    carrier : socket or None
        What carries the encrypted bytes, of a connection that is secured.
    closing_since_s : float
        Since when the sweep has seen a secured connection wait for the client's goodbye.
    """

    cycle: Exchange | None  # type: ignore[assignment]  # None before the first request
    waiting_since_s: float | None = None
    waited_for: object = None
    head_bytes = 0
    header_bytes = Limits().header_bytes
    made_s = 0.0
    carrier: socket.socket | None = None
    closing_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.made_s = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the head of a request grows without end."""
        before = self.cycle
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # there is nothing to upgrade to; the request is answered as it is
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        if self.cycle is not before:
            self.head_bytes = 0
        elif before is None or before.response_complete:
            self.head_bytes += len(data)
            if self.head_bytes > self.header_bytes:
                self.refuse(431, "the head of the request is too large")

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
        if cycle is not None and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Answer a request in a task of its own, which leaves the list by itself: a callback each would cost more."""
        assert isinstance(cycle, Exchange)
        cycle.tasks = self.tasks
        cycle.task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(cycle.task)

    def on_response_complete(self) -> None:
        """Go on with the next request if it is there; who sends none for too long is found by :meth:`look`."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.refuse(400, "this is no request that HTTP/1.1 knows")

    def refuse(self, status: int, text: str) -> None:
        """Say why, and hang up."""
        if self.transport.is_closing():
            return
        body = error_body(text)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def shutdown(self) -> None:
        """Close when no request is under way, else after its answer."""
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
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        waits = (cycle, self.head_bytes > 0)
        if not (cycle is None or is_idle or cycle.more_body):
            self.waiting_since_s = None
        elif self.waiting_since_s is None or self.waited_for != waits:
            self.waiting_since_s, self.waited_for = now_s, waits
        elif cycle is not None and is_idle and not self.head_bytes:
            if now_s - self.waiting_since_s > limits.idle_s:
                self.transport.close()
        elif now_s - self.waiting_since_s > (limits.header_s if is_idle else limits.body_s):
            self.refuse(408, f"the {'head' if is_idle else 'body'} of the request took too long")


class _Misled(Connection):
    """A connection of a client that does not speak TLS where the server does."""

    def data_received(self, data: bytes) -> None:
        """Say so."""
        self.refuse(400, "this port speaks HTTPS; write https:// instead of http:// in the address")


class HttpServer:
    """Serves an application on a listening socket that other processes may accept from as well.

    Parameters
    ----------
    app : ASGI application
        What answers.
    listener : socket
        Bound and listening.
    limits : Limits
        How many connections, and how long they may wait.
    certificates : Certificates, optional
        With which connections are secured; without, they are not.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, limits: Limits, certificates: Certificates | None = None
    ) -> None:
        self._config = Config(
            app,
            interface="asgi3",  # not all of the stack is made of coroutines, which is how it would be recognised
            http=Connection,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self._config.load()
        self._state = Shared()
        self._listener = listener
        self._limits = limits
        self._certificates = certificates
        self._most = min(limits.connections, _files() - _SPARE_FILES)
        self._loop = asyncio.get_running_loop()
        self._failed_handshakes = FailedHandshakes()
        self._adopting: dict[asyncio.Task[object], float] = {}  # since when, the oldest first
        self._sweeper: asyncio.Task[None] | None = None
        self._accepting = False
        listener.setblocking(False)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def start(self) -> None:
        """Begin to accept."""
        self._state.set_date()
        self._sweeper = self._loop.create_task(self._sweep())
        self._accepting = True
        self._loop.add_reader(self._listener, self._accept)

    def stop_accepting(self) -> None:
        """Take those that are in the door already, and close it."""
        if not self._accepting:
            return
        self._accepting = False
        self._loop.remove_reader(self._listener)
        while self._take():
            pass
        self._listener.close()

    def close_idle(self) -> None:
        """Close connections on which no request is under way; new ones have a second to send their first."""
        fresh_s = time.monotonic() - _FRESH_S
        for connection in self._connections():
            if connection.cycle is not None or connection.made_s < fresh_s:
                connection.shutdown()
        self._give_up_on(len(self._adopting), fresh_s)

    async def finish(self, deadline_s: float) -> bool:
        """Wait until all requests are answered; False when that took too long (``time.monotonic``)."""
        while self._state.connections or self._state.tasks or self._adopting:
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.01)
            self.close_idle()
        return True

    def close(self) -> None:
        """Hang up on everybody."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._connections():
            connection.transport.abort()
        self._give_up_on(len(self._adopting), math.inf)

    def _connections(self) -> list[Connection]:
        return [one for one in list(self._state.connections) if isinstance(one, Connection)]

    def _accept(self) -> None:
        if self.connections + len(self._adopting) >= self._most and not self._shed():
            self._pause()
            return
        self._take()

    def _take(self) -> bool:
        """Accept one connection; False when none waits."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _NO_FILES:
                raise
            self._pause()
            return False
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._adopt(client))
        self._adopting[task] = time.monotonic()
        task.add_done_callback(lambda done: self._adopting.pop(done, None))
        return True

    async def _adopt(self, client: socket.socket) -> None:
        if self._certificates is None:
            with contextlib.suppress(OSError):  # it has gone already
                await self._loop.connect_accepted_socket(self._protocol, client)
            return
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                await self._secure(client, self._certificates)
        except OSError as error:
            self._failed_handshakes.add(error)

    async def _secure(self, client: socket.socket, certificates: Certificates) -> None:
        """Go on in TLS, if that is what the client speaks."""
        if not await begins_tls(client):
            await self._loop.connect_accepted_socket(lambda: self._protocol(_Misled), client)
            return
        await self._loop.connect_accepted_socket(
            lambda: self._protocol(carrier=client),
            client,
            ssl=certificates.now.context,
            ssl_handshake_timeout=self._limits.handshake_s,
            ssl_shutdown_timeout=self._limits.body_s,  # time to take the rest of an answer
        )

    def _protocol(self, kind: type[Connection] = Connection, carrier: socket.socket | None = None) -> Connection:
        connection = kind(config=self._config, server_state=self._state, app_state={}, _loop=self._loop)
        connection.header_bytes = self._limits.header_bytes
        connection.carrier = carrier
        return connection

    def _shed(self) -> bool:
        """Make room by closing some connections that nobody uses; True when there were any."""
        if self._give_up_on(_SHED, time.monotonic() - _FRESH_S):
            return True
        idle = [one for one in self._connections() if one.is_idle][:_SHED]
        for connection in idle:
            connection.transport.close()
            connection.part()
        return bool(idle)

    def _give_up_on(self, most: int, before_s: float) -> bool:
        """Hang up on some that have been shaking hands since before; True when there were any."""
        slow = [task for task, since_s in itertools.islice(self._adopting.items(), most) if since_s < before_s]
        for task in slow:
            task.cancel()
        return bool(slow)

    def _pause(self) -> None:
        """Leave new connections to the neighbours, or waiting, for a moment."""
        self._loop.remove_reader(self._listener)
        self._loop.call_later(_FULL_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._accepting:
            self._loop.add_reader(self._listener, self._accept)

    async def _sweep(self) -> None:
        """Look at all connections now and then, which costs requests nothing."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._state.set_date()
            now_s = time.monotonic()
            self._failed_handshakes.tell(now_s)
            for connection in self._connections():
                connection.look(now_s, self._limits)


def _parts(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of what a request asks for, as they were sent."""
    if url[:1] == b"/" and b"?" not in url and b"#" not in url:
        return url, b""
    parsed = httptools.parse_url(url)
    return parsed.path, parsed.query or b""


def _files() -> int:
    """How many files this process may have open, made as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return min(hard, 2**20)
    return min(soft, 2**20)
