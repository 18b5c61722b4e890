"""Services: which servers are alive, and which fleets each of them holds, as the registry knows."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from shoal.errors import InvalidInput
from shoal.registry import Head, Registry, ServerRecord

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


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a fleet.

    Attributes
    ----------
    category, tags : str, tuple of str
        As the registry has them.
    """

    category: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the registry knows of servers and fleets at one moment.

    Attributes
    ----------
    servers : tuple of ServerRecord
        Those that are alive.
    fleets : mapping of str to Described
        What is said of each fleet.
    authenticated : bool
        Whether servers want an API key.
    """

    servers: tuple[ServerRecord, ...] = ()
    fleets: Mapping[str, Described] = field(default_factory=dict)
    authenticated: bool = False

    def with_server(self, record: ServerRecord) -> "Survey":
        """The same with a server as it is now, whether or not the registry has heard of it."""
        before = next((one for one in self.servers if one.id == record.id), None)
        beat_at = None if before is None else before.beat_at
        others = [one for one in self.servers if one.id != record.id]
        servers = sorted([*others, replace(record, beat_at=beat_at)], key=lambda one: (one.url, one.id))
        return replace(self, servers=tuple(servers))


class Surveyor:
    """Asks the registry for servers and fleets, as often as one likes. Not safe for threads.

    Parameters
    ----------
    registry : Registry
        Who is asked.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._head: Head | None = None
        self._last = Survey()

    def survey(self) -> Survey:
        """What the registry knows now; two small queries while nothing changes but the servers.

        Raises
        ------
        StorageError
            It cannot be reached.
        """
        head = self._registry.head()
        if head != self._head:
            fleets = {one.fleet: Described(category=one.category, tags=one.tags) for one in self._registry.serving()}
            self._last = Survey(fleets=fleets, authenticated=bool(self._registry.keys()))
            self._head = head  # what happened meanwhile is seen the next time
        return replace(self._last, servers=tuple(self._registry.servers(ALIVE_S)))


def unheard(record: ServerRecord, *, authenticated: bool) -> Survey:
    """What a server can tell of itself where the registry never said anything: no category and no tag of a fleet."""
    return Survey(fleets={name: Described() for name in record.fleets}, authenticated=authenticated)


def find_services(
    known: Survey,
    *,
    name: str | None = None,
    tag: str | None = None,
    category: str | None = None,
    key: str | None = None,
    has: Callable[[str, int, str], bool],
) -> list[Service]:
    """The servers that are alive and hold a fleet that was asked for; without any wish, all that are alive.

    Parameters
    ----------
    known : Survey
        Who is there, and what fleets are.
    name, tag, category : str, optional
        What the fleets are called, tagged, and which category they are of.
    key : str, optional
        A segment key as addresses have it, ``key1:key2``: fleets that answer for it.
    has : callable
        Whether a fleet's snapshot answers for a key, by its own model or a coarser one.

    Raises
    ------
    InvalidInput
        A wish is no text.
    """
    require_texts(name=name, tag=tag, category=category, key=key)
    wanted = {
        fleet: one
        for fleet, one in known.fleets.items()
        if (name is None or fleet == name)
        and (tag is None or tag in one.tags)
        and (category is None or one.category == category)
    }
    looked_into: dict[tuple[str, int], bool] = {}

    def is_asked_for(fleet: str, version: int) -> bool:
        if fleet not in wanted or key is None:
            return fleet in wanted
        if (fleet, version) not in looked_into:
            looked_into[fleet, version] = has(fleet, version, key)
        return looked_into[fleet, version]

    everything = name is tag is category is key is None
    found = [_service(one, wanted, is_asked_for, authenticated=known.authenticated) for one in known.servers]
    return [service for service in found if service.fleets or everything]


def require_texts(**wishes: object) -> None:
    """Refuse wishes that are no texts, such as a key as a tuple.

    Raises
    ------
    InvalidInput
        Names the first of them.
    """
    for what, wish in wishes.items():
        if wish is not None and not isinstance(wish, str):
            shape = " as addresses have it, such as d7 or JFK:LAX" if what == "key" else ""
            raise InvalidInput(f"{what} has to be a text{shape}, not {repr(wish)[:60]}")


def _service(
    record: ServerRecord, wanted: Mapping[str, Described], chosen: Callable[[str, int], bool], *, authenticated: bool
) -> Service:
    return Service(
        id=record.id,
        url=record.url,
        grpc_url=record.grpc_url,
        admin_url=record.admin_url,
        secured=record.url.startswith("https://"),
        authenticated=authenticated,
        category=record.category,
        fleets=_fleets(record, wanted, chosen),
        staleness_s=record.staleness_s,
        started_at=record.started_at,
        beat_at=record.beat_at,
    )


def _fleets(
    record: ServerRecord, wanted: Mapping[str, Described], chosen: Callable[[str, int], bool]
) -> tuple[ServedFleet, ...]:
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
        if chosen(name, version)
    )
