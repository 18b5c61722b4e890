"""The workspace: settings in, wired services out. What ``shoal.open()`` returns."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self, cast

import polars as pl

from shoal.batch.leftovers import files_below, find_leftovers, remove
from shoal.batch.run import Scorer
from shoal.batch.spec import ScoreSpec
from shoal.batch.summary import ScoreSummary
from shoal.errors import Conflict, InvalidArtifact, InvalidInput, NotFound, StorageError
from shoal.fleet import Fleet
from shoal.ledger import Ledger, RunRecord
from shoal.registry import CHAMPION, AliasChange, Lineage, ModelRecord, Registry, SnapshotRecord
from shoal.requests.fit import as_trained, require_fit, require_same
from shoal.requests.loading import load as load_serving
from shoal.requests.readers import open_reader
from shoal.requests.sources import KINDS, Source, load_source
from shoal.requests.sources import document as source_document
from shoal.requests.spec import LookupSpec, ServingSpec, schema_of
from shoal.security.api_keys import IssuedKey, new_key
from shoal.security.permissions import Role
from shoal.serving.deferred import DeferredPredictions
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.desired import Selection
from shoal.serving.holdings import Holdings
from shoal.serving.keeping import Keepers
from shoal.serving.options import ServingOptions
from shoal.serving.plane import DataPlane
from shoal.serving.services import Service, find_services, survey
from shoal.serving.sinks import KINDS as SINK_KINDS
from shoal.serving.sinks import Sinks, SinkSpec, load_sink
from shoal.serving.sinks import document as sink_document
from shoal.settings import Settings
from shoal.storage.documents import read_document
from shoal.storage.files import storage_errors
from shoal.storage.lookup_reader import Wanted
from shoal.storage.sql import Database
from shoal.table import collection
from shoal.table.collection import Collected
from shoal.table.columns import with_metrics
from shoal.table.keys import key_text
from shoal.table.manifest import Manifest
from shoal.table.models import ModelTable
from shoal.table.store import Written
from shoal.table.stores import Stores
from shoal.table.verified import VerifiedFiles
from shoal.telemetry.progress import SILENT, Progress
from shoal.training.lineage import code_version, libraries
from shoal.training.spec import TrainSpec
from shoal.training.train import TrainedFleet, Trainer
from shoal.types import Json, Key, KeyColumn, KeyType, Level

_HISTORY_S = 3600.0
"""How long reading the whole of a source may take, in seconds."""


def open_workspace(home: str | Path | None = None, *, actor: str | None = None) -> "Workspace":
    """Open the workspace in a folder, making it if it is not there.

    Parameters
    ----------
    home : path, optional
        The folder that holds everything Shoal writes; ``SHOAL_HOME``, else ``./.shoal``, unless told.
    actor : str, optional
        In whose name changes are made; ``SHOAL_ACTOR``, else the user of the operating system, unless told.

    Raises
    ------
    StorageError
        The folder cannot be written or the database not reached.
    """
    settings = Settings.from_environment(home=home)
    return Workspace(dataclasses.replace(settings, actor=actor) if actor else settings)


class Workspace:
    """Fleets, their snapshots, and the runs that train and score them.

    Parameters
    ----------
    settings : Settings
        Where things lie, and in whose name changes are made.
    store_folders : mapping of str to Path, optional
        The folders of the categories' stores, from another process that had the workspace open. The database need not
        be there then: it is taken as it is, neither made nor brought up to date.

    Attributes
    ----------
    store_folders : mapping of str to Path
        The folders of the categories' stores as the registry last told them.
    registry : Registry
        Fleets, snapshots, aliases, lineage, audit.
    ledger : Ledger
        Runs, shards, outcomes.
    predictions : Predictions
        Those that are kept: ``listed``, ``one``, ``replay``.
    """

    def __init__(self, settings: Settings, *, store_folders: Mapping[str, Path] | None = None) -> None:
        self.settings = settings
        self.store_folders = store_folders or {}
        self._database = Database(settings.database_url, must_exist=store_folders is not None)
        if store_folders is None:
            self._database.migrate()
        self.registry = Registry(self._database)
        self.ledger = Ledger(self._database)
        self.predictions = self.ledger.predictions
        verified = VerifiedFiles(settings.home / "cache" / "verified")
        self._stores = Stores(settings.home / "store", verified, self._store_folders)

    def register(
        self,
        fleet: Fleet,
        name: str | None = None,
        *,
        owner: str | None = None,
        description: str | None = None,
        category: str | None = None,
        tags: Iterable[str] | None = None,
        lineage: Lineage | None = None,
        note: str = "",
    ) -> SnapshotRecord:
        """Store a fleet as the next snapshot of a name; all its models become visible in one transaction.

        Parameters
        ----------
        fleet : Fleet
            The models.
        name : str, optional
            The fleet's name; made when it is new. The fleet's own name unless told.
        owner, description, category : str, optional
            What is said about the fleet; what is not given stays as it is.
        tags : iterable of str, optional
            Likewise.
        lineage : Lineage, optional
            Where the models come from. Its ``parent`` is the snapshot that the fleet came from unless told.
        note : str
            What there is to say about this snapshot.

        Returns
        -------
        SnapshotRecord
            Its version, digest and so on. No alias moves: :meth:`promote` does that.

        Raises
        ------
        InvalidInput
            The name is not safe, or the fleet's earlier snapshots have other key columns or another task.
        StorageError
            The disk is full; nothing became visible.
        """
        name = name or fleet.name
        actor = self.settings.actor
        said = {"owner": owner, "description": description, "category": category, "tags": tags}
        given = {word: value for word, value in said.items() if value is not None}
        self._require_same_shape(name, fleet)
        self._describe(name, given)
        lineage = lineage or Lineage(code_version=code_version(), libraries=libraries(()))
        if lineage.parent is None and fleet.name == name:
            lineage = dataclasses.replace(lineage, parent=fleet.parent if fleet.version is None else fleet.version)
        store = self._stores.of(self.registry.fleet(name).category)
        with collection.writing(store):
            written = store.write(fleet.table, fleet=name, created_by=actor, run=lineage.run)
            return self.registry.add_snapshot(
                name,
                digest=written.digest,
                models=self._new_models(name, written),
                model_count=written.manifest.models,
                lineage=lineage,
                actor=actor,
                note=note,
            )

    def _describe(self, name: str, given: Mapping[str, object]) -> None:
        try:
            self.registry.fleet(name)
        except NotFound:
            self.registry.create_fleet(name, **given, actor=self.settings.actor)  # type: ignore[arg-type]
            return
        if given:
            self.registry.describe(name, **given, actor=self.settings.actor)  # type: ignore[arg-type]

    def _require_same_shape(self, name: str, fleet: Fleet) -> None:
        """All snapshots of a fleet have the same key columns and task; features may come and go."""
        try:
            latest = self.registry.fleet(name).latest
        except NotFound:
            return
        if latest is None:
            return
        before = self._manifest(self.registry.snapshot(name, latest))
        if before.keys != fleet.keys or before.task is not fleet.task:
            raise InvalidInput(
                f"fleet {name!r} does {before.task} by {_described(before.keys)}; these models do {fleet.task} by "
                f"{_described(fleet.keys)}: register them under another name"
            )

    def _new_models(self, name: str, written: Written) -> list[ModelRecord]:
        """The models whose block is not in the fleet's newest snapshot."""
        latest = self.registry.fleet(name).latest
        before: set[str] = set()
        if latest is not None:
            before = {block.digest for block in self._manifest(self.registry.snapshot(name, latest)).blocks}
        return model_records(written.table, before)

    def _manifest(self, snapshot: SnapshotRecord) -> Manifest:
        return self._stores.holding(snapshot.digest).manifest(snapshot.digest)

    def _store_folders(self) -> Mapping[str, Path]:
        try:
            self.store_folders = {one.category: Path(one.folder) for one in self.registry.stores()}
        except StorageError:
            if not self.store_folders:
                raise
        return self.store_folders

    def fleet(self, reference: str) -> Fleet:
        """Map the fleet that ``name@alias``, ``name:version`` or ``name`` (its champion) means now.

        Raises
        ------
        NotFound
            There is no such fleet, alias or version.
        InvalidArtifact
            A file of it is damaged, tampered with or crafted.
        """
        return self.open_snapshot(self.registry.resolve(reference))

    def open_snapshot(self, snapshot: SnapshotRecord) -> Fleet:
        """Map a snapshot; raises as :meth:`fleet` does."""
        table, _ = self._stores.holding(snapshot.digest).open(snapshot.digest)
        return Fleet(table, name=snapshot.fleet, version=snapshot.version)

    def promote(
        self,
        name: str,
        version: int,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        actor: str | None = None,
    ) -> AliasChange:
        """Make an alias name a version, atomically; see :meth:`Registry.promote`, which says what it raises.

        Raises
        ------
        Conflict
            The snapshot lies in a store that is here, and cannot be opened: no server could serve it.
        """
        self._require_opens(self.registry.resolve(f"{name}:{version}"))
        return self.registry.promote(
            name, version, alias=alias, actor=actor or self.settings.actor, expected=expected, reason=reason
        )

    def _require_opens(self, snapshot: SnapshotRecord) -> None:
        try:
            store = self._stores.holding(snapshot.digest)
        except NotFound:  # whoever promotes need not have mounted every store; the servers tell what they find
            return
        try:
            store.open(snapshot.digest)
        except (InvalidArtifact, NotFound) as error:
            raise Conflict(
                f"{snapshot.reference} cannot be opened, so nothing could serve it and it was not promoted; register "
                f"it anew or restore its files: {error}"
            ) from error

    def rollback(
        self, name: str, *, alias: str = CHAMPION, expected: int | None = None, reason: str = ""
    ) -> AliasChange:
        """Make an alias name the version it named before; see :meth:`Registry.rollback`."""
        return self.registry.rollback(name, alias=alias, actor=self.settings.actor, expected=expected, reason=reason)

    def train(self, spec: TrainSpec | Mapping[str, Json] | str | Path, progress: Progress = SILENT) -> TrainedFleet:
        """Fit a model per segment, choose, register the snapshot, and promote it if the spec says so and it is better.

        Parameters
        ----------
        spec : TrainSpec, mapping, or path of a YAML file
            The job.
        progress : Progress
            Told how far the work is.
        """
        return self._trainer().train(spec, progress)

    def _trainer(self) -> Trainer:
        return Trainer(
            register=self.register,
            promote=self.promote,
            open_fleet=self.fleet,
            ledger=self.ledger,
            actor=self.settings.actor,
            home=self.settings.home,
            history=self.history,
        )

    def score(self, spec: ScoreSpec | Mapping[str, Json] | str | Path, progress: Progress = SILENT) -> ScoreSummary:
        """Score files: plan, score shard by shard, make the output visible at once.

        Parameters
        ----------
        spec : ScoreSpec, mapping, or path of a YAML file
            The job.
        progress : Progress
            Told how far the work is.
        """
        return self._scorer().score(spec, progress)

    def resume(self, run: str, progress: Progress = SILENT) -> ScoreSummary:
        """Finish a run that was interrupted: only what is not done is done."""
        return self._scorer().resume(run, progress)

    def _scorer(self) -> Scorer:
        return Scorer(ledger=self.ledger, open_fleet=self.fleet, actor=self.settings.actor, home=self.settings.home)

    def model_outcomes(self, run: str) -> pl.DataFrame:
        """What became of the rows of each model in a run that scored; see :meth:`Scorer.model_outcomes`.

        Raises
        ------
        NotFound
            There is no such run.
        InvalidInput
            The run did not score.
        """
        return self._scorer().model_outcomes(run)

    def runs(self, *, fleet: str | None = None, limit: int = 50) -> list[RunRecord]:
        """The newest runs, newest first."""
        return self.ledger.runs(fleet=fleet, limit=limit)

    def gc(self, *, dry_run: bool = False) -> Collected:
        """Delete the snapshots that no alias names or named, no active run pinned, and that are not the newest.

        Runs whose time to be resumed is over end, and what runs that have ended left behind goes as well.

        Parameters
        ----------
        dry_run : bool
            Only say which unreferenced files would go; no snapshot is given up, no run ended.
        """
        if not dry_run:
            self.ledger.expire_overdue()
        leftovers = find_leftovers(self.ledger, self.settings.home)
        with self._stores.collecting():
            active = self.ledger.pinned()
            if not dry_run:
                self.registry.collect(active=active, actor=self.settings.actor)
            collected = self._stores.collect(self.registry.referenced(active=active), dry_run=dry_run)
        sizes = files_below(leftovers)
        if not dry_run:
            remove(leftovers)
        return Collected(files=(*collected.files, *sizes), size_bytes=collected.size_bytes + sum(sizes.values()))

    def set_store(self, category: str, folder: str | Path | None) -> None:
        """Keep the next snapshots of a category's fleets in a folder; None: where all others are.

        Snapshots that exist stay where they are; while they are in use, the folder they lie in cannot be given up.

        Raises
        ------
        InvalidInput
            The category's name is not safe.
        Conflict
            Snapshots that are in use lie in the folder that the category has now, and nowhere else.
        """
        before = self._store_folders().get(category)
        after = None if folder is None else Path(folder).absolute()
        if before is not None and before != after:
            used = self._stores.only_in(before, self.registry.referenced(active=self.ledger.pinned()))
            if used:
                raise Conflict(
                    f"{len(used)} snapshot(s) in use lie in {before} and nowhere else; copy that folder to "
                    f"{after or self._stores.default.root} first"
                )
        if after is not None:
            with storage_errors(after):
                after.mkdir(parents=True, exist_ok=True)
        self.registry.set_store(category, None if after is None else str(after), actor=self.settings.actor)

    def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """The servers that are alive and hold certain fleets; see :func:`shoal.serving.services.find_services`."""
        known = survey(self.registry)
        return find_services(known, name=name, tag=tag, category=category, key=key, has=Holdings(self.fleet).answers)

    def data_plane(
        self, fleets: Sequence[str] = (), *, category: str = "", options: ServingOptions | None = None
    ) -> DataPlane:
        """A data plane for real-time inference; ``await plane.start()`` opens the fleets.

        Parameters
        ----------
        fleets : sequence of str
            ``name`` follows what the registry says of the fleet, ``name@alias`` and ``name:version`` do not; none for
            all fleets that the registry says are to be served.
        category : str
            Where no fleets are named: only those of this category, unless it is empty.
        options : ServingOptions, optional
            Limits, and how often to look at the registry.

        Raises
        ------
        InvalidInput
            A text is no reference, or two are of the same fleet.
        """
        return DataPlane(
            self.registry,
            self.open_snapshot,
            Selection(fleets, category=category),
            options or ServingOptions(),
            self.settings.home / "cache" / "lookups",
            Keepers(self.settings.home / "predictions", self.ledger.predictions),
        )

    def deferred(self, plane: DataPlane, options: DeferredOptions | None = None) -> DeferredPredictions:
        """What a data plane needs to take requests that nobody waits for; ``deferred.start()`` begins.

        Parameters
        ----------
        plane : DataPlane
            What answers.
        options : DeferredOptions, optional
            How.
        """
        return DeferredPredictions(plane, self.predictions, Sinks(self._sink_spec), options)

    def _sink_spec(self, name: str) -> Mapping[str, Json]:
        return self.registry.source(name).spec

    def serving(self, name: str) -> ServingSpec:
        """What a fleet is served with beside its models.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        self.registry.fleet(name)
        desired = next((one for one in self.registry.serving() if one.fleet == name), None)
        return load_serving({} if desired is None else desired.spec)

    def set_serving(
        self, name: str, spec: ServingSpec | Mapping[str, object] | str | Path, *, actor: str | None = None
    ) -> ServingSpec:
        """Say what a fleet is served with beside its models; servers follow at once.

        Parameters
        ----------
        name : str
            The fleet.
        spec : ServingSpec, mapping, or path of a YAML file
            In the place of what was said before. A ``lookup`` that names no source is that of the training.
        actor : str, optional
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
            There is no such fleet, source or sink.
        """
        source = read_document(Path(spec)) if isinstance(spec, str | Path) else spec
        known = self.registry.fleet(name)
        versions = {known.latest, known.aliases.get(CHAMPION)} - {None}
        trained = [self._trained_lookup(name, version) for version in sorted(v for v in versions if v is not None)]
        if isinstance(source, Mapping) and isinstance(source.get("lookup"), Mapping):
            source = {**source, "lookup": as_trained(source["lookup"], trained[-1] if trained else None)}
        loaded = load_serving(source)
        if loaded.sink is not None:
            self.sink(loaded.sink)
        for version in sorted(v for v in versions if v is not None):
            require_fit(loaded, schema_of(self.fleet(f"{name}:{version}")), self.source)
        for then in trained:
            require_same(loaded.lookup, then)
        self.registry.set_serving(name, spec=loaded.document(), actor=actor or self.settings.actor)
        return loaded

    def sources(self) -> dict[str, Source]:
        """Named sources that features can be looked up in, by name."""
        records = {record.name: record.spec for record in self.registry.sources()}
        return {name: load_source(spec) for name, spec in records.items() if spec.get("kind") in KINDS}

    def source(self, name: str) -> Source:
        """The source of a name.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        return load_source(self.registry.source(name).spec)

    def set_source(self, name: str, spec: Source | Mapping[str, object] | str | Path | None) -> None:
        """Say what a source's name means from now on.

        Parameters
        ----------
        name : str
            The name.
        spec : Source, mapping, path of a YAML file, or None
            Its definition, see :mod:`shoal.requests.sources`; None: the name means nothing any more.

        Raises
        ------
        InvalidSpec
            A field is wrong.
        InvalidInput
            The name is not safe.
        Conflict
            It is to be removed, and a fleet is served with it.
        """
        if spec is None:
            self._require_unused(name)
        document = None if spec is None else source_document(load_source(spec))
        self.registry.set_source(name, document, actor=self.settings.actor)

    def sinks(self) -> dict[str, SinkSpec]:
        """Named sinks that results can go to, by name."""
        records = {record.name: record.spec for record in self.registry.sources()}
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
        self.registry.set_source(name, written, actor=self.settings.actor)

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
        cache = self.settings.home / "cache" / "lookups"
        return open_reader(self.source(lookup.source), columns, cache=cache, timeout_s=_HISTORY_S).history()

    def _trained_lookup(self, name: str, version: int) -> Mapping[str, object] | None:
        """The lookup that a snapshot's models were trained with."""
        found = self.registry.lineage(name, version).parameters.get("lookup")
        return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else None

    def _require_unused(self, name: str) -> None:
        for desired in self.registry.serving():
            spec = load_serving(desired.spec)
            if name in (spec.lookup and spec.lookup.source, spec.cache and spec.cache.store, spec.sink):
                raise Conflict(f"fleet {desired.fleet!r} is served with {name!r}; change its serving spec first")

    def create_key(
        self, name: str, role: Role, *, expires_s: float | None = None, actor: str | None = None
    ) -> IssuedKey:
        """Make an API key; its text is in the answer, this once.

        Parameters
        ----------
        name : str
            Whose it is.
        role : Role
            What it is for.
        expires_s : float, optional
            How long it is taken, in seconds; for ever unless told.
        actor : str, optional
            In whose name; the workspace's own unless told.

        Raises
        ------
        InvalidInput
            The name is empty or too long.
        """
        key = new_key()
        record = self.registry.create_key(
            id=key.id, name=name, role=role, hash=key.hash, expires_at=_after(expires_s),
            actor=actor or self.settings.actor,
        )  # fmt: skip
        return IssuedKey(record=record, text=key.text)

    def rotate_key(
        self, key_id: str, *, overlap_s: float, expires_s: float | None = None, actor: str | None = None
    ) -> IssuedKey:
        """Make an API key of the same name and role as another, which is taken for ``overlap_s`` seconds yet.

        Raises
        ------
        NotFound
            There is no such key.
        Conflict
            It was revoked or has expired.
        """
        key = new_key()
        _, record = self.registry.rotate_key(
            key_id, new_id=key.id, new_hash=key.hash, expires_at=_after(expires_s), overlap_s=overlap_s,
            actor=actor or self.settings.actor,
        )  # fmt: skip
        return IssuedKey(record=record, text=key.text)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _after(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


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
