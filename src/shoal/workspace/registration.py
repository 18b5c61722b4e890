"""A fleet becomes the next snapshot of a name."""

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from shoal.errors import InvalidInput, NotFound
from shoal.fleet import Fleet
from shoal.registry import Lineage, ModelRecord, Registry, SnapshotRecord
from shoal.table import collection
from shoal.table.columns import with_metrics
from shoal.table.keys import key_text
from shoal.table.models import ModelTable
from shoal.table.store import Written
from shoal.training.lineage import code_version, libraries
from shoal.types import Key, KeyColumn, Level
from shoal.workspace.storehouse import Storehouse


class Registration:
    """Writes fleets down and tells the registry.

    Parameters
    ----------
    registry : Registry
        Who is told.
    storehouse : Storehouse
        Where snapshots lie.
    actor : str
        In whose name.
    """

    def __init__(self, registry: Registry, storehouse: Storehouse, actor: str) -> None:
        self._registry = registry
        self._storehouse = storehouse
        self._actor = actor

    def register(
        self, fleet: Fleet, name: str, given: Mapping[str, object], lineage: Lineage | None, note: str
    ) -> SnapshotRecord:
        """Store a fleet; all its models become visible in one transaction.

        Parameters
        ----------
        fleet : Fleet
            The models.
        name : str
            The fleet's name.
        given : mapping
            Of ``owner``, ``description``, ``category``, ``tags`` what is said anew.
        lineage : Lineage or None
            Where the models come from.
        note : str
            What there is to say about this snapshot.

        Raises
        ------
        InvalidInput
            The name is not safe, or the fleet's earlier snapshots have other key columns or another task.
        StorageError
            The disk is full; nothing became visible.
        """
        self._require_same_shape(name, fleet)
        self._describe(name, given)
        lineage = lineage or Lineage(code_version=code_version(), libraries=libraries(()))
        if lineage.parent is None and fleet.name == name:
            lineage = dataclasses.replace(lineage, parent=fleet.parent if fleet.version is None else fleet.version)
        store = self._storehouse.store_of(self._registry.fleet(name).category)
        with collection.writing(store):
            written = store.write(fleet.table, fleet=name, created_by=self._actor, run=lineage.run)
            return self._registry.add_snapshot(
                name,
                digest=written.digest,
                models=self._new_models(name, written),
                model_count=written.manifest.models,
                lineage=lineage,
                actor=self._actor,
                note=note,
            )

    def _describe(self, name: str, given: Mapping[str, object]) -> None:
        try:
            self._registry.fleet(name)
        except NotFound:
            self._registry.create_fleet(name, **given, actor=self._actor)  # type: ignore[arg-type]
            return
        if given:
            self._registry.describe(name, **given, actor=self._actor)  # type: ignore[arg-type]

    def _require_same_shape(self, name: str, fleet: Fleet) -> None:
        """All snapshots of a fleet have the same key columns and task; features may come and go."""
        try:
            latest = self._registry.fleet(name).latest
        except NotFound:
            return
        if latest is None:
            return
        before = self._storehouse.manifest(self._registry.snapshot(name, latest))
        if before.keys != fleet.keys or before.task is not fleet.task:
            raise InvalidInput(
                f"fleet {name!r} does {before.task} by {_described(before.keys)}; these models do {fleet.task} by "
                f"{_described(fleet.keys)}: register them under another name"
            )

    def _new_models(self, name: str, written: Written) -> list[ModelRecord]:
        """The models whose block is not in the fleet's newest snapshot."""
        latest = self._registry.fleet(name).latest
        before: set[str] = set()
        if latest is not None:
            before = {block.digest for block in self._storehouse.manifest(self._registry.snapshot(name, latest)).blocks}
        return model_records(written.table, before)


def model_records(table: ModelTable, known_blocks: set[str]) -> list[ModelRecord]:
    """What the registry keeps of the models that lie in blocks it did not know."""
    fresh = [number for number, block in enumerate(table.blocks) if block.digest not in known_blocks]
    frame = table.frame
    owner = pl.Series((table.starts.searchsorted(frame["_number"].to_numpy(), side="right") - 1).tolist())
    chosen = with_metrics(frame.filter(owner.is_in(fresh)))
    metrics = [name for name in chosen.columns if name.startswith("metric.")]
    records = []
    for row in chosen.iter_rows(named=True):
        level = table.levels[row["level"]]
        records.append(
            ModelRecord(
                key_text=_key_text(table.keys, level, row),
                level=level,
                family=row["family"],
                rows=row["rows"] or 0,
                trained_at=row["trained_at"],
                metrics={m.removeprefix("metric."): row[m] for m in metrics if row[m] is not None},
            )
        )
    return records


def _key_text(keys: tuple[KeyColumn, ...], level: Level, row: Mapping[str, object]) -> str:
    key: Key = tuple(row[name] for name in level)  # type: ignore[misc]
    return key_text(keys, level, key)


def _described(keys: Sequence[KeyColumn]) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in keys) or "no key"
