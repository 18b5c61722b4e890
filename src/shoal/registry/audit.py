"""The audit: one entry for every change, chained by digests so that tampering shows.

Each entry's digest covers its content and the digest of the entry before, so changing, removing or reordering
entries breaks the chain from there on. The newest number and digest are kept a second time, so cutting off the end
shows as well. Someone who may write to the database can recompute all of it; whoever needs a defence against that
notes the digest of the newest entry elsewhere from time to time and hands it to :func:`verify`.
The database itself refuses updates and deletes of entries, by triggers (see the first migration).
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from shoal.registry.records import AuditEntry, Head
from shoal.registry.tables import audit, audit_head
from shoal.storage import filters
from shoal.storage.columns import json_text
from shoal.types import Json

_HEAD = sa.select(audit_head.c.number, audit_head.c.digest).where(audit_head.c.id == 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditCheck:
    """What verifying the audit found.

    Attributes
    ----------
    entries : int
        Entries read.
    newest : str
        Digest of the newest entry; note it elsewhere to make later tampering show for certain.
    faults : tuple of str
        What is wrong, in plain words; empty when the chain holds.
    """

    entries: int
    newest: str
    faults: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was changed, removed or reordered."""
        return not self.faults


def append(
    connection: sa.Connection,
    *,
    at: dt.datetime,
    actor: str,
    action: str,
    object: str,  # noqa: A002
    before: Json,
    after: Json,
) -> None:
    """Add an entry in the transaction of the change that it tells of: there is never one without the other."""
    number, previous = connection.execute(
        sa.select(audit_head.c.number, audit_head.c.digest).where(audit_head.c.id == 1).with_for_update()
    ).one()
    content: dict[str, Json] = {
        "number": number + 1,
        "actor": actor,
        "action": action,
        "object": object,
        "before": before,
        "after": after,
        "previous": previous,
    }
    digest = _digest(at, content)
    connection.execute(audit.insert().values(at=at, digest=digest, **content))
    connection.execute(audit_head.update().where(audit_head.c.id == 1).values(number=number + 1, digest=digest))


def head(connection: sa.Connection) -> Head:
    """Number and digest of the newest entry, which every change replaces."""
    number, digest = connection.execute(_HEAD).one()
    return Head(number=number, digest=digest)


def entries(connection: sa.Connection, *, object: str | None, limit: int) -> list[AuditEntry]:  # noqa: A002
    """The newest entries, newest first, of one object or of all.

    Raises
    ------
    InvalidInput
        The limit is none.
    """
    query = sa.select(audit).order_by(audit.c.number.desc()).limit(filters.limit(limit))
    if object is not None:
        query = query.where(audit.c.object == object)
    return [_entry(row) for row in connection.execute(query).mappings()]


def verify(connection: sa.Connection, *, noted: str | None) -> AuditCheck:
    """Read the whole audit and recompute every digest.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        A transaction.
    noted : str, optional
        A digest that was the newest once; it has to be in the chain still.
    """
    faults: list[str] = []
    number, digest, seen = 0, "", noted is None
    for row in connection.execute(sa.select(audit).order_by(audit.c.number)).mappings():
        entry = _entry(row)
        faults += _faults(entry, number + 1, digest)
        number, digest = entry.number, entry.digest
        seen = seen or digest == noted
    head = connection.execute(sa.select(audit_head.c.number, audit_head.c.digest)).one_or_none()
    if head is None or tuple(head) != (number, digest):
        faults.append(
            f"the newest entry is {number}, but not the one that was written last: the end was cut or changed"
        )
    if not seen:
        faults.append(f"no entry has the digest {noted}, which was noted as the newest once")
    return AuditCheck(entries=number, newest=digest, faults=tuple(faults))


def _faults(entry: AuditEntry, number: int, previous: str) -> list[str]:
    faults = []
    if entry.number != number:
        faults.append(f"entry {number} is missing")
    if entry.previous != previous:
        faults.append(f"entry {entry.number} does not follow the entry before it")
    if _digest(entry.at, _content(entry)) != entry.digest:
        faults.append(f"entry {entry.number} ({entry.action} of {entry.object}) was changed after it was written")
    return faults


def _digest(at: dt.datetime, content: Mapping[str, Json]) -> str:
    moment = at.astimezone(dt.UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(json_text({"at": moment, **content}).encode()).hexdigest()


def _content(entry: AuditEntry) -> dict[str, Json]:
    return {
        "number": entry.number,
        "actor": entry.actor,
        "action": entry.action,
        "object": entry.object,
        "before": entry.before,
        "after": entry.after,
        "previous": entry.previous,
    }


def _entry(row: sa.RowMapping) -> AuditEntry:
    return AuditEntry(**row)
