"""Which server to ask about a fleet: found by discovery, remembered for a while, given up when it does not answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A server as discovery tells of it.

    Attributes
    ----------
    id : str
        New at each start.
    url : str
        Where it answers.
    secured : bool
        Whether its address is one of HTTPS.
    authenticated : bool
        Whether it wants an API key.
    grpc_url, admin_url : str or None
        Where it answers gRPC and management.
    category : str
        The category whose fleets it serves; empty for all.
    fleets : list of ServedFleet
        What it serves.
    staleness_s : float
        Seconds since it last heard from the registry.
    """

    id: str
    url: str
    secured: bool
    authenticated: bool = False
    grpc_url: str | None = None
    admin_url: str | None = None
    category: str = ""
    fleets: list["Served"] = []
    staleness_s: float = 0.0


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that a server holds.

    Attributes
    ----------
    name : str
        The fleet.
    version : int
        Its snapshot.
    category : str
        Its category.
    tags : list of str
        Its tags.
    metadata_url : str
        Where its inputs and outputs are told.
    """

    name: str
    version: int
    metadata_url: str
    category: str = ""
    tags: list[str] = []


@dataclass(slots=True)
class _Known:
    urls: list[str]
    until_s: float


@dataclass(slots=True, kw_only=True)
class Routes:
    """What is known of who serves what.

    Attributes
    ----------
    entry : str
        The address that the client was given; it is asked where nothing better is known.
    remembered_s : float
        How long an answer of discovery counts, in seconds.
    avoided_s : float
        How long a server that did not answer is asked last, in seconds.
    clock : callable
        Gives seconds that only ever grow.
    """

    entry: str
    remembered_s: float = 5.0
    avoided_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, _Known] = field(default_factory=dict)
    _avoided: dict[str, float] = field(default_factory=dict)
    _turn: int = 0

    def known(self, fleet: str) -> bool:
        """Whether discovery need not be asked about a fleet."""
        found = self._known.get(fleet)
        return found is not None and self.clock() < found.until_s

    def learn(self, fleet: str, services: Sequence[Service] | None) -> None:
        """Remember who serves a fleet; None where nobody could tell: then what was known goes on to count.

        Whoever began with HTTPS has an API key, or rows, that are not to go over the network in the clear.
        """
        before = self._known.get(fleet)
        if services is None:
            urls = before.urls if before is not None else []
        else:
            secured_only = self.entry.startswith("https://")
            urls = [one.url for one in services if one.url.startswith("https://") or not secured_only]
        self._known[fleet] = _Known(urls, self.clock() + self.remembered_s)

    def candidates(self, fleet: str | None) -> list[str]:
        """Whom to ask, in this order: servers of the fleet in turns, the entry, others; those that failed last."""
        found = self._known.get(fleet) if fleet is not None else None
        urls = list(found.urls) if found is not None else []
        if urls:
            self._turn += 1
            start = self._turn % len(urls)
            urls = urls[start:] + urls[:start]
        others = [url for known in self._known.values() for url in known.urls] if fleet is None else []
        now = self.clock()
        return sorted(dict.fromkeys([*urls, self.entry, *others]), key=lambda url: self._avoided.get(url, 0.0) > now)

    def failed(self, url: str, fleet: str | None) -> None:
        """A server did not answer: ask others first for a while, and discovery again."""
        self._avoided[url] = self.clock() + self.avoided_s
        if fleet is not None and fleet in self._known:
            self._known[fleet].until_s = 0.0
