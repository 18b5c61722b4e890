"""Named connections: sources that features are looked up in, sinks that results go to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from shoal.errors import Conflict, NotFound
from shoal.registry import Registry
from shoal.requests.loading import load as load_serving
from shoal.requests.readers import open_reader
from shoal.requests.sources import KINDS, Source, load_source
from shoal.requests.sources import document as source_document
from shoal.requests.spec import LookupSpec
from shoal.serving.sinks import KINDS as SINK_KINDS
from shoal.serving.sinks import SinkSpec, load_sink
from shoal.serving.sinks import document as sink_document
from shoal.storage.lookup_reader import Wanted
from shoal.types import Json, KeyType

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
    """

    def __init__(self, registry: Registry, cache: Path, actor: str) -> None:
        self._registry = registry
        self._cache = cache
        self._actor = actor

    def sources(self) -> dict[str, Source]:
        """The sources, by name."""
        records = {record.name: record.spec for record in self._registry.sources()}
        return {name: load_source(spec) for name, spec in records.items() if spec.get("kind") in KINDS}

    def source(self, name: str) -> Source:
        """The source of a name.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        found = self.sources().get(name)
        if found is None:
            raise NotFound(f"there is no source {name!r}; see `shoal sources list`")
        return found

    def set_source(self, name: str, spec: Source | Mapping[str, object] | str | Path | None) -> None:
        """Say what a source's name means from now on.

        Parameters
        ----------
        name : str
            The name; sources of features and sinks share their names.
        spec : Source, mapping, path of a YAML file, or None
            Its definition, see :mod:`shoal.requests.sources`; None: the name means nothing any more.

        Raises
        ------
        InvalidSpec
            A field is wrong.
        InvalidInput
            The name is not safe.
        Conflict
            It is the name of a sink, or is to be removed and a fleet is served with it.
        """
        if name in self.sinks():
            raise Conflict(f"{name!r} is a sink; give the source another name")
        if spec is None:
            self._require_unused(name)
        document = None if spec is None else source_document(load_source(spec))
        self._registry.set_source(name, document, actor=self._actor)

    def sinks(self) -> dict[str, SinkSpec]:
        """The sinks, by name."""
        records = {record.name: record.spec for record in self._registry.sources()}
        return {name: load_sink(spec) for name, spec in records.items() if spec.get("kind") in SINK_KINDS}

    def sink(self, name: str) -> SinkSpec:
        """The sink of a name.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        found = self.sinks().get(name)
        if found is None:
            raise NotFound(f"there is no sink {name!r}; see `shoal sinks list`")
        return found

    def set_sink(self, name: str, spec: SinkSpec | Mapping[str, object] | str | Path | None) -> None:
        """Say what a sink's name means from now on.

        Parameters
        ----------
        name : str
            The name; sources of features and sinks share their names.
        spec : SinkSpec, mapping, path of a YAML file, or None
            Its definition, see :mod:`shoal.serving.sinks`; None: the name means nothing any more.

        Raises
        ------
        InvalidSpec
            A field is wrong.
        InvalidInput
            The name is not safe.
        Conflict
            It is the name of a source, or is to be removed and a fleet is served with it.
        """
        if name in self.sources():
            raise Conflict(f"{name!r} is a source of features; give the sink another name")
        if spec is None:
            self._require_unused(name)
        written = None if spec is None else sink_document(load_sink(spec))
        self._registry.set_source(name, written, actor=self._actor)

    def spec(self, name: str) -> Mapping[str, Json]:
        """The definition of a source or sink as it is written down.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        return self._registry.source(name).spec

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
        return open_reader(self.source(lookup.source), columns, cache=self._cache, timeout_s=_HISTORY_S).history()

    def _require_unused(self, name: str) -> None:
        for desired in self._registry.serving():
            spec = load_serving(desired.spec)
            if name in (spec.lookup and spec.lookup.source, spec.cache and spec.cache.store, spec.sink):
                raise Conflict(f"fleet {desired.fleet!r} is served with {name!r}; change its serving spec first")
