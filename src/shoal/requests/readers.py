"""From a source's definition to what reads it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from shoal.errors import InvalidSpec
from shoal.requests.mapped_table import MappedTable
from shoal.requests.sources import (
    HttpSource,
    ParquetSource,
    RedisSource,
    Source,
    SqlSource,
    allowed,
    placeholders,
    resolved,
)
from shoal.security.header_values import header_value
from shoal.storage.lookup_reader import Reader, Wanted
from shoal.storage.lookup_redis import RedisReader
from shoal.storage.lookup_sql import SqlReader

FindSource = Callable[[str], Source]
"""The source of a name; raises NotFound."""


def open_reader(source: Source, columns: Wanted, *, cache: Path, timeout_s: float) -> Reader:
    """What reads a source; nothing is asked of it yet.

    Parameters
    ----------
    source : Source
        Its definition.
    columns : Wanted
        What to read.
    cache : Path
        Private folder for mapped files.
    timeout_s : float
        How long a fetch may take, in seconds.

    Raises
    ------
    InvalidSpec
        The definition does not fit what is wanted, or an environment variable is not set.
    InvalidInput
        The source's URL is none, a header cannot hold what it is to hold, or the driver is not installed.
    """
    require_places(source, columns)
    if isinstance(source, ParquetSource):
        return MappedTable(Path(source.path), columns, cache=cache)
    url = resolved(source.url)
    if isinstance(source, SqlSource):
        return SqlReader(
            url,
            columns,
            table=source.table,
            query=source.query,
            connections=source.connections,
            timeout_s=timeout_s,
        )
    if isinstance(source, RedisSource):
        return RedisReader(url, columns, key=source.key or "", form=source.format, timeout_s=timeout_s)
    from shoal.storage.lookup_http import HttpReader  # brings an HTTP client, which not every installation has

    return HttpReader(
        url,
        columns,
        is_allowed=partial(allowed, hosts=source.hosts),
        headers={name: header_value(resolved(v), f"field 'headers.{name}'") for name, v in source.headers.items()},
        max_bytes=source.max_bytes,
        connections=source.connections,
        timeout_s=timeout_s,
    )


def require_places(source: Source, columns: Wanted) -> None:
    """Refuse a source whose places are not told by whole keys: different keys would get the same features.

    Raises
    ------
    InvalidSpec
        Says which placeholders there have to be.
    """
    if isinstance(source, SqlSource | ParquetSource):
        return
    template = source.key if isinstance(source, RedisSource) else source.url
    if template is None:
        raise InvalidSpec("the source of kind redis needs 'key' to look up in it, e.g. key: 'customer:{id}'")
    named = placeholders(template)
    if isinstance(source, HttpSource) and not named:
        return
    if sorted(named) != sorted(columns.keys):
        raise InvalidSpec(
            f"the source's {'key' if isinstance(source, RedisSource) else 'url'} must hold exactly the lookup's keys "
            f"as the source calls them: {', '.join('{' + name + '}' for name in columns.keys)}",
            detail=template,
        )
