"""Discovery: a server tells the registry that it is there; any server tells which there are and what they hold."""

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import ClassVar, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidInput, ShoalError, Unavailable
from shoal.fleet import Fleet
from shoal.registry import Registry, ServerRecord
from shoal.server.authentication import KeyRing
from shoal.server.errors import answer
from shoal.server.parameters import require_known
from shoal.server.surveys import Surveys
from shoal.serving.contact import Contact, hear
from shoal.serving.holdings import Holdings
from shoal.serving.plane import DataPlane
from shoal.serving.services import Service, Survey, find_services, unheard
from shoal.workspace import Workspace

BEAT_S: Final = 1.0
"""Seconds between two signs of life."""

OPENINGS: Final = 2
"""Threads that open snapshots for whoever asks by a key; nobody misses those that wait for a registry that hangs."""

_FILTERS: Final = ("name", "tag", "category", "key")

_encoder = msgspec.json.Encoder()
_log = logging.getLogger("shoal.server")


class Services:
    """Answers ``GET /api/v1/services?name=&tag=&category=&key=``.

    While the registry is away, the answer is what it said last to any process of the server, with an ``Age`` in
    seconds; this server itself is in it as it is now, whether or not the registry has heard of it.

    Parameters
    ----------
    workspace : Workspace
        Where the registry is, and the snapshots that this process has not opened.
    ring : KeyRing
        Whether callers need a key.
    contact : Contact
        Whether the registry answers.
    surveys : Surveys
        What it says of servers and fleets.
    plane : DataPlane, optional
        What this process serves.
    heart : Heartbeat, optional
        Knows what is true of this server.

    Attributes
    ----------
    ROUTES : sequence of (method, template)
        The lines of the permission table that it answers.
    """

    ROUTES: ClassVar[Sequence[tuple[str, str]]] = (("GET", "/api/v1/services"),)

    def __init__(
        self,
        workspace: Workspace,
        ring: KeyRing,
        contact: Contact,
        surveys: Surveys,
        plane: DataPlane | None = None,
        heart: "Heartbeat | None" = None,
    ) -> None:
        self._workspace = workspace
        self._ring = ring
        self._contact = contact
        self._surveys = surveys
        self._heart = heart
        self._holdings = Holdings(self._opened) if plane is None else Holdings(self._opened, plane.fleet)
        self._opening = ThreadPoolExecutor(OPENINGS, thread_name_prefix="shoal-services")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        asked = _filters(scope["query_string"])
        known, age_s = await self._known()
        if self._heart is not None:
            known = known.with_server(self._heart.record())
        services = await self._found(partial(find_services, known, **asked, has=self._holdings.answers))
        headers = [] if age_s is None else [(b"age", b"%d" % age_s)]
        await answer(send, 200, _encoder.encode(services), headers)

    async def _found(self, find: Callable[[], list[Service]]) -> list[Service]:
        """What is found with the registry's help, or without it where that is away or goes away."""
        if not self._contact.problem:
            with contextlib.suppress(Unavailable):
                asked = asyncio.get_running_loop().run_in_executor(self._opening, find)
                return await self._contact.during(asked)
        return await asyncio.to_thread(find)

    def _opened(self, reference: str) -> Fleet:
        """A snapshot that is not at hand; which it is, only the registry knows."""
        self._contact.require()
        return self._workspace.fleet(reference)

    async def _known(self) -> tuple[Survey, float | None]:
        """What the registry says, or said, and how many seconds ago that was; None for now.

        Raises
        ------
        Unavailable
            It never said anything to this server, as far as this process knows, which serves nothing itself.
        """
        fresh = await self._surveys.now()
        if fresh is not None:
            return fresh, None
        last = await self._surveys.last()
        if last is not None:
            return last
        if self._heart is None:
            raise self._contact.refusal("and nothing is known from before; ask one of the servers, or try again")
        record = self._heart.record()
        return unheard(record, authenticated=not self._ring.is_open), record.staleness_s


def _filters(query: bytes) -> dict[str, str]:
    """What services are asked for by; an empty text is a wish like any other.

    Raises
    ------
    InvalidInput
        By something else, or by two of the same kind.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    asked = dict(pairs)
    require_known(asked, _FILTERS)
    if len(asked) < len(pairs):
        raise InvalidInput(
            "services are asked for by one name, one tag, one category and one key at a time; say each once"
        )
    return asked


class Heartbeat:
    """Tells the registry that this server is there, again and again.

    Parameters
    ----------
    registry : Registry
        Who is told.
    plane : DataPlane
        What is served.
    record : ServerRecord
        What is always true of this server.
    """

    def __init__(self, registry: Registry, plane: DataPlane, record: ServerRecord) -> None:
        self._registry = registry
        self._plane = plane
        self._record = record
        self._beat: asyncio.Task[ServerRecord] | None = None

    async def work(self) -> None:
        """Tell for ever; while the registry cannot be reached, nobody is told, and nothing else happens."""
        told = True
        while True:
            try:
                self._beat = asyncio.create_task(asyncio.to_thread(self._registry.beat, self.record()))
                self._beat.add_done_callback(hear)
                await asyncio.shield(self._beat)
                told = True
            except ShoalError as error:
                if told:
                    _log.warning("the registry does not hear of this server: %s", error)
                told = False
            await asyncio.sleep(BEAT_S)

    async def end(self) -> None:
        """Tell that this server goes, after a sign of life that is on its way: that one must not be the last word."""
        if self._beat is not None:
            await asyncio.wait({self._beat})
        try:
            await asyncio.to_thread(self._registry.forget_server, self._record.id)
        except ShoalError as error:
            _log.warning("the registry does not hear that this server goes: %s", error)

    def record(self) -> ServerRecord:
        """What is true of this server now."""
        fleets = {entry.name: int(entry.version) for entry in self._plane.index(ready=True)}
        staleness_s = round(self._plane.staleness_s(), 3)
        return replace(self._record, fleets=fleets, missed=self._plane.missed(), staleness_s=staleness_s)


def new_server(
    url: str, *, grpc_url: str | None, admin_url: str | None, category: str, clock: Callable[[], dt.datetime]
) -> ServerRecord:
    """What is always true of a server that starts now."""
    return ServerRecord(
        id=secrets.token_hex(8),
        url=url,
        grpc_url=grpc_url,
        admin_url=admin_url,
        category=category,
        started_at=clock(),
    )
