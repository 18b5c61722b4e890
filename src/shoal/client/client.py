"""``shoal.connect(url)``: a workspace's interface, answered by servers."""

from pathlib import Path
from types import TracebackType
from typing import Self

from shoal.client import records
from shoal.client.exchange import Question, get, part, send
from shoal.client.remote import AsyncRemoteFleet, RemoteFleet, aliased, describe
from shoal.client.routes import Routes, Service
from shoal.client.transport import AsyncTransport, Transport
from shoal.client.trust import Certificate, Trust
from shoal.errors import InvalidInput, NotFound
from shoal.ledger import RunRecord
from shoal.registry import CHAMPION, AliasChange, FleetRecord
from shoal.types import Json

_API = "/api/v1"


def connect(
    url: str,
    *,
    api_key: str | None = None,
    timeout_s: float = 30.0,
    ca: str | Path | None = None,
    certificate: Certificate | None = None,
) -> "Client":
    """Connect to Shoal's servers.

    Parameters
    ----------
    url : str
        Address of any of them, such as ``http://127.0.0.1:8080``; the others are found by discovery. From one of HTTPS
        on, only servers of HTTPS are asked.
    api_key : str, optional
        Sent with every question.
    timeout_s : float
        How long one answer may take, in seconds.
    ca : path, optional
        PEM file, or folder of such, with the authorities whose certificates are taken over HTTPS; those of
        ``SSL_CERT_FILE``, or else the usual ones, unless told.
    certificate : path or pair of paths, optional
        What is shown to servers that want to see a certificate, in PEM: one file with the key in it, or two.

    Raises
    ------
    InvalidInput
        The address is none, a certificate cannot be read, or httpx is not installed.

    Examples
    --------
    >>> client = shoal.connect("http://127.0.0.1:8080")  # doctest: +SKIP
    >>> client.fleet("pumps").predict({"device": ["d1"], "sensor": ["s1"], "x": [0.5]})  # doctest: +SKIP
    """
    return Client(Transport(_routes(url), _headers(api_key), timeout_s, Trust(ca=ca, certificate=certificate)))


def connect_async(
    url: str,
    *,
    api_key: str | None = None,
    timeout_s: float = 30.0,
    ca: str | Path | None = None,
    certificate: Certificate | None = None,
) -> "AsyncClient":
    """Connect to Shoal's servers from an event loop; parameters as of :func:`connect`."""
    trust = Trust(ca=ca, certificate=certificate)
    return AsyncClient(AsyncTransport(_routes(url), _headers(api_key), timeout_s, trust))


class Client:
    """Asks servers and waits for their answers; may be used by several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """All fleets, or those with a tag or of a category."""
        return self._transport.ask(_fleets(tag, category))

    def fleet(self, reference: str) -> RemoteFleet:
        """The fleet that ``name``, ``name:version`` or ``name@alias`` means now; ``name``: what is served under it.

        Raises
        ------
        NotFound
            There is no such fleet, alias or version.
        """
        name, version, alias = aliased(reference)
        if alias is not None:
            version = _version_of(self._transport.ask(_fleet(name)), alias)
        return RemoteFleet(self._transport, name, version, self._transport.ask(describe(name, version)))

    def promote(
        self, name: str, version: int, *, alias: str = CHAMPION, expected: int | None = None, reason: str = ""
    ) -> AliasChange:
        """Make an alias name a version, atomically; all servers follow within a second."""
        return self._transport.ask(_promote(name, version, alias, expected, reason))

    def rollback(
        self, name: str, *, alias: str = CHAMPION, expected: int | None = None, reason: str = ""
    ) -> AliasChange:
        """Make an alias name the version it named before, atomically."""
        return self._transport.ask(_rollback(name, alias, expected, reason))

    def runs(self, *, fleet: str | None = None, limit: int = 50) -> list[RunRecord]:
        """The newest runs, newest first."""
        return self._transport.ask(_runs(fleet, limit))

    def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """Which servers hold which fleets: of a name, with a tag, of a category, with a model of a key."""
        return self._transport.ask(_services(name, tag, category, key))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """Asks servers without blocking; methods as of :class:`Client`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """As :meth:`Client.fleets`."""
        return await self._transport.ask(_fleets(tag, category))

    async def fleet(self, reference: str) -> AsyncRemoteFleet:
        """As :meth:`Client.fleet`."""
        name, version, alias = aliased(reference)
        if alias is not None:
            version = _version_of(await self._transport.ask(_fleet(name)), alias)
        return AsyncRemoteFleet(self._transport, name, version, await self._transport.ask(describe(name, version)))

    async def promote(
        self, name: str, version: int, *, alias: str = CHAMPION, expected: int | None = None, reason: str = ""
    ) -> AliasChange:
        """As :meth:`Client.promote`."""
        return await self._transport.ask(_promote(name, version, alias, expected, reason))

    async def rollback(
        self, name: str, *, alias: str = CHAMPION, expected: int | None = None, reason: str = ""
    ) -> AliasChange:
        """As :meth:`Client.rollback`."""
        return await self._transport.ask(_rollback(name, alias, expected, reason))

    async def runs(self, *, fleet: str | None = None, limit: int = 50) -> list[RunRecord]:
        """As :meth:`Client.runs`."""
        return await self._transport.ask(_runs(fleet, limit))

    async def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """As :meth:`Client.services`."""
        return await self._transport.ask(_services(name, tag, category, key))

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()


def _routes(url: str) -> Routes:
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{url!r} is no address of a server; write one like http://127.0.0.1:8080")
    return Routes(entry=url.rstrip("/"))


def _headers(api_key: str | None) -> dict[str, str]:
    return {"X-API-Key": api_key} if api_key else {}


def _fleets(tag: str | None, category: str | None) -> Question[list[FleetRecord]]:
    return get(f"{_API}/fleets", list[FleetRecord], tag=tag, category=category)


def _fleet(name: str) -> Question[FleetRecord]:
    return get(f"{_API}/fleets/{part(name)}", FleetRecord)


def _version_of(fleet: FleetRecord, alias: str) -> str:
    version = fleet.aliases.get(alias)
    if version is None:
        raise NotFound(f"fleet {fleet.name!r} has no alias {alias!r}; it has {', '.join(fleet.aliases) or 'none'}")
    return str(version)


def _promote(name: str, version: int, alias: str, expected: int | None, reason: str) -> Question[AliasChange]:
    body: dict[str, Json] = {"version": version, "alias": alias, "expected": expected, "reason": reason}
    return send("POST", f"{_API}/fleets/{part(name)}/promote", body, AliasChange, repeatable=expected is not None)


def _rollback(name: str, alias: str, expected: int | None, reason: str) -> Question[AliasChange]:
    body = {"alias": alias, "expected": expected, "reason": reason}
    return send("POST", f"{_API}/fleets/{part(name)}/rollback", body, AliasChange)


def _runs(fleet: str | None, limit: int) -> Question[list[RunRecord]]:
    return records.runs(f"{_API}/runs", fleet=fleet, limit=limit)


def _services(name: str | None, tag: str | None, category: str | None, key: str | None) -> Question[list[Service]]:
    return get(f"{_API}/services", list[Service], name=name, tag=tag, category=category, key=key)
