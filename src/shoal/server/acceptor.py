"""The acceptor: takes connections fairly, gives up on those that only wait, and ends without losing a request.

Workers share one listening socket, so that a worker that dies takes no waiting connections with it. Each accepts one
connection per turn: who accepts all that wait, as event loops do, ends up with most of the clients while its neighbours
idle.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import math
import resource
import socket
import time
from typing import Final

from starlette.types import ASGIApp
from uvicorn.config import Config

from shoal.server.certificates import Certificates
from shoal.server.connections import Connection, Misled, Shared
from shoal.server.handshakes import FailedHandshakes, begins_tls
from shoal.server.options import Limits

_SWEEP_S: Final = 0.5
_SPARE_FILES: Final = 256
#: How much more than the largest body of a request is read, and thrown away, once it was refused.
_SPARE: Final = 4
_SHED: Final = 64
_FRESH_S: Final = 1.0
_FULL_PAUSE_S: Final = 0.1
_NO_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = logging.getLogger("shoal.server")


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
            await self._loop.connect_accepted_socket(lambda: self._protocol(Misled), client)
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
        connection.most_spare_bytes = _SPARE * self._limits.body_bytes
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


def _files() -> int:
    """How many files this process may have open, made as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return min(hard, 2**20)
    return min(soft, 2**20)
