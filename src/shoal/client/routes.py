"""Which server to ask: found by discovery, remembered for a while, given up when it does not answer."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shoal.client.exchange import Door
from shoal.serving.services import Service

_PASSWORD = re.compile(r"^(.*//)?[^/]*@")


def shown(url: str) -> str:
    """An address as messages have it: without a name and a password."""
    return _PASSWORD.sub(r"\1", url)


@dataclass(slots=True)
class _Known:
    services: Sequence[Service]
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
    _known: dict[str | None, _Known] = field(default_factory=dict)
    _avoided: dict[str, float] = field(default_factory=dict)
    _turn: int = 0

    def known(self, fleet: str | None) -> bool:
        """Whether discovery need not be asked about a fleet; None: about who is there."""
        found = self._known.get(fleet)
        return found is not None and self.clock() < found.until_s

    def learn(self, fleet: str | None, services: Sequence[Service] | None) -> None:
        """Remember who serves a fleet; None or nobody where that could not be told: what was known goes on to count."""
        before = self._known.get(fleet)
        if not services:
            services = before.services if before is not None else ()
        self._known[fleet] = _Known(services, self.clock() + self.remembered_s)

    def candidates(self, fleet: str | None, door: Door) -> list[str]:
        """Whom to ask, in this order; those that failed come last.

        About a fleet: its servers in turns, then the entry. About anything else: the entry where it has that door,
        then the others. A server with a port of its own for management answers management there and nothing else.
        """
        found = self._known.get(fleet)
        places = [_place(service, door) for service in found.services] if found is not None else []
        if fleet is not None:
            urls = [*self._in_turns(places), self.entry]
        elif door is Door.ANY:
            urls = [self.entry, *self._everybody()]
        else:
            first = self._own(door)
            urls = [*first, *places, self.entry]
        urls = list(filter(self._may_ask, urls))
        now = self.clock()
        return sorted(dict.fromkeys(urls), key=lambda url: self._avoided.get(url, 0.0) > now)

    def places(self, services: Sequence[Service], door: Door) -> list[str]:
        """The addresses of servers that may be asked."""
        return [url for service in services if self._may_ask(url := _place(service, door))]

    def _may_ask(self, url: str) -> bool:
        """Whoever began with HTTPS has a key, or rows, that are not to go over the network in the clear."""
        return url.startswith("https://") or not self.entry.startswith("https://")

    def _in_turns(self, urls: list[str]) -> list[str]:
        if not urls:
            return []
        self._turn += 1
        start = self._turn % len(urls)
        return urls[start:] + urls[:start]

    def _everybody(self) -> list[str]:
        return [service.url for known in list(self._known.values()) for service in known.services]

    def _own(self, door: Door) -> list[str]:
        """The entry where it has this door; else that of the server whose other door it is, if it is known."""
        services = self._known[None].services if None in self._known else ()
        apart = [service for service in services if service.admin_url is not None]
        if door is Door.MANAGEMENT:
            wrong = bool(apart) and self.entry not in [service.admin_url for service in apart]
        else:
            wrong = self.entry in [service.admin_url for service in apart]
        if not wrong:
            return [self.entry]
        return [_place(service, door) for service in apart if self.entry in (service.url, service.admin_url)]

    def failed(self, url: str, fleet: str | None) -> None:
        """A server did not answer: ask others first for a while, and discovery again."""
        self._avoided[url] = self.clock() + self.avoided_s
        if fleet in self._known:
            self._known[fleet].until_s = 0.0


def _place(service: Service, door: Door) -> str:
    return service.admin_url or service.url if door is Door.MANAGEMENT else service.url
