"""What servers are to do with a fleet: whether they load it, what they follow, and what stands before its score."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from shoal.fleet import Fleet
from shoal.registry import CHAMPION, Desired, Registry
from shoal.registry.serving import KEEP, Keep
from shoal.requests.fit import as_trained, require_fit, require_same
from shoal.requests.loading import ADVICE, load
from shoal.requests.spec import ServingSpec, schema_of
from shoal.storage.documents import read_document
from shoal.workspace.connections import Connections
from shoal.workspace.storehouse import Storehouse


class Served:
    """Says what servers are to do; they follow within a second, and after a restart.

    Parameters
    ----------
    registry : Registry
        Where it is written.
    storehouse : Storehouse
        Opens the snapshots that a serving spec has to fit.
    connections : Connections
        The sources that it may name.
    actor : str
        In whose name, unless told.
    """

    def __init__(self, registry: Registry, storehouse: Storehouse, connections: Connections, actor: str) -> None:
        self._registry = registry
        self._storehouse = storehouse
        self._connections = connections
        self._actor = actor

    def of(self, name: str) -> Desired:
        """What servers are told about a fleet.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        return self._registry.desired(name)

    def spec(self, name: str) -> ServingSpec:
        """What a fleet is served with beside its models; raises as :meth:`of` does."""
        return load(self.of(name).spec)

    def change(
        self,
        name: str,
        spec: ServingSpec | Mapping[str, object] | str | Path | None = None,
        *,
        loaded: bool | None = None,
        alias: str | None = None,
        pinned: int | Keep | None = KEEP,
        actor: str | None = None,
    ) -> Desired:
        """Say how a fleet is served, and with what beside its models: all of it at once, or nothing.

        Parameters
        ----------
        name : str
            The fleet.
        spec : ServingSpec, mapping, or path of a YAML file, optional
            In the place of what was said before. A ``lookup`` that names no source is that of the training.
        loaded, alias, pinned
            See :meth:`Registry.set_serving`; what is not given stays.
        actor : str, optional
            In whose name; the workspace's own unless told.

        Raises
        ------
        InvalidSpec
            A field is wrong, or does not fit the fleet's newest snapshot, its champion, or its training.
        NotFound
            There is no such fleet, source, sink, alias or version.
        """
        fitting = None if spec is None else self._fitting(name, spec).document()
        return self._registry.set_serving(
            name, loaded=loaded, alias=alias, pinned=pinned, spec=fitting, actor=actor or self._actor
        )

    def _fitting(self, name: str, spec: ServingSpec | Mapping[str, object] | str | Path) -> ServingSpec:
        """A serving spec, complete and checked."""
        source = read_document(Path(spec), ADVICE) if isinstance(spec, str | Path) else spec
        known = self._registry.fleet(name)
        versions = sorted({known.latest, known.aliases.get(CHAMPION)} - {None}, key=lambda version: version or 0)
        snapshots = [self._registry.resolve(f"{name}:{version}") for version in versions]
        trained = [self._trained_lookup(name, snapshot.version) for snapshot in snapshots]
        loaded = _loaded(source, trained[-1] if trained else None)
        schemas = [schema_of(self._storehouse.open(snapshot)) for snapshot in snapshots]
        for schema in schemas:
            require_fit(loaded, schema, self._connections.sources.one)
        for then in trained:
            require_same(loaded.lookup, then)
        if loaded.sink is not None:
            self._connections.sinks.one(loaded.sink)  # raises if there is none
        if loaded.lookup is not None and schemas:
            self._connections.mention_problem(loaded.lookup, schemas[-1])
        return loaded

    def applied(self, fleet: Fleet, serving: bool | Mapping[str, object]) -> ServingSpec:
        """The serving spec that a job applies.

        Parameters
        ----------
        fleet : Fleet
            The snapshot that it scores with.
        serving : bool or mapping
            True: what the fleet is served with now. A mapping: a spec; a ``lookup`` that names no source is that of
            the snapshot's training.

        Raises
        ------
        InvalidSpec
            A field is wrong, or does not fit the snapshot or its training.
        NotFound
            There is no such source.
        """
        if isinstance(serving, bool):
            loaded = self.spec(fleet.name)
        else:
            trained = None if fleet.version is None else self._trained_lookup(fleet.name, fleet.version)
            loaded = _loaded(serving, trained)
            require_same(loaded.lookup, trained)
        require_fit(loaded.deciding, schema_of(fleet), self._connections.sources.one)
        return loaded

    def _trained_lookup(self, name: str, version: int) -> Mapping[str, object] | None:
        """The lookup that a snapshot's models were trained with."""
        found = self._registry.lineage(name, version).parameters.get("lookup")
        return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else None


def _loaded(source: ServingSpec | Mapping[str, object], trained: Mapping[str, object] | None) -> ServingSpec:
    """A serving spec whose lookup, where it names no source, is that of the training."""
    if isinstance(source, Mapping) and isinstance(source.get("lookup"), Mapping):
        source = {**source, "lookup": as_trained(source["lookup"], trained)}
    return load(source)
