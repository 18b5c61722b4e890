"""The supervisor: binds the sockets, starts the workers, replaces those that die, and ends them all in order.

It serves nothing itself and opens no fleet. Workers are forks of it where that is safe, and share what it loaded; see
:mod:`shoal.server.offspring`. The sockets are bound here, so that there is no race for the ports, and they stay bound
while a worker is replaced. The port of gRPC is only reserved here: gRPC takes no sockets, so its servers bind it again
(``SO_REUSEPORT``), which the system allows to the same user only.
"""

import contextlib
import datetime as dt
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from shoal.errors import ShoalError
from shoal.registry import ServerRecord
from shoal.server.certificates import Certificates
from shoal.server.control import Channel, Failed, Job, Open, Ready, Waiting
from shoal.server.discovery import new_server
from shoal.server.listening import Addresses, listen, reachable, reserve, where
from shoal.server.offspring import Process, prepare, share_of_cores, start_worker
from shoal.server.options import ServerOptions, require_keys_beyond_loopback
from shoal.server.signals import heard
from shoal.settings import Settings
from shoal.storage.sql import utc_now
from shoal.telemetry.metrics import without_gauges
from shoal.telemetry.pages import Page, new_page
from shoal.workspace import Workspace

_LOOK_S: Final = 0.2
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_LONGEST_READY_PAUSE_S: Final = 1.0  # one that has served before it died is missed
_HEALTHY_S: Final = 30.0
_LAST_GRACE_S: Final = 3.0


def may_listen(workspace: Workspace, host: str) -> bool:
    """Whether API keys guard the server; without any it may listen on a loopback address only.

    Raises
    ------
    InvalidInput
        The address is not a loopback one, and there is no active key.
    """
    keys = workspace.registry.keys()
    now = dt.datetime.now(dt.UTC)
    require_keys_beyond_loopback(host, active_keys=sum(key.is_active(now) for key in keys))
    return bool(keys)


@dataclass(slots=True, kw_only=True)
class _Seat:
    """The place of a process: it is taken again when the process has died."""

    number: int
    manages: bool
    process: Process | None = None
    channel: Channel | None = None
    ready: bool = False
    started_s: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    again_s: float = 0.0


class Supervisor:
    """Runs a server until a signal ends it.

    Parameters
    ----------
    options : ServerOptions
        How.
    settings : Settings
        Of the workspace that is served.
    on_ready : callable
        Called once, with the addresses, when every worker can answer.
    on_news : callable
        Told in words what happens to workers.

    Raises
    ------
    InvalidInput
        The certificate cannot be used.
    StorageError
        A port cannot be bound.
    """

    def __init__(
        self,
        options: ServerOptions,
        settings: Settings,
        *,
        on_ready: Callable[[Addresses], None],
        on_news: Callable[[str], None],
    ) -> None:
        self._options = options
        self._settings = settings
        self._on_ready = on_ready
        self._on_news = on_news
        self._certificates = None if options.tls is None else Certificates(options.tls)
        self._sockets = contextlib.ExitStack()
        self._listener = self._sockets.enter_context(listen(options.host, options.port, "--port"))
        self._admin = self._grpc = None
        if options.admin_port is not None:
            self._admin = self._sockets.enter_context(listen(options.host, options.admin_port, "--admin-port"))
        if options.grpc_port is not None:
            self._grpc = self._sockets.enter_context(reserve(options.host, options.grpc_port))
        count = options.workers + (self._admin is not None)
        self._seats = [_Seat(number=number, manages=number == options.workers) for number in range(count)]
        self._pages = [new_page() for _ in self._seats]
        self._statistics = [new_page() for _ in self._seats]
        self._handovers = [new_page() for _ in self._seats]
        self._surveys = [new_page() for _ in self._seats]
        self._selector = selectors.DefaultSelector()
        self._announced = False
        self._failure: str | None = None
        self._fleets: tuple[str, ...] = ()
        self._reason = ""
        self._server = self._reached()

    def addresses(self) -> Addresses:
        """Where the server listens."""
        return Addresses(
            url=self._url(self._listener),
            grpc=where(self._grpc) if self._grpc is not None else None,
            admin_url=self._url(self._admin) if self._admin is not None else None,
            fleets=self._fleets,
        )

    def _url(self, bound: socket.socket) -> str:
        return f"{'http' if self._certificates is None else 'https'}://{where(bound)}"

    def run(self) -> bool:
        """Serve until a signal comes; True when every request under way was answered.

        Raises
        ------
        ShoalError
            The server could not start.
        """
        with heard(self._selector) as signals:
            try:
                prepare()
                while not signals and self._failure is None:
                    self._staff()
                    self._hear()
                    self._bury()
                drained = self._end(signals)
            finally:
                self._kill()
                self._close()
        if self._failure is not None and not signals:
            raise ShoalError(self._failure)
        return drained

    def _staff(self) -> None:
        """Fill the empty seats whose pause is over."""
        for seat in self._seats:
            if seat.process is None and time.monotonic() >= seat.again_s:
                self._start(seat)

    def _start(self, seat: _Seat) -> None:
        ours, theirs = socket.socketpair()
        listener = self._admin if seat.manages and self._admin is not None else self._listener
        with theirs:
            seat.process = start_worker(
                theirs.fileno(),
                (listener.fileno(), *self._pages, *self._statistics, *self._handovers, *self._surveys),
                share_of_cores(self._options.workers),
                "shoal-manager" if seat.manages else f"shoal-worker-{seat.number}",
            )
        seat.channel, seat.ready, seat.started_s = Channel(ours), False, time.monotonic()
        self._selector.register(seat.channel, selectors.EVENT_READ, seat)
        seat.channel.send(self._job(seat, listener))

    def _job(self, seat: _Seat, listener: socket.socket) -> Job:
        return Job(
            number=seat.number,
            manages=seat.manages,
            options=self._options,
            home=str(self._settings.home),
            database_url=self._settings.database_url,
            actor=self._settings.actor,
            listener=listener.fileno(),
            pages=tuple(self._pages),
            statistics=tuple(self._statistics),
            handovers=tuple(self._handovers),
            surveys=tuple(self._surveys),
            grpc_port=self._grpc.getsockname()[1] if self._grpc is not None else None,
            at_once=not self._announced,
            server=self._server,
        )

    def _reached(self) -> ServerRecord:
        """What is told of this server to those who look for one."""
        addresses = self.addresses()
        url = self._options.url or reachable(addresses.url)
        if self._options.url is None:
            self._require_name(url)
        return new_server(
            url.rstrip("/"),
            grpc_url=reachable(addresses.grpc),
            admin_url=reachable(addresses.admin_url),
            category=self._options.category,
            clock=utc_now,
        )

    def _require_name(self, url: str) -> None:
        """Say so when clients that come by discovery are going to refuse the certificate."""
        host = urlsplit(url).hostname
        if self._certificates is not None and host and not self._certificates.fits(host):
            self._on_news(
                f"The certificate is not for {host}, by which discovery tells of this server, so clients will refuse "
                "it; say with --url by which of the certificate's names they reach it."
            )

    def _hear(self) -> None:
        """Wait for news, and take it."""
        for key, _ in self._selector.select(_LOOK_S):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.recv(4096)  # type: ignore[union-attr]
            else:
                self._hear_from(key.data)

    def _hear_from(self, seat: _Seat) -> None:
        assert seat.channel is not None
        for message in seat.channel.receive():
            if isinstance(message, Ready):
                self._is_ready(seat, message)
            elif isinstance(message, Waiting):
                self._waits(message.reason)
            elif isinstance(message, Failed):
                self._has_failed(seat, message.error)
        if seat.channel.ended:
            self._hang_up(seat)

    def _hang_up(self, seat: _Seat) -> None:
        if seat.channel is not None:
            self._selector.unregister(seat.channel)
            seat.channel.connection.close()
            seat.channel = None

    def _is_ready(self, seat: _Seat, message: Ready) -> None:
        seat.ready = True
        self._fleets = message.fleets or self._fleets
        if self._announced:
            self._tell_open(seat)
        elif all(one.ready for one in self._seats):
            self._announced = True
            for one in self._seats:
                self._tell_open(one)
            self._on_ready(self.addresses())

    def _waits(self, reason: str) -> None:
        """Say once what all workers wait for."""
        if reason != self._reason:
            self._on_news(f"not ready: {reason}; it is looked at again and again")
        self._reason = reason

    def _tell_open(self, seat: _Seat) -> None:
        if seat.channel is not None:
            seat.channel.send(Open())

    def _has_failed(self, seat: _Seat, error: str) -> None:
        if self._announced:
            self._on_news(f"worker {seat.number} cannot start: {error}")
        else:
            self._failure = error

    def _bury(self) -> None:
        """Empty the seats of those who died; who dies again and again is waited for longer and longer."""
        now_s = time.monotonic()
        for seat in self._seats:
            code = None if seat.process is None else seat.process.poll()
            if code is None:
                continue
            how = _how(code)
            self._blank(seat)
            if seat.channel is not None:
                self._hear_from(seat)
            self._hang_up(seat)
            if not self._announced and self._failure is None:
                self._failure = f"a worker ended while starting ({how}); its log is on the standard error"
            healthy = seat.ready and now_s - seat.started_s > _HEALTHY_S
            longest_s = _LONGEST_READY_PAUSE_S if seat.ready else _LONGEST_PAUSE_S
            seat.pause_s = _FIRST_PAUSE_S if healthy else min(longest_s, 2 * seat.pause_s)
            seat.process, seat.ready, seat.again_s = None, False, now_s + seat.pause_s
            self._on_news(f"worker {seat.number} ended ({how}); another takes its place in {seat.pause_s:.1f} s")

    def _blank(self, seat: _Seat) -> None:
        """A process that has ended has no connections any more."""
        page = Page(self._pages[seat.number])
        left = page.read()
        if left is not None:
            page.write(without_gauges(left))

    def _end(self, signals: list[int]) -> bool:
        """Have the workers drain; a second signal, or too long a time, ends them at once."""
        self._close_listeners()
        for process in self._processes():
            process.terminate()
        deadline_s = time.monotonic() + self._options.drain_s + _LAST_GRACE_S
        heard = min(1, len(signals))  # a second one may have come together with the first
        while self._processes() and len(signals) <= heard and time.monotonic() < deadline_s:
            self._hear()
        # Who was still starting had nothing to finish, and perhaps not yet ears for a signal.
        worked = [seat.process for seat in self._seats if seat.process is not None and seat.ready]
        return not self._processes() and all(process.returncode == 0 for process in worked)

    def _processes(self) -> list[Process]:
        found = (seat.process for seat in self._seats)
        return [process for process in found if process is not None and process.poll() is None]

    def _kill(self) -> None:
        for process in self._processes():
            process.kill()
        for seat in self._seats:
            if seat.process is not None:
                seat.process.wait()
            if seat.channel is not None:
                seat.channel.connection.close()

    def _close_listeners(self) -> None:
        """Our own copies: while we hold one, the system would accept connections that nobody answers."""
        for listener in (self._listener, self._admin):
            if listener is not None:
                listener.close()

    def _close(self) -> None:
        self._sockets.close()
        self._selector.close()
        for page in (*self._pages, *self._statistics, *self._handovers, *self._surveys):
            os.close(page)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
