"""Discovery: a server tells the registry that it is there; any server tells which there are and what they hold."""

import asyncio
import datetime as dt
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidInput, NotFound, ShoalError
from shoal.registry import Desired, Registry, ServerRecord
from shoal.server.errors import answer
from shoal.serving.plane import DataPlane

BEAT_S: Final = 1.0
"""Seconds between two signs of life."""

ALIVE_S: Final = 5.0
"""A server that was silent for longer counts as gone, in seconds."""

_FILTERS: Final = ("name", "tag", "category", "key")

_encoder = msgspec.json.Encoder()
_log = logging.getLogger("shoal.server")


class ServedFleet(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that a server holds.

    Attributes
    ----------
    name, version : str, int
        The fleet and the snapshot that is served.
    category, tags : str, tuple of str
        What the registry says of it.
    metadata_url : str
        Where its inputs and outputs are told.
    """

    name: str
    version: int
    category: str
    tags: tuple[str, ...]
    metadata_url: str


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A server.

    Attributes
    ----------
    id : str
        New at each start.
    url : str
        Where it answers.
    grpc_url, admin_url : str or None
        Where it answers gRPC and management.
    secured : bool
        Whether it wants an API key.
    category : str
        The category whose fleets it serves; empty for all.
    fleets : tuple of ServedFleet
        Those that were asked for, of all that it serves.
    staleness_s : float
        Seconds since it last heard from the registry, when it was last heard of.
    started_at, beat_at : datetime
        When it started, and when it was last heard of, UTC.
    """

    id: str
    url: str
    grpc_url: str | None
    admin_url: str | None
    secured: bool
    category: str
    fleets: tuple[ServedFleet, ...]
    staleness_s: float
    started_at: dt.datetime
    beat_at: dt.datetime | None


class Services:
    """Answers ``GET /api/v1/services?name=&tag=&category=&key=``.

    Parameters
    ----------
    registry : Registry
        Who is there, and what fleets are.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        unknown = sorted(set(asked) - set(_FILTERS))
        if unknown:
            raise InvalidInput(f"services are asked for by {', '.join(_FILTERS)}, not by {unknown[:3]}")
        services = await asyncio.to_thread(self.services, **asked)
        await answer(send, 200, _encoder.encode(services))

    def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """The servers that are alive and hold a fleet that was asked for; without any wish, all that are alive.

        Parameters
        ----------
        name, tag, category : str, optional
            What the fleets are called, tagged, and which category they are of.
        key : str, optional
            A segment key as addresses have it, ``key1:key2``: fleets that have had a model of it.
        """
        alive = self._registry.servers(ALIVE_S)
        secured = bool(self._registry.keys())
        known = {one.fleet: one for one in self._registry.serving()}
        wanted = {
            fleet: one
            for fleet, one in known.items()
            if (name is None or fleet == name)
            and (tag is None or tag in one.tags)
            and (category is None or one.category == category)
            and (key is None or self._has(fleet, key))
        }
        everything = name is tag is category is key is None
        found = [_service(record, wanted, secured) for record in alive]
        return [service for service in found if service.fleets or everything]

    def _has(self, fleet: str, key: str) -> bool:
        try:
            return bool(self._registry.model_history(fleet, key))
        except NotFound:
            return False


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

    async def work(self) -> None:
        """Tell for ever; while the registry cannot be reached, nobody is told, and nothing else happens."""
        told = True
        while True:
            try:
                await asyncio.to_thread(self._registry.beat, self._now())
                told = True
            except ShoalError as error:
                if told:
                    _log.warning("the registry does not hear of this server: %s", error)
                told = False
            await asyncio.sleep(BEAT_S)

    async def end(self) -> None:
        """Tell that this server goes."""
        try:
            await asyncio.to_thread(self._registry.forget_server, self._record.id)
        except ShoalError as error:
            _log.warning("the registry does not hear that this server goes: %s", error)

    def _now(self) -> ServerRecord:
        fleets = {entry.name: int(entry.version) for entry in self._plane.index(ready=True)}
        return replace(self._record, fleets=fleets, staleness_s=round(self._plane.staleness_s(), 3))


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


def _service(record: ServerRecord, wanted: dict[str, Desired], secured: bool) -> Service:
    return Service(
        id=record.id,
        url=record.url,
        grpc_url=record.grpc_url,
        admin_url=record.admin_url,
        secured=secured,
        category=record.category,
        fleets=_fleets(record, wanted),
        staleness_s=record.staleness_s,
        started_at=record.started_at,
        beat_at=record.beat_at,
    )


def _fleets(record: ServerRecord, wanted: dict[str, Desired]) -> tuple[ServedFleet, ...]:
    held: Sequence[tuple[str, int]] = sorted((name, version) for name, version in record.fleets.items())
    return tuple(
        ServedFleet(
            name=name,
            version=version,
            category=wanted[name].category,
            tags=wanted[name].tags,
            metadata_url=f"{record.url}/v2/models/{name}",
        )
        for name, version in held
        if name in wanted
    )
