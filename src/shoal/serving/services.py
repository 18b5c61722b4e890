"""Services: which servers are alive, and which fleets each of them holds, as the registry knows."""

import datetime as dt
from collections.abc import Mapping
from typing import Final

import msgspec

from shoal.errors import NotFound
from shoal.registry import Desired, Registry, ServerRecord

ALIVE_S: Final = 5.0
"""A server that was silent for longer counts as gone, in seconds."""


class ServedFleet(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that a server holds.

    Attributes
    ----------
    name, version : str, int
        The fleet and the snapshot that is served.
    wanted : int
        The snapshot that should be served: another one where that cannot be opened.
    category, tags : str, tuple of str
        What the registry says of it.
    metadata_url : str
        Where its inputs and outputs are told.
    """

    name: str
    version: int
    wanted: int
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
        Whether its address is one of HTTPS.
    authenticated : bool
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
    authenticated: bool
    category: str
    fleets: tuple[ServedFleet, ...]
    staleness_s: float
    started_at: dt.datetime
    beat_at: dt.datetime | None


def find_services(
    registry: Registry,
    *,
    name: str | None = None,
    tag: str | None = None,
    category: str | None = None,
    key: str | None = None,
) -> list[Service]:
    """The servers that are alive and hold a fleet that was asked for; without any wish, all that are alive.

    Parameters
    ----------
    registry : Registry
        Who is there, and what fleets are.
    name, tag, category : str, optional
        What the fleets are called, tagged, and which category they are of.
    key : str, optional
        A segment key as addresses have it, ``key1:key2``: fleets that have had a model of it.
    """
    alive = registry.servers(ALIVE_S)
    authenticated = bool(registry.keys())
    wanted = {
        one.fleet: one
        for one in registry.serving()
        if (name is None or one.fleet == name)
        and (tag is None or tag in one.tags)
        and (category is None or one.category == category)
        and (key is None or _has(registry, one.fleet, key))
    }
    everything = name is tag is category is key is None
    found = [_service(record, wanted, authenticated=authenticated) for record in alive]
    return [service for service in found if service.fleets or everything]


def _has(registry: Registry, fleet: str, key: str) -> bool:
    try:
        return bool(registry.model_history(fleet, key))
    except NotFound:
        return False


def _service(record: ServerRecord, wanted: Mapping[str, Desired], *, authenticated: bool) -> Service:
    return Service(
        id=record.id,
        url=record.url,
        grpc_url=record.grpc_url,
        admin_url=record.admin_url,
        secured=record.url.startswith("https://"),
        authenticated=authenticated,
        category=record.category,
        fleets=_fleets(record, wanted),
        staleness_s=record.staleness_s,
        started_at=record.started_at,
        beat_at=record.beat_at,
    )


def _fleets(record: ServerRecord, wanted: Mapping[str, Desired]) -> tuple[ServedFleet, ...]:
    held = sorted(record.fleets.items())
    return tuple(
        ServedFleet(
            name=name,
            version=version,
            wanted=record.missed.get(name, version),
            category=wanted[name].category,
            tags=wanted[name].tags,
            metadata_url=f"{record.url}/v2/models/{name}",
        )
        for name, version in held
        if name in wanted
    )
