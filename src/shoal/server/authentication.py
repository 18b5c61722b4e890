"""Who asks, and whether they may: API keys from the registry, looked at again every half second."""

import asyncio
import contextlib
import datetime as dt
import functools
import hashlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import Forbidden, ShoalError, Unauthenticated
from shoal.security.api_keys import ApiKeyRecord, id_of, matches
from shoal.security.principals import LOOPBACK, Principal
from shoal.server.options import is_loopback
from shoal.server.permissions import RouteTable, Rule
from shoal.serving.contact import Contact

_POLL_S: Final = 0.5
_REMEMBERED: Final = 10_000
_REMEMBERED_HOSTS: Final = 100

_log = logging.getLogger("shoal.server")


class KeyStore(Protocol):
    """What is needed of the registry. Calls block, and may come from any thread."""

    def head(self) -> object:
        """Something that is another with every change."""
        ...

    def keys(self) -> list[ApiKeyRecord]:
        """All API keys."""
        ...


class KeyRing:
    """The API keys as this process knows them.

    A key that was found good is remembered by the digest of what was sent, so that the next request with it costs one
    digest. While the registry cannot be reached the keys stay as they were; they still expire.

    Parameters
    ----------
    store : KeyStore
        Where the keys are.
    local : bool
        Whether the server listens on a loopback address only, so that it may do without keys.

    Attributes
    ----------
    contact : Contact
        Whether the store answers, as :meth:`look` has found.
    """

    def __init__(self, store: KeyStore, *, local: bool) -> None:
        self._store = store
        self._local = local
        self.contact = Contact()
        self._head: object = None
        self._keys: Mapping[str, ApiKeyRecord] = {}
        self._known: dict[bytes, tuple[ApiKeyRecord, Principal]] = {}

    @property
    def keys(self) -> tuple[ApiKeyRecord, ...]:
        """The keys as they are known."""
        return tuple(self._keys.values())

    @property
    def is_open(self) -> bool:
        """Whether no key was ever made. Revoking the last one does not open the server again."""
        return self._local and not self._keys

    def refresh(self) -> None:
        """Look at the registry; quick when nothing changed.

        Raises
        ------
        StorageError
            It cannot be reached.
        """
        head = self._store.head()
        if head != self._head:
            self.replace(self._store.keys())
            self._head = head

    def replace(self, keys: Sequence[ApiKeyRecord]) -> None:
        """Know these keys, and no others."""
        self._keys = {key.id: key for key in keys}
        self._known = {}

    async def follow(self) -> None:
        """Refresh for ever."""
        while True:
            await asyncio.sleep(_POLL_S)
            await self.look()

    async def look(self) -> None:
        """Refresh if the registry answers, unless that is being asked; the data plane tells how stale all is."""
        if self.contact.is_asking:
            return
        with contextlib.suppress(ShoalError), self.contact.question():
            await asyncio.to_thread(self.refresh)

    def caller(self, authorization: bytes | None, key: bytes | None) -> Principal:
        """Who sends these headers, ``Authorization`` and ``X-API-Key``.

        Raises
        ------
        Unauthenticated
            Nobody we know.
        """
        if self.is_open:
            return LOOPBACK
        if authorization:
            kind, _, credential = authorization.partition(b" ")
            if kind.lower() == b"bearer":
                return self.principal(credential.strip())
        if not key:
            raise Unauthenticated("say who you are: Authorization: Bearer KEY, or X-API-Key: KEY")
        return self.principal(key)

    def principal(self, credential: bytes) -> Principal:
        """Whose key this is.

        Raises
        ------
        Unauthenticated
            Nobody's, or it has expired or was revoked.
        """
        digest = hashlib.sha256(credential).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._checked(credential)
            if len(self._known) < _REMEMBERED:
                self._known[digest] = known
        record, principal = known
        if record.expires_at is not None:
            record.require_active(dt.datetime.now(dt.UTC))
        return principal

    def _checked(self, credential: bytes) -> tuple[ApiKeyRecord, Principal]:
        text = credential.decode("latin-1")
        record = self._keys.get(id_of(text))
        if record is None or not matches(text, record):
            raise Unauthenticated(
                "nobody has this API key; see `shoal keys list`, and `shoal keys create` for a new one"
            )
        record.require_active(dt.datetime.now(dt.UTC))
        return record, Principal(name=record.name, role=record.role, key_id=record.id)


class Authentication:
    """Finds out who asks, and refuses what the permission table does not allow them.

    The key comes as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``. Without any keys, everybody on this machine
    may do everything, but no page that a browser shows: its requests name another host or origin.

    Parameters
    ----------
    app : ASGI application
        What answers.
    ring : KeyRing
        The keys.
    table : RouteTable
        What each route asks for.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing, table: RouteTable) -> None:
        self._app = app
        self._ring = ring
        self._table = table

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request, or refuse it."""
        headers: dict[bytes, bytes] = scope["shoal.headers"]
        rule = self._rule(scope, headers)
        permission = rule.permission
        if permission is not None:
            principal = self._principal(headers)
            if permission not in principal.role.permissions:
                principal.require(permission)
            scope["shoal.principal"] = principal
        return self._app(scope, receive, send)

    def _rule(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Rule:
        """The route's rule; who may not enter does not learn which routes there are."""
        try:
            rule = self._table.rule(scope["method"], scope["raw_path"])
        except ShoalError:
            self._principal(headers)
            raise
        scope["shoal.rule"] = rule
        return rule

    def _principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        if self._ring.is_open:
            _require_local(headers)
        return self._ring.caller(headers.get(b"authorization"), headers.get(b"x-api-key"))


def _require_local(headers: Mapping[bytes, bytes]) -> None:
    """Keep browsers' pages out: they can send requests to this machine, but cannot hide where they come from."""
    host = headers.get(b"host", b"localhost")
    origin = headers.get(b"origin", b"http://localhost").partition(b"://")[2]
    if not (_is_loopback(host) and _is_loopback(origin)) or headers.get(b"sec-fetch-site") == b"cross-site":
        raise Forbidden("without API keys only this machine is served, by its own name; make one: `shoal keys create`")


@functools.lru_cache(maxsize=_REMEMBERED_HOSTS)
def _is_loopback(host: bytes) -> bool:
    """Whether this machine was named by an address of its own, which no name server can give to somebody else."""
    text = host.decode("latin-1")
    name, _, port = text.rpartition(":")
    return is_loopback(text) or (port.isdigit() and is_loopback(name))
