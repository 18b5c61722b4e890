"""API keys: making, revoking and replacing them. Their text never comes here, only its digest."""

import datetime as dt

import sqlalchemy as sa

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.registry import audit
from shoal.registry.tables import api_keys
from shoal.security.api_keys import ApiKeyRecord, require_overlap
from shoal.security.permissions import Role
from shoal.types import Json

LONGEST_NAME = 100

_ADVICE = "see `shoal keys list`"


def create(connection: sa.Connection, record: ApiKeyRecord) -> ApiKeyRecord:
    """Add a key.

    Raises
    ------
    InvalidInput
        The name is empty or too long, or the key would have expired already.
    Conflict
        There is one of that id.
    """
    _insert(connection, record)
    _tell(connection, "create", None, record, actor=record.created_by, at=record.created_at)
    return record


def every(connection: sa.Connection) -> list[ApiKeyRecord]:
    """All keys, newest first, whatever became of them."""
    query = sa.select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
    return [_record(row) for row in connection.execute(query).mappings()]


def one(connection: sa.Connection, key_id: str, *, lock: bool = False) -> ApiKeyRecord:
    """One key; locked, it is kept from other writers until the transaction ends.

    Raises
    ------
    NotFound
        There is no such key.
    """
    query = sa.select(api_keys).where(api_keys.c.id == key_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no API key {key_id!r}; {_ADVICE}")
    return _record(row)


def revoke(connection: sa.Connection, key_id: str, *, actor: str, at: dt.datetime) -> ApiKeyRecord:
    """Take a key no more; a key that was revoked stays revoked since then.

    Raises
    ------
    NotFound
        There is no such key.
    """
    before = one(connection, key_id, lock=True)
    if before.revoked_at is not None:
        return before
    _update(connection, key_id, revoked_at=at)
    after = one(connection, key_id)
    _tell(connection, "revoke", before, after, actor=actor, at=at)
    return after


def rotate(
    connection: sa.Connection,
    key_id: str,
    *,
    new_id: str,
    new_hash: str,
    expires_at: dt.datetime | None,
    overlap_s: float,
    actor: str,
    at: dt.datetime,
) -> tuple[ApiKeyRecord, ApiKeyRecord]:
    """Put a new key in the place of one, which is taken for ``overlap_s`` yet; both as they are now, the old one first.

    Unless told when it expires, the new one is taken for as long as the old one was made for.

    Raises
    ------
    NotFound
        There is no such key.
    InvalidInput
        The overlap is negative or too long, or the new key would have expired already.
    Conflict
        The key was revoked or has expired, or there is one of the new id.
    """
    require_overlap(overlap_s)
    before = one(connection, key_id, lock=True)
    if not before.is_active(at):
        raise Conflict(f"the API key {key_id} was revoked or has expired; make a new one with `shoal keys create`")
    end = at + dt.timedelta(seconds=overlap_s)
    end = end if before.expires_at is None else min(end, before.expires_at)
    if expires_at is None and before.expires_at is not None:
        expires_at = at + (before.expires_at - before.created_at)
    new = ApiKeyRecord(
        id=new_id, name=before.name, role=before.role, hash=new_hash, created_at=at, created_by=actor,
        expires_at=expires_at,
    )  # fmt: skip
    _insert(connection, new)
    _update(connection, key_id, expires_at=end, replaced_by=new_id)
    old = one(connection, key_id)
    _tell(connection, "rotate", before, old, actor=actor, at=at, replaced_by=new_id)
    _tell(connection, "create", None, new, actor=actor, at=at)
    return old, new


def _insert(connection: sa.Connection, record: ApiKeyRecord) -> None:
    if not record.name.strip() or len(record.name) > LONGEST_NAME or not record.name.isprintable():
        raise InvalidInput(
            f"{record.name[:LONGEST_NAME]!r} cannot name an API key; use 1 to {LONGEST_NAME} printable characters"
        )
    if not record.is_active(record.created_at):
        raise InvalidInput(f"an API key that expires at {record.expires_at} has expired already; give a later time")
    row = {name: getattr(record, name) for name in _COLUMNS}
    try:
        connection.execute(api_keys.insert().values(**row | {"role": record.role.value}))
    except sa.exc.IntegrityError as error:
        raise Conflict(f"there is an API key {record.id} already; make one of another id") from error


def _update(connection: sa.Connection, key_id: str, **values: object) -> None:
    connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(**values))


def _tell(
    connection: sa.Connection,
    action: str,
    before: ApiKeyRecord | None,
    after: ApiKeyRecord,
    *,
    actor: str,
    at: dt.datetime,
    **more: Json,
) -> None:
    audit.append(
        connection, at=at, actor=actor, action=f"key.{action}", object=f"key/{after.id}",
        before=None if before is None else _shown(before), after={**_shown(after), **more},
    )  # fmt: skip


def _shown(record: ApiKeyRecord) -> dict[str, Json]:
    """What the audit keeps: no digest, which is nobody's business."""
    return {
        "name": record.name,
        "role": record.role.value,
        "expires_at": _text(record.expires_at),
        "revoked_at": _text(record.revoked_at),
    }


def _text(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(dt.UTC).isoformat(timespec="microseconds")


_COLUMNS = ("id", "name", "role", "hash", "created_at", "created_by", "expires_at", "revoked_at")


def _record(row: sa.RowMapping) -> ApiKeyRecord:
    values = {name: row[name] for name in _COLUMNS}
    return ApiKeyRecord(**values | {"role": Role(row["role"])})
