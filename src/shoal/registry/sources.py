"""Named sources of features and sinks of results: what is known of them by name."""

import datetime as dt
import re
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from shoal.errors import InvalidInput, NotFound
from shoal.registry import audit
from shoal.registry.deployment_records import SourceRecord
from shoal.registry.names import check_name
from shoal.registry.tables import sources
from shoal.storage.columns import json_text, json_value
from shoal.storage.sql import upsert
from shoal.types import Json

_PASSWORD = re.compile(r"://[^/?#@\s]*:(?!\$\{[A-Za-z_][A-Za-z0-9_]*\}@)[^/?#@\s]+@")


def every(connection: sa.Connection) -> list[SourceRecord]:
    """All of them, by name."""
    return [SourceRecord(**row) for row in connection.execute(sa.select(sources).order_by(sources.c.name)).mappings()]


def one(connection: sa.Connection, name: str) -> SourceRecord:
    """One of them.

    Raises
    ------
    NotFound
        There is none of that name.
    """
    row = _row(connection, name)
    if row is None:
        raise NotFound(f"there is no source {name!r}; see `shoal sources list`")
    return SourceRecord(**row)


def change(
    connection: sa.Connection, name: str, spec: Mapping[str, Json] | None, *, noun: str, actor: str, at: dt.datetime
) -> None:
    """Say what a name means from now on; None: nothing. ``noun`` is what people call it: a source, or a sink.

    Raises
    ------
    InvalidInput
        The name is not safe, or the spec holds a password.
    """
    check_name(name, what=f"a {noun}")
    after: Json = None if spec is None else json_value(json_text(spec))
    if any(_PASSWORD.search(text) for text in _texts(after)):
        raise InvalidInput(
            f"the {noun} {name!r} holds a password; put it into an environment variable and write ${{NAME}} instead"
        )
    row = _row(connection, name, lock=True)
    before: Json = None if row is None else row["spec"]
    if after == before:
        return
    if after is None:
        connection.execute(sources.delete().where(sources.c.name == name))
    else:
        upsert(connection, sources, key={"name": name}, values={"spec": after, "changed_at": at, "changed_by": actor})
    audit.append(
        connection, at=at, actor=actor, action="source.set", object=f"source/{name}", before=before, after=after
    )


def _row(connection: sa.Connection, name: str, *, lock: bool = False) -> sa.RowMapping | None:
    query = sa.select(sources).where(sources.c.name == name)
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
