"""Named connections: sources that features are looked up in, sinks that results go to."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from shoal.errors import ShoalError
from shoal.registry import Registry
from shoal.requests.opening import look_at_source
from shoal.requests.readers import open_reader
from shoal.requests.spec import FleetSchema, LookupSpec
from shoal.storage.lookup_reader import Wanted
from shoal.types import Json, KeyType
from shoal.workspace.definitions import SINKS, SOURCES, Definitions

_log = logging.getLogger(__name__)

_HISTORY_S: Final = 3600.0
"""How long reading the whole of a source may take, in seconds."""


class Connections:
    """Sources and sinks by name; definitions come from the person at the machine only.

    Parameters
    ----------
    registry : Registry
        What names mean, and which fleets are served with them.
    cache : Path
        Private folder for what lookups map.
    actor : str
        In whose name changes are made.

    Attributes
    ----------
    sources, sinks : Definitions
        Those of each sort.
    """

    def __init__(self, registry: Registry, cache: Path, actor: str) -> None:
        self._registry = registry
        self._cache = cache
        self.sources = Definitions(registry, actor, SOURCES)
        self.sinks = Definitions(registry, actor, SINKS)

    def spec(self, name: str) -> Mapping[str, Json]:
        """The definition of a source or sink as it is written down.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        return self._registry.source(name).spec

    def mention_problem(self, lookup: LookupSpec, schema: FleetSchema) -> None:
        """Warn of a lookup whose source is not there, or lacks a column; it may be another one where servers run."""
        try:
            look_at_source(lookup, schema, self.sources.one, cache=self._cache)
        except ShoalError as error:
            _log.warning("lookup in %r does not work from here: %s", lookup.source, error)

    def history(self, lookup: LookupSpec, types: Mapping[str, KeyType]) -> pl.DataFrame:
        """All rows of a lookup's source, for training.

        Parameters
        ----------
        lookup : LookupSpec
            Which source, and which of its columns.
        types : mapping of str to KeyType
            The types of its key columns.

        Raises
        ------
        NotFound
            There is no such source.
        InvalidInput
            The source keeps no history, or has no such columns.
        """
        columns = Wanted(keys=types, values=tuple(lookup.features.values()), as_of=lookup.as_of)
        source = self.sources.one(lookup.source)
        return open_reader(source, columns, cache=self._cache, timeout_s=_HISTORY_S).history()
