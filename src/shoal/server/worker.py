"""A process of the server: opens the workspace, serves, and drains when it is told to end.

It is started by the supervisor, see :mod:`shoal.server.offspring`, with one end of a pair of sockets, see
:mod:`shoal.server.control`. When the supervisor dies, the worker drains and ends by itself.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Final

import uvloop
from starlette.types import ASGIApp

from shoal.errors import ShoalError
from shoal.server.acceptor import HttpServer
from shoal.server.authentication import KeyRing
from shoal.server.calls import CallGate
from shoal.server.certificates import Certificates
from shoal.server.control import Channel, Failed, Job, Open, Ready, Waiting
from shoal.server.discovery import Heartbeat, Services
from shoal.server.gauges import Gauges
from shoal.server.grpc.door import GrpcDoor
from shoal.server.handover import Handover, Scribe, newest
from shoal.server.health import Health
from shoal.server.limits import Traffic
from shoal.server.management import Management
from shoal.server.metrics import DeferredCounters, Meter
from shoal.server.observation import AccessLog
from shoal.server.options import ServerOptions, is_loopback
from shoal.server.predictions import PredictionsApp
from shoal.server.rest import InferenceApp
from shoal.server.stack import Stack, build_stack
from shoal.server.under_way import UnderWay
from shoal.serving.options import ServingOptions
from shoal.serving.plane import KNOWN_S, DataPlane
from shoal.serving.statistics import SharedStatistics
from shoal.settings import Settings
from shoal.telemetry.logs import LineWriter, log_as_json
from shoal.telemetry.metrics import Metrics
from shoal.telemetry.pages import Page
from shoal.telemetry.traces import Tracer
from shoal.workspace import Workspace

LINGER_S: Final = 0.5
"""How long a draining worker still accepts, so that whoever balances the load can notice, in seconds."""

_GIVEN_UP_S: Final = 0.5
_COLLECT_AFTER: Final = (50_000, 10, 10)
"""New objects before the collector looks at them, and how much rarer it looks at older ones."""
_LOOK_S: Final = 0.1

_log = logging.getLogger("shoal.server")


def main(descriptor: int) -> None:
    """Work until told to end.

    Parameters
    ----------
    descriptor : int
        File descriptor of this end of the pair.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    connection = socket.socket(fileno=descriptor)
    channel = Channel(connection)
    job = _job(channel)
    writer = LineWriter()
    log_as_json(writer, {"worker": job.number})
    drained, failure = False, None
    try:
        drained = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_work(job, channel, writer))
    except ShoalError as error:
        failure = str(error)
    except Exception:  # noqa: BLE001 - it is logged, and the supervisor hears of it
        _log.exception("the worker failed")
        failure = "a worker failed; the log above says how"
    writer.close()
    if failure is not None:
        channel.send(Failed(error=failure))
    # Nothing is left to be done, and a thread that waits for a database that has gone must not keep us.
    os._exit(0 if drained else 1)


def _job(channel: Channel) -> Job:
    while not channel.ended:
        for message in channel.receive():
            if isinstance(message, Job):
                return message
    sys.exit(1)


async def _work(job: Job, channel: Channel, writer: LineWriter) -> bool:
    settings = Settings(home=Path(job.home), database_url=job.database_url, actor=job.actor)
    handover = newest([Page(page) for page in job.handovers])
    folders = None if handover is None else handover.folders
    workspace = await asyncio.to_thread(Workspace, settings, store_folders=folders)
    with contextlib.closing(workspace):
        return await Worker(job, channel, writer, workspace, handover).run()


class Worker:
    """One process of the server, in its event loop.

    Parameters
    ----------
    job : Job
        What it is to do.
    channel : Channel
        To the supervisor.
    writer : LineWriter
        Where to log.
    workspace : Workspace
        What it serves from.
    handover : Handover, optional
        What other processes of the server knew of the registry.
    """

    def __init__(
        self, job: Job, channel: Channel, writer: LineWriter, workspace: Workspace, handover: Handover | None = None
    ) -> None:
        self._job = job
        self._handover = handover
        self._options = job.options
        self._channel = channel
        self._writer = writer
        self._workspace = workspace
        self._ring = KeyRing(workspace.registry, local=is_loopback(job.options.host))
        self._traffic = Traffic()
        self._under_way = UnderWay(job.options.limits)
        self._ending = asyncio.Event()
        self._metrics = Metrics()
        self._plane = None if job.manages else _plane(workspace, job.options)
        self._deferred = None if self._plane is None else workspace.deferred(self._plane, job.options.deferred)
        self._gauges = Gauges(self._metrics)
        self._later = DeferredCounters(self._metrics)
        self._meter = Meter(self._metrics, [Page(page) for page in job.pages], job.number, self._look)
        self._tracer = None if job.options.otlp_endpoint is None else Tracer(job.options.otlp_endpoint)
        self._heart = None
        if self._plane is not None:
            self._plane.share(SharedStatistics([Page(page) for page in job.statistics], job.number))
            self._heart = Heartbeat(workspace.registry, self._plane, job.server)
        self._stack = self._build()
        self._certificates = None if job.options.tls is None else Certificates(job.options.tls)
        listener = socket.socket(fileno=job.listener)
        self._http = HttpServer(self._stack.app, listener, self._options.limits, self._certificates)
        self._grpc: GrpcDoor | None = None
        self._beating: asyncio.Task[None] | None = None
        self._chores: list[asyncio.Task[None]] = []

    async def run(self) -> bool:
        """Serve until told to end; True when every request was answered."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        self._channel.connection.setblocking(False)
        loop.add_reader(self._channel.fileno(), self._listen)
        await self._learn_keys()
        if self._job.at_once:
            self._http.start()
        self._begin(self._under_way.sweep(), self._ring.follow(), self._meter.work())
        if self._certificates is not None:
            self._begin(self._certificates.follow())
        starting = asyncio.create_task(self._start())
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await ending
        starting.cancel()
        return await self._drain()

    async def _learn_keys(self) -> None:
        """Ask the registry for the API keys; where that does not answer soon, those that others knew have to do."""
        if self._handover is None:
            await asyncio.to_thread(self._ring.refresh)
            return
        self._ring.replace(self._handover.keys)
        self._begin(self._ring.look())
        await asyncio.wait(self._chores, timeout=KNOWN_S)

    def _begin(self, *chores: Coroutine[None, None, None]) -> None:
        self._chores += [asyncio.create_task(chore) for chore in chores]

    async def _start(self) -> None:
        if self._plane is not None:
            await self._plane.start(None if self._handover is None else self._handover.known)
            page = Page(self._job.handovers[self._job.number])
            self._begin(Scribe(page, self._plane, self._ring, self._workspace).work())
            _require_fleets(self._plane, self._options.fleets)
            if self._deferred is not None:
                self._deferred.start()
        # What is there now stays: looking at it again and again would only make requests wait.
        gc.collect()
        gc.freeze()
        # What waits to be logged is no garbage, however much of it there is.
        gc.set_threshold(*_COLLECT_AFTER)
        if self._plane is not None:
            await self._plane.catch_up()
            if self._job.grpc_port is not None:
                self._grpc = await GrpcDoor.start(
                    self._plane,
                    CallGate(
                        self._ring,
                        self._under_way,
                        self._metrics,
                        AccessLog(self._writer, self._options.access_log),
                        self._tracer,
                    ),
                    self._traffic,
                    address=self._options.host,
                    port=self._job.grpc_port,
                    body_bytes=self._options.limits.body_bytes,
                    concurrent=self._options.limits.requests,
                    handshake_s=self._options.limits.handshake_s,
                    certificates=self._certificates,
                )
        if not self._job.at_once:
            self._http.start()
        if self._heart is not None and self._plane is not None:
            self._beating = asyncio.create_task(self._heart.work())
            await self._until_ready(self._plane)
        served = self._plane.index(ready=True) if self._plane is not None else []
        self._channel.send(Ready(fleets=tuple(f"{entry.name}:{entry.version}" for entry in served)))

    async def _until_ready(self, plane: DataPlane) -> None:
        """Wait for something to answer with: a champion that cannot be opened may be rolled back, a database return."""
        if not plane.ready():
            self._channel.send(Waiting(reason=_missing(plane)))
        while not plane.ready():
            await asyncio.sleep(_LOOK_S)

    def _listen(self) -> None:
        """Hear the supervisor; when it has died, nobody would end this process."""
        for message in self._channel.receive():
            if isinstance(message, Open):
                self._traffic.open = not self._traffic.draining
        if self._channel.ended:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._ending.set()

    async def _drain(self) -> bool:
        """Say so, go on for a moment, close the door, and wait for those inside."""
        deadline_s = time.monotonic() + self._options.drain_s
        self._traffic.drain()
        await self._leave()
        await asyncio.sleep(min(LINGER_S, self._options.drain_s))
        self._http.stop_accepting()
        if self._deferred is not None:
            self._deferred.close_doors()
        left_s = max(0.0, deadline_s - time.monotonic())
        calls = asyncio.create_task(self._grpc.stop(left_s)) if self._grpc is not None else None
        drained = await self._http.finish(deadline_s)
        if not drained:
            self._under_way.give_up()
            await self._http.finish(time.monotonic() + _GIVEN_UP_S)
        if calls is not None:
            await calls
        if self._deferred is not None:
            await self._deferred.drain(max(0.0, deadline_s - time.monotonic()))
        if self._plane is not None:
            await self._plane.drain(max(0.0, deadline_s - time.monotonic()))
        self._http.close()
        self._meter.publish()
        if self._tracer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(self._tracer.close), _GIVEN_UP_S)
        return drained

    async def _leave(self) -> None:
        """Tell those who look for a server not to come here; a database that is slow to hear it is not waited for."""
        if self._heart is not None and self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heart.end(), _GIVEN_UP_S)

    def _build(self) -> Stack:
        return build_stack(
            self._doors(),
            ring=self._ring,
            traffic=self._traffic,
            metrics=self._metrics,
            log=self._writer,
            options=self._options,
            tracer=self._tracer,
            under_way=self._under_way,
        )

    def _doors(self) -> Mapping[str, ASGIApp]:
        doors: dict[str, ASGIApp] = _at(Health.ROUTES, Health(self._traffic))
        contact = self._ring.contact if self._plane is None else self._plane.contact
        if self._plane is not None:
            inference = InferenceApp(self._plane, deferred=self._deferred, body_bytes=self._options.limits.body_bytes)
            doors |= _at(inference.handlers, inference)
        if self._deferred is not None:
            predictions = PredictionsApp(self._deferred)
            doors |= _at(predictions.handlers, predictions)
        if self._job.manages or self._options.admin_port is None:
            doors |= {"api": Management(self._workspace, contact), **_at(Meter.ROUTES, self._meter)}
        services = Services(self._workspace, self._ring, contact, self._plane, self._heart)
        return doors | _at(Services.ROUTES, services)

    def _look(self) -> None:
        if self._plane is not None:
            self._plane.publish()
        self._gauges.take(self._http.connections, len(self._under_way), self._writer.dropped, self._plane)
        if self._deferred is not None:
            self._later.take(self._deferred.counts, self._deferred.backlog, self._deferred.oldest_s())


def _at(routes: Iterable[tuple[str, str]], app: ASGIApp) -> dict[str, ASGIApp]:
    """A door by the templates of its routes."""
    return dict.fromkeys((template for _, template in routes), app)


def _plane(workspace: Workspace, options: ServerOptions) -> DataPlane:
    serving = ServingOptions(batching=options.batching, max_rows=options.limits.rows)
    return workspace.data_plane(options.fleets, options=serving, category=options.category)


def _require_fleets(plane: DataPlane, wanted: tuple[str, ...]) -> None:
    """Say at once what cannot be served; of several fleets one that is broken does not stop the others.

    Raises
    ------
    ShoalError
        None of the fleets that were asked for can be served.
    """
    for fleet, why in plane.problems().items():
        _log.warning("fleet %s is not served: %s", fleet, why)
    if wanted and not plane.index(ready=True):
        raise ShoalError(_missing(plane))


def _missing(plane: DataPlane) -> str:
    """Why nothing can be answered."""
    fleets = "; ".join(f"{fleet}: {why or 'it is being opened'}" for fleet, why in plane.problems().items())
    return fleets or plane.contact.problem or "no fleet can be served"
