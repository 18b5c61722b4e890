"""What servers share, as the registry's methods: desired state, API keys, servers, stores and named sources."""

import datetime as dt
from collections.abc import Mapping

from shoal.registry import api_keys, audit, servers, serving, sources, stores
from shoal.registry.deployment_records import Desired, ServerRecord, SourceRecord, StoreRecord
from shoal.registry.names import check_flag, check_version
from shoal.registry.records import Head
from shoal.registry.serving import KEEP, Keep
from shoal.security.api_keys import ApiKeyRecord
from shoal.security.permissions import Role
from shoal.storage.sql import Database
from shoal.types import Json


class Deployment:
    """The part of the registry that is about servers; see :class:`~shoal.registry.registry.Registry`.

    Parameters
    ----------
    database : Database
        Migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self) -> Head:
        """What is replaced by every audited change; whoever follows the registry asks for this often."""
        with self._database.read() as connection:
            return audit.head(connection)

    def serving(self) -> list[Desired]:
        """What servers are to do with each fleet, by name; with the defaults where nobody said anything.

        By default a fleet is loaded, and its champion followed.
        """
        with self._database.read() as connection:
            return serving.every(connection)

    def desired(self, name: str) -> Desired:
        """What servers are to do with one fleet; see :meth:`serving`.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        with self._database.read() as connection:
            return serving.one(connection, name)

    def set_serving(
        self,
        name: str,
        *,
        actor: str,
        loaded: bool | None = None,
        alias: str | None = None,
        pinned: int | Keep | None = KEEP,
        spec: Mapping[str, Json] | None = None,
    ) -> Desired:
        """Say what servers are to do with a fleet, from now on and after every restart.

        Saying what holds already changes nothing and leaves no entry in the audit.

        Parameters
        ----------
        name : str
            The fleet.
        actor : str
            In whose name.
        loaded : bool, optional
            Whether it is served; as it is unless told.
        alias : str, optional
            The alias to follow; as it is unless told.
        pinned : int, None or "keep"
            A version to stay at wherever the alias moves, which is kept from garbage collection; None: none.
        spec : mapping, optional
            How it is served beside its models, in the place of what was said before; as it is unless told.

        Raises
        ------
        InvalidInput
            The alias's name is not safe, or something is not of its type.
        NotFound
            There is no such fleet, it does not have the alias, or the version to be pinned does not exist or its
            files were collected.
        """
        if loaded is not None:
            check_flag(loaded, what="loaded")
        if pinned is not None and pinned != KEEP:
            check_version(pinned, what="pinned")
        with self._database.write() as connection:
            return serving.change(
                connection, name, loaded=loaded, alias=alias, pinned=pinned, spec=spec, actor=actor,
                at=self._database.now(connection),
            )  # fmt: skip

    def create_key(
        self,
        *,
        id: str,  # noqa: A002
        name: str,
        role: Role,
        hash: str,  # noqa: A002
        expires_at: dt.datetime | None = None,
        actor: str,
    ) -> ApiKeyRecord:
        """Add an API key, of which only the digest is known.

        Raises
        ------
        InvalidInput
            The name is empty or too long, or the key would have expired already.
        Conflict
            There is one of that id.
        """
        with self._database.write() as connection:
            record = ApiKeyRecord(
                id=id, name=name, role=role, hash=hash, expires_at=expires_at, created_by=actor,
                created_at=self._database.now(connection),
            )  # fmt: skip
            return api_keys.create(connection, record)

    def keys(self) -> list[ApiKeyRecord]:
        """All API keys, newest first, revoked and expired ones too."""
        with self._database.read() as connection:
            return api_keys.every(connection)

    def key(self, id: str) -> ApiKeyRecord:  # noqa: A002
        """One API key.

        Raises
        ------
        NotFound
            There is no such key.
        """
        with self._database.read() as connection:
            return api_keys.one(connection, id)

    def revoke_key(self, id: str, *, actor: str) -> ApiKeyRecord:  # noqa: A002
        """Take an API key no more; harmless when it was revoked before.

        Raises
        ------
        NotFound
            There is no such key.
        """
        with self._database.write() as connection:
            return api_keys.revoke(connection, id, actor=actor, at=self._database.now(connection))

    def rotate_key(
        self,
        id: str,  # noqa: A002
        *,
        new_id: str,
        new_hash: str,
        expires_at: dt.datetime | None = None,
        overlap_s: float,
        actor: str,
    ) -> tuple[ApiKeyRecord, ApiKeyRecord]:
        """Put a new API key of the same name and role in the place of one.

        Parameters
        ----------
        id : str
            The old key.
        new_id, new_hash : str
            The new key's id and digest.
        expires_at : datetime, optional
            When the new key expires; never unless told.
        overlap_s : float
            Seconds that the old key is taken yet, if it does not expire before.
        actor : str
            In whose name.

        Returns
        -------
        tuple of ApiKeyRecord
            The old key and the new one.

        Raises
        ------
        NotFound
            There is no such key.
        InvalidInput
            The overlap is negative or too long, or the new key would have expired already.
        Conflict
            The old key was revoked or has expired, or there is one of the new id.
        """
        with self._database.write() as connection:
            return api_keys.rotate(
                connection, id, new_id=new_id, new_hash=new_hash, expires_at=expires_at, overlap_s=overlap_s,
                actor=actor, at=self._database.now(connection),
            )  # fmt: skip

    def beat(self, record: ServerRecord) -> ServerRecord:
        """Note that a server is there, and what it tells of itself; not audited, and ``head()`` stays as it is.

        Servers that were silent for :data:`~shoal.registry.servers.FORGOTTEN_AFTER_S` are forgotten on the way.
        """
        with self._database.write() as connection:
            return servers.beat(connection, record, at=self._database.now(connection))

    def servers(self, max_age_s: float | None = None) -> list[ServerRecord]:
        """Servers heard of within the last ``max_age_s`` seconds by the database's clock, or all known; by URL."""
        with self._database.read() as connection:
            since = None
            if max_age_s is not None:
                since = self._database.now(connection) - dt.timedelta(seconds=max_age_s)
            return servers.alive(connection, since=since)

    def forget_server(self, id: str) -> bool:  # noqa: A002
        """Forget a server that stops; whether it was known."""
        with self._database.write() as connection:
            return servers.forget(connection, id)

    def stores(self) -> list[StoreRecord]:
        """Categories whose snapshots are kept in a store of their own, by category."""
        with self._database.read() as connection:
            return stores.every(connection)

    def set_store(self, category: str, folder: str | None, *, actor: str) -> None:
        """Say in which folder a category's snapshots are kept from now on; None: where all others are.

        Nothing is moved: snapshots that are elsewhere have to be copied before.

        Raises
        ------
        InvalidInput
            The category's name is not safe, or the folder's path is not absolute.
        """
        with self._database.write() as connection:
            stores.change(connection, category, folder, actor=actor, at=self._database.now(connection))

    def sources(self) -> list[SourceRecord]:
        """Named sources of features and sinks of results, by name."""
        with self._database.read() as connection:
            return sources.every(connection)

    def source(self, name: str) -> SourceRecord:
        """One of them.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        with self._database.read() as connection:
            return sources.one(connection, name)

    def set_source(self, name: str, spec: Mapping[str, Json] | None, *, actor: str, noun: str = "source") -> None:
        """Say what a name means from now on; None: nothing.

        Parameters
        ----------
        name : str
            The name.
        spec : mapping or None
            Its definition.
        actor : str
            In whose name.
        noun : str
            What people call it, for messages: sinks are kept among sources.

        Raises
        ------
        InvalidInput
            The name is not safe, or the spec holds a password; secrets are references to environment variables.
        """
        with self._database.write() as connection:
            sources.change(connection, name, spec, noun=noun, actor=actor, at=self._database.now(connection))
