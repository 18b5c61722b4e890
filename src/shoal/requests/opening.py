"""The lookup and the cache of a fleet, as its serving spec describes them."""

from pathlib import Path
from typing import Final

from shoal.errors import InvalidSpec
from shoal.requests.lookup_columns import key_columns, wanted
from shoal.requests.lookups import Lookup
from shoal.requests.mapped_table import MappedTable
from shoal.requests.prediction_cache import ProcessStore, RedisStore, Store
from shoal.requests.readers import FindSource, open_reader
from shoal.requests.sources import RedisSource, resolved
from shoal.requests.spec import PROCESS, CacheSpec, FleetSchema, LookupSpec
from shoal.storage.lookup_sql import SqlReader

_LOOK_S: Final = 2.0
"""How long a source may take to say which columns it has, in seconds."""


def open_lookup(spec: LookupSpec, schema: FleetSchema, find: FindSource, *, cache: Path) -> Lookup:
    """The lookup of a fleet. A mapped file is indexed, which may take its time; other sources are not asked yet.

    Parameters
    ----------
    spec : LookupSpec
        What to look up.
    schema : FleetSchema
        The fleet's columns.
    find : callable
        Finds the source by name.
    cache : Path
        Private folder for mapped files.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet or the source, or an environment variable is not set.
    InvalidInput
        The source's URL is none, or its driver is not installed.
    NotFound
        There is no such source.
    """
    columns = wanted(spec, key_columns(spec, schema))
    reader = open_reader(find(spec.source), columns, cache=cache, timeout_s=spec.timeout_ms / 1000)
    if isinstance(reader, MappedTable):
        reader.prepare()
    return Lookup(spec, schema, reader)


def look_at_source(spec: LookupSpec, schema: FleetSchema, find: FindSource, *, cache: Path) -> None:
    """Ask a lookup's source whether it has the columns, where sources of its kind have columns.

    Parameters as of :func:`open_lookup`, which raises the like.

    Raises
    ------
    StorageError
        The source cannot be reached, or a database has no such column.
    InvalidInput
        A file has no such column.
    """
    columns = wanted(spec, key_columns(spec, schema))
    reader = open_reader(find(spec.source), columns, cache=cache, timeout_s=_LOOK_S)
    if isinstance(reader, MappedTable | SqlReader):
        reader.look()


def open_store(spec: CacheSpec, find: FindSource) -> Store:
    """Where a fleet's predictions are kept; raises as :func:`open_lookup`."""
    if spec.store == PROCESS:
        return ProcessStore(spec)
    source = find(spec.store)
    if not isinstance(source, RedisSource):
        raise InvalidSpec(f"field 'cache.store': {spec.store!r} is not of kind redis")
    return RedisStore(resolved(source.url), spec)
