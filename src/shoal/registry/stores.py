"""Categories whose snapshots are kept in a store of their own."""

import datetime as dt
from pathlib import Path

import sqlalchemy as sa

from shoal.errors import InvalidInput
from shoal.registry import audit
from shoal.registry.deployment_records import StoreRecord
from shoal.registry.names import check_name
from shoal.registry.tables import stores
from shoal.storage.sql import upsert


def every(connection: sa.Connection) -> list[StoreRecord]:
    """All of them, by category."""
    rows = connection.execute(sa.select(stores).order_by(stores.c.category)).mappings()
    return [StoreRecord(**row) for row in rows]


def change(connection: sa.Connection, category: str, folder: str | None, *, actor: str, at: dt.datetime) -> None:
    """Say where a category's snapshots are kept; None: where all others are.

    Raises
    ------
    InvalidInput
        The category's name is not safe, or the folder's path is not absolute.
    """
    check_name(category, what="a category with a store of its own")
    if folder is not None and not Path(folder).is_absolute():
        raise InvalidInput(f"{folder!r} depends on where a server was started; give the store an absolute path")
    query = sa.select(stores).where(stores.c.category == category).with_for_update()
    row = connection.execute(query).mappings().one_or_none()
    if (row["folder"] if row is not None else None) == folder:
        return
    if folder is None:
        connection.execute(stores.delete().where(stores.c.category == category))
    else:
        values = {"folder": folder, "changed_at": at, "changed_by": actor}
        upsert(connection, stores, key={"category": category}, values=values)
    audit.append(
        connection, at=at, actor=actor, action="store.set", object=f"store/{category}",
        before=None if row is None else {"folder": row["folder"]}, after=None if folder is None else {"folder": folder},
    )  # fmt: skip
