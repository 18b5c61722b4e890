"""What servers are to do with a fleet: whether they load it, what they follow, and what stands before its score."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from shoal.registry import CHAMPION, Desired, Registry
from shoal.registry.serving import KEEP, Keep
from shoal.requests.fit import as_trained, require_fit, require_same
from shoal.requests.loading import load
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
        self._registry.fleet(name)
        return next(one for one in self._registry.serving() if one.fleet == name)

    def spec(self, name: str) -> ServingSpec:
        """What a fleet is served with beside its models; raises as :meth:`of` does."""
        return load(self.of(name).spec)

    def set_spec(
        self, name: str, spec: ServingSpec | Mapping[str, object] | str | Path, actor: str | None
    ) -> ServingSpec:
        """Say what a fleet is served with beside its models.

        Parameters
        ----------
        name : str
            The fleet.
        spec : ServingSpec, mapping, or path of a YAML file
            In the place of what was said before. A ``lookup`` that names no source is that of the training.
        actor : str or None
            In whose name; the workspace's own unless told.

        Returns
        -------
        ServingSpec
            As it will be served.

        Raises
        ------
        InvalidSpec
            A field is wrong, or does not fit the fleet's newest snapshot, its champion, or its training.
        NotFound
            There is no such fleet or source.
        """
        source = read_document(Path(spec)) if isinstance(spec, str | Path) else spec
        known = self._registry.fleet(name)
        versions = sorted({known.latest, known.aliases.get(CHAMPION)} - {None}, key=lambda version: version or 0)
        snapshots = [self._registry.resolve(f"{name}:{version}") for version in versions]
        trained = [self._trained_lookup(name, snapshot.version) for snapshot in snapshots]
        if isinstance(source, Mapping) and isinstance(source.get("lookup"), Mapping):
            source = {**source, "lookup": as_trained(source["lookup"], trained[-1] if trained else None)}
        loaded = load(source)
        for snapshot in snapshots:
            require_fit(loaded, schema_of(self._storehouse.open(snapshot)), self._connections.source)
        for then in trained:
            require_same(loaded.lookup, then)
        self._registry.set_serving(name, spec=loaded.document(), actor=actor or self._actor)
        return loaded

    def _trained_lookup(self, name: str, version: int) -> Mapping[str, object] | None:
        """The lookup that a snapshot's models were trained with."""
        found = self._registry.lineage(name, version).parameters.get("lookup")
        return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else None

    def change(
        self,
        name: str,
        *,
        loaded: bool | None = None,
        alias: str | None = None,
        pinned: int | Keep | None = KEEP,
    ) -> Desired:
        """Say which snapshot of a fleet is served, and whether any is; see :meth:`Registry.set_serving`."""
        return self._registry.set_serving(name, loaded=loaded, alias=alias, pinned=pinned, actor=self._actor)
