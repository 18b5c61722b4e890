"""The registry: fleets, snapshots, aliases, lineage, the audit and what servers share, each change one transaction."""

import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa

from shoal.registry import aliases, audit, catalog, collection, snapshots
from shoal.registry.audit import AuditCheck
from shoal.registry.catalog import Description
from shoal.registry.deployment import Deployment
from shoal.registry.names import CHAMPION, check_name, check_text, check_version, parse_reference
from shoal.registry.records import (
    AliasChange,
    AliasRecord,
    AuditEntry,
    FleetRecord,
    Lineage,
    ModelRecord,
    ModelVersion,
    SnapshotRecord,
)


class Registry(Deployment):
    """What fleets there are, which snapshots they have, which of them is in use, and what servers do with them.

    Safe for threads and for any number of processes. Every method is one transaction; every change leaves an entry
    in the audit. All methods raise :class:`~shoal.errors.StorageError` when the database cannot be reached or the
    disk is full; nothing is changed then.

    Parameters
    ----------
    database : Database
        Migrated.
    """

    def create_fleet(
        self,
        name: str,
        *,
        owner: str = "",
        description: str = "",
        category: str = "",
        tags: Iterable[str] = (),
        actor: str,
    ) -> FleetRecord:
        """Add a fleet without snapshots.

        Raises
        ------
        InvalidInput
            The name is not safe in URLs and as a folder, or a tag is empty.
        Conflict
            There is one of that name, or one whose name differs only in case.
        """
        said = Description(owner=owner, description=description, category=category, tags=catalog.clean_tags(tags))
        with self._database.write() as connection:
            catalog.create(connection, name, said, actor=actor, at=self._database.now(connection))
            return _only(connection, name)

    def describe(
        self,
        name: str,
        *,
        owner: str | None = None,
        description: str | None = None,
        category: str | None = None,
        tags: Iterable[str] | None = None,
        actor: str,
    ) -> FleetRecord:
        """Change what is said about a fleet; what is None stays.

        Raises
        ------
        NotFound
            There is no such fleet.
        InvalidInput
            A tag is empty.
        """
        edit = Description(owner=owner, description=description, category=category, tags=catalog.clean_tags(tags))
        with self._database.write() as connection:
            catalog.describe(connection, name, edit, actor=actor, at=self._database.now(connection))
            return _only(connection, name)

    def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """All fleets by name, or those with a tag or of a category."""
        with self._database.read() as connection:
            return catalog.records(connection, name=None, tag=tag, category=category)

    def fleet(self, name: str) -> FleetRecord:
        """One fleet.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        with self._database.read() as connection:
            return _only(connection, name)

    def add_snapshot(
        self,
        name: str,
        *,
        digest: str,
        models: Iterable[ModelRecord],
        model_count: int,
        lineage: Lineage,
        actor: str,
        note: str = "",
    ) -> SnapshotRecord:
        """Register a snapshot under the fleet's next version, whole or not at all.

        Parameters
        ----------
        name : str
            The fleet.
        digest : str
            Digest of the snapshot's manifest.
        models : iterable of ModelRecord
            The models that are new in this snapshot. Read inside the transaction: have them at hand, others wait.
        model_count : int
            Models in the whole snapshot.
        lineage : Lineage
            Where it comes from.
        actor : str
            In whose name.
        note : str
            What its maker says about it.

        Raises
        ------
        NotFound
            There is no such fleet, or the parent does not exist.
        InvalidInput
            A model comes twice, or ``model_count`` is less than the new models.
        """
        with self._database.write() as connection:
            return snapshots.add(
                connection, name, digest=digest, new_models=models, model_count=model_count, lineage=lineage,
                actor=actor, at=self._now_alone(connection, name), note=note,
            )  # fmt: skip

    def snapshots(self, name: str) -> list[SnapshotRecord]:
        """A fleet's snapshots, newest first.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        with self._database.read() as connection:
            return snapshots.of_fleet(connection, name)

    def snapshot(self, name: str, version: int) -> SnapshotRecord:
        """One snapshot, also when its files were collected.

        Raises
        ------
        NotFound
            There is no such fleet or version.
        """
        with self._database.read() as connection:
            return snapshots.one(connection, name, version)

    def resolve(self, reference: str) -> SnapshotRecord:
        """The snapshot that ``fleet@alias``, ``fleet:version`` or ``fleet`` (its champion) means now.

        Raises
        ------
        InvalidInput
            The text is no reference.
        NotFound
            There is no such fleet, alias or version, or its files were collected; says how to promote.
        """
        parsed = parse_reference(reference)
        with self._database.read() as connection:
            return snapshots.resolve(connection, parsed)

    def lineage(self, name: str, version: int) -> Lineage:
        """Where a snapshot comes from.

        Raises
        ------
        NotFound
            There is no such fleet or version.
        """
        with self._database.read() as connection:
            return snapshots.lineage(connection, name, version)

    def model_history(self, name: str, key_text: str) -> list[ModelVersion]:
        """The snapshots in which a key's models were new, newest first.

        Raises
        ------
        NotFound
            There is no such fleet, or it never had a model of that key.
        """
        with self._database.read() as connection:
            return snapshots.model_history(connection, name, key_text)

    def promote(
        self,
        name: str,
        version: int,
        *,
        alias: str = CHAMPION,
        actor: str,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> AliasChange:
        """Make an alias name a version, atomically.

        Parameters
        ----------
        name, version : str, int
            The snapshot.
        alias : str
            Made when it is new.
        actor : str
            In whose name.
        expected : int, optional
            The version that the alias must name now (0: none), so that a decision made on old news is refused.
        reason : str
            Why; kept in the history.
        idempotency_key : str, optional
            Kept in the audit: whoever sends the same again, because the answer was lost, is told what was done then.

        Raises
        ------
        InvalidInput
            The alias's name is not safe, or something is not of its type.
        NotFound
            There is no such fleet or version, or its files were collected.
        Conflict
            The alias does not name ``expected``; or the same was done already, and the alias was moved since.
        """
        check_version(version)
        _check_move(alias, expected, reason)
        with self._database.write() as connection:
            return aliases.promote(
                connection, name, version, alias=alias, actor=actor, expected=expected, reason=reason,
                idempotency_key=idempotency_key, at=self._now_alone(connection, name),
            )  # fmt: skip

    def rollback(
        self,
        name: str,
        *,
        alias: str = CHAMPION,
        actor: str,
        expected: int | None = None,
        onto: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> AliasChange:
        """Make an alias name the version it named before, atomically; twice goes further back.

        Raises
        ------
        InvalidInput
            As of :meth:`promote`.
        NotFound
            There is no such fleet or alias, or nothing further back.
        Conflict
            As of :meth:`promote`; or the alias did not name ``onto`` before.
        """
        _check_move(alias, expected, reason)
        with self._database.write() as connection:
            return aliases.rollback(
                connection, name, alias=alias, actor=actor, expected=expected, onto=onto, reason=reason,
                idempotency_key=idempotency_key, at=self._now_alone(connection, name),
            )  # fmt: skip

    def before(
        self, name: str, *, alias: str = CHAMPION, actor: str = "", idempotency_key: str | None = None
    ) -> int | None:
        """The version that :meth:`rollback` would go back to; None where that is none, or what has this key was done.

        Raises
        ------
        NotFound
            There is no such fleet.
        Conflict
            What has this key was done, and somebody moved the alias since.
        """
        with self._database.read() as connection:
            return aliases.before(connection, name, alias=alias, actor=actor, idempotency_key=idempotency_key)

    def aliases(self, name: str) -> list[AliasRecord]:
        """A fleet's aliases by name.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        with self._database.read() as connection:
            return aliases.of_fleet(connection, name)

    def alias_history(self, name: str, alias: str | None = None) -> list[AliasChange]:
        """Every move of one alias or of all, newest first.

        Raises
        ------
        NotFound
            There is no such fleet or alias.
        """
        with self._database.read() as connection:
            return aliases.history(connection, name, alias)

    def audit(self, *, object: str | None = None, limit: int = 100) -> list[AuditEntry]:  # noqa: A002
        """The newest changes, newest first, of one object (``flights``, ``flights:3``, ``flights@champion``) or all.

        Raises
        ------
        InvalidInput
            The limit is none.
        """
        with self._database.read() as connection:
            return audit.entries(connection, object=object, limit=limit)

    def verify_audit(self, *, noted: str | None = None) -> AuditCheck:
        """Recompute the audit's chain of digests.

        Parameters
        ----------
        noted : str, optional
            ``newest`` of an earlier check, kept elsewhere; it has to be in the chain still.
        """
        with self._database.read() as connection:
            return audit.verify(connection, noted=noted)

    def referenced(self, *, active: Iterable[tuple[str, int]]) -> set[str]:
        """Digests of the snapshots whose files have to stay.

        These are the snapshots that an alias names or ever named (the audit and rollbacks refer to them), each
        fleet's newest, and those of active runs.

        Parameters
        ----------
        active : iterable of (str, int)
            Fleet and version that active runs have pinned, from ``Ledger.pinned()``.
        """
        with self._database.read() as connection:
            return collection.referenced(connection, set(active))

    def collect(self, *, active: Iterable[tuple[str, int]], actor: str) -> list[SnapshotRecord]:
        """Give up the snapshots that nothing refers to; from then on they cannot be promoted or opened.

        Delete files only after this: no digest of :meth:`referenced` may be among what is deleted.
        """
        with self._database.write() as connection:
            return collection.collect(connection, set(active), actor=actor, at=self._database.now(connection))

    def _now_alone(self, connection: sa.Connection, name: str) -> dt.datetime:
        """The time since which nobody else changes the fleet, so that times go by as versions and moves do."""
        catalog.locked(connection, name)
        return self._database.now(connection)


def _only(connection: sa.Connection, name: str) -> FleetRecord:
    catalog.found(connection, name)
    return catalog.records(connection, name=name, tag=None, category=None)[0]


def _check_move(alias: str, expected: int | None, reason: str) -> None:
    check_name(alias, what="an alias")
    if expected is not None:
        check_version(expected, what="expected")
    check_text(reason, what="reason")
