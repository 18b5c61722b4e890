"""The public face of a workspace, and what it is wired of."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import polars as pl

from shoal.batch.spec import ScoreSpec
from shoal.batch.summary import ScoreSummary
from shoal.fleet import Fleet
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, RunRecord
from shoal.registry import CHAMPION, AliasChange, Desired, FleetRecord, Lineage, Registry, SnapshotRecord
from shoal.registry.names import check_version
from shoal.registry.serving import KEEP, Keep
from shoal.requests.loading import load as load_serving
from shoal.requests.sources import Source
from shoal.requests.spec import LookupSpec, ServingSpec
from shoal.scoring.frames import Frame, as_frame
from shoal.security.api_keys import ApiKeyRecord, IssuedKey
from shoal.security.permissions import Role
from shoal.serving.deferred import DeferredPredictions, Wishes
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.desired import Selection
from shoal.serving.documents import prediction_frame
from shoal.serving.holdings import Holdings
from shoal.serving.keeping import Keepers
from shoal.serving.options import ServingOptions
from shoal.serving.plane import DataPlane
from shoal.serving.services import Service, Surveyor, find_services
from shoal.serving.sinks import Sinks, SinkSpec
from shoal.settings import Settings
from shoal.storage.sql import Database
from shoal.table.collection import Collected
from shoal.telemetry.progress import SILENT, Progress
from shoal.training.spec import TrainSpec
from shoal.training.train import TrainedFleet
from shoal.types import Json, KeyType
from shoal.workspace.connections import Connections
from shoal.workspace.jobs import scorer, trainer
from shoal.workspace.keys import ApiKeys
from shoal.workspace.predictions import FleetPredictions
from shoal.workspace.registration import Registration
from shoal.workspace.served import Served
from shoal.workspace.storehouse import Storehouse
from shoal.workspace.submission import Submission


class Workspace:
    """Fleets, their snapshots, how they are served, and the runs that train and score them.

    ``shoal.connect(url)`` has the same methods, answered by servers. Methods that change something do so in the name of
    ``settings.actor``; a server does so in that of the API key.

    Parameters
    ----------
    settings : Settings
        Where things lie, and in whose name changes are made.
    store_folders : mapping of str to Path, optional
        The folders of the categories' stores, from another process that had the workspace open. The database need not
        be there then: it is taken as it is, neither made nor brought up to date.

    Attributes
    ----------
    registry : Registry
        Looks up fleets, snapshots, aliases, lineage, what is served, API keys, stores, audit.
    ledger : Ledger
        Looks up runs, shards, outcomes.
    predictions : FleetPredictions
        Those that are kept: ``listed``, ``one``, ``wait``, ``replay``.
    """

    def __init__(self, settings: Settings, *, store_folders: Mapping[str, Path] | None = None) -> None:
        self.settings = settings
        self._database = Database(settings.database_url, must_exist=store_folders is not None)
        if store_folders is None:
            self._database.migrate()
        self.registry = registry = Registry(self._database)
        self.ledger = Ledger(self._database)
        self.predictions = FleetPredictions(self._database, registry)
        self._storehouse = Storehouse(registry, self.ledger, settings, store_folders)
        self._registration = Registration(registry, self._storehouse, settings.actor)
        self._connections = Connections(registry, settings.home / "cache" / "lookups", settings.actor)
        self._served = Served(registry, self._storehouse, self._connections, settings.actor)
        self._keys = ApiKeys(registry, settings.actor)
        self._submission = Submission(
            registry, self._storehouse, self._served, self._connections, self.predictions, settings.actor
        )

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
        """Store a fleet as the next snapshot of a name; raises as :meth:`Registration.register` does.

        Parameters
        ----------
        fleet : Fleet
            The models.
        name : str, optional
            The fleet's name; made when it is new. The fleet's own name unless told.
        owner, description, category, tags : str, str, str, iterable of str, optional
            What is said about the fleet; what is not given stays as it is.
        lineage : Lineage, optional
            Where the models come from. Its ``parent`` is the snapshot that the fleet came from unless told.
        note : str
            What there is to say about this snapshot.

        Returns
        -------
        SnapshotRecord
            Its version, digest and so on. No alias moves: :meth:`promote` does that.
        """
        said = {"owner": owner, "description": description, "category": category, "tags": tags}
        given = {word: value for word, value in said.items() if value is not None}
        return self._registration.register(fleet, name or fleet.name, given, lineage, note)

    def describe(
        self,
        name: str,
        *,
        owner: str | None = None,
        description: str | None = None,
        category: str | None = None,
        tags: Iterable[str] | None = None,
    ) -> FleetRecord:
        """Change what is said about a fleet; what is not given stays. See :meth:`Registry.describe`."""
        return self.registry.describe(
            name, owner=owner, description=description, category=category, tags=tags, actor=self.settings.actor
        )

    def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """All fleets by name, or those with a tag or of a category."""
        return self.registry.fleets(tag=tag, category=category)

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
        return self._storehouse.open(snapshot)

    @property
    def store_folders(self) -> Mapping[str, Path]:
        """The folders of the categories' stores as the registry last told them."""
        return self._storehouse.folders

    def promote(
        self,
        name: str,
        version: int,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> AliasChange:
        """Make an alias name a version, atomically; see :meth:`Registry.promote`, which says what it raises.

        Conflict as well where the snapshot lies in a store that is here, and cannot be opened.
        """
        check_version(version)
        self._storehouse.require_opens(self.registry.resolve(f"{name}:{version}"))
        return self.registry.promote(
            name, version, alias=alias, actor=actor or self.settings.actor, expected=expected, reason=reason,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    def rollback(
        self,
        name: str,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> AliasChange:
        """Make an alias name the version it named before, atomically; see :meth:`Registry.rollback`.

        Conflict as well where the alias is moved at the same moment, or that version cannot be opened, as of
        :meth:`promote`.
        """
        actor = actor or self.settings.actor
        onto = self.registry.before(name, alias=alias, actor=actor, idempotency_key=idempotency_key)
        if onto is not None:
            self._storehouse.require_opens(self.registry.resolve(f"{name}:{onto}"))
        return self.registry.rollback(
            name, alias=alias, actor=actor, expected=expected, onto=onto, reason=reason,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    def train(self, spec: TrainSpec | Mapping[str, Json] | str | Path, progress: Progress = SILENT) -> TrainedFleet:
        """Fit a model per segment, choose, register the snapshot, and promote it if the spec says so and it is better.

        ``spec`` may be the path of a YAML file; ``progress`` is told how far the work is. See :class:`TrainSpec`.
        """
        return trainer(self).train(spec, progress)

    def score(self, spec: ScoreSpec | Mapping[str, Json] | str | Path, progress: Progress = SILENT) -> ScoreSummary:
        """Score files: plan, score shard by shard, make the output visible at once.

        ``spec`` may be the path of a YAML file; ``progress`` is told how far the work is. See :class:`ScoreSpec`.
        """
        return scorer(self).score(spec, progress)

    def resume(self, run: str, progress: Progress = SILENT) -> ScoreSummary:
        """Finish a run that was interrupted: only what is not done is done."""
        return scorer(self).resume(run, progress)

    def model_outcomes(self, run: str) -> pl.DataFrame:
        """What became of the rows of each model in a run that scored; see :meth:`Scorer.model_outcomes`."""
        return scorer(self).model_outcomes(run)

    def runs(
        self, *, state: RunState | None = None, fleet: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """The newest runs, newest first: those that stand somewhere, of a fleet, of a kind such as ``train``."""
        return self.ledger.runs(state=state, fleet=fleet, kind=kind, limit=limit)

    def gc(self, *, dry_run: bool = False) -> Collected:
        """Delete the files of snapshots that nothing refers to, and what runs left; see :meth:`Storehouse.collect`."""
        return self._storehouse.collect(dry_run=dry_run)

    def set_store(self, category: str, folder: str | Path | None) -> None:
        """Keep the next snapshots of a category's fleets in a folder; see :meth:`Storehouse.set_store`."""
        self._storehouse.set_store(category, folder)

    def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """The servers that are alive and hold certain fleets; see :func:`shoal.serving.services.find_services`."""
        known = Surveyor(self.registry).survey()
        return find_services(known, name=name, tag=tag, category=category, key=key, has=Holdings(self.fleet).answers)

    def data_plane(
        self, fleets: Sequence[str] = (), *, category: str = "", options: ServingOptions | None = None
    ) -> DataPlane:
        """A data plane for real-time inference; ``await plane.start()`` opens the fleets.

        Parameters
        ----------
        fleets : sequence of str
            ``name`` follows what the registry says of the fleet, ``name@alias`` and ``name:version`` do not; none for
            all fleets that the registry says are to be served. InvalidInput where one is no reference, or comes twice.
        category : str
            Where no fleets are named: only those of this category, unless it is empty.
        options : ServingOptions, optional
            Limits, and how often to look at the registry.
        """
        return DataPlane(
            self.registry,
            self.open_snapshot,
            Selection(fleets, category=category),
            options or ServingOptions(),
            self.settings.home / "cache" / "lookups",
            Keepers(self.settings.home / "predictions", self.predictions),
        )

    def deferred(self, plane: DataPlane, options: DeferredOptions | None = None) -> DeferredPredictions:
        """What a data plane needs to take requests that nobody waits for; ``deferred.start()`` begins."""
        return DeferredPredictions(plane, self.predictions, Sinks(self._connections.spec), options)

    def submit(
        self,
        reference: str,
        rows: Frame,
        *,
        outcome: bool = False,
        reason: bool = False,
        model_level: bool = False,
        snapshot: bool = False,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        timeout_s: float | None = None,
        sink: str | None = None,
    ) -> str:
        """Ask for a prediction without waiting: the id of what a server is going to make; see :class:`Submission`.

        The same ``idempotency_key`` is the same prediction; those of one ``ordering_key`` are made in their order;
        after ``timeout_s`` seconds nobody wants it any more; the result goes to ``sink`` as well.
        """
        wishes = Wishes(ordering_key=ordering_key, idempotency_key=idempotency_key, sink=sink, deadline_s=timeout_s)
        return self._submission.submit(
            reference,
            as_frame(rows),
            wishes,
            outcome=outcome,
            reason=reason,
            model_level=model_level,
            snapshot=snapshot,
        )

    def result(self, prediction_id: str, *, timeout_s: float = 0.0) -> pl.DataFrame:
        """What a prediction answered, waiting so many seconds for it; see :func:`.documents.prediction_frame`."""
        return prediction_frame(self.predictions.wait(prediction_id, timeout_s=timeout_s))

    def serving(self, name: str) -> ServingSpec:
        """What a fleet is served with beside its models; raises NotFound where there is no such fleet."""
        return self._served.spec(name)

    def set_serving(
        self,
        name: str,
        spec: ServingSpec | Mapping[str, object] | str | Path | None = None,
        *,
        loaded: bool | None = None,
        alias: str | None = None,
        pinned: int | Keep | None = KEEP,
        actor: str | None = None,
    ) -> ServingSpec:
        """Say how a fleet is served, and with what beside its models; servers follow at once. See :class:`Served`."""
        told = self._served.change(name, spec, loaded=loaded, alias=alias, pinned=pinned, actor=actor)
        return load_serving(told.spec)

    def serving_of(self, fleet: Fleet, serving: bool | Mapping[str, object]) -> ServingSpec:
        """The serving spec that a job applies; see :meth:`Served.applied`."""
        return self._served.applied(fleet, serving)

    def require_servable(self, fleets: Sequence[str]) -> None:
        """Refuse what a server could not serve until somebody corrects it; before one is started.

        Takes what :meth:`data_plane` takes; InvalidInput where a text is no reference or two are of one fleet, NotFound
        where a fleet does not have the alias.
        """
        Selection(fleets).require_aliases(self.registry)

    def unflushed(self) -> tuple[str, ...]:
        """Settings of the database by which a power cut may undo what was committed; see :meth:`Database.unflushed`."""
        return self._database.unflushed()

    def load(self, name: str) -> Desired:
        """Have a fleet served, by every server and after a restart."""
        return self._served.change(name, loaded=True)

    def unload(self, name: str) -> Desired:
        """Have a fleet served no more."""
        return self._served.change(name, loaded=False)

    def pin(self, name: str, version: int | None) -> Desired:
        """Have a version served wherever the alias moves, and kept from garbage collection; None lets it go."""
        return self._served.change(name, pinned=version)

    def follow(self, name: str, alias: str) -> Desired:
        """Have what an alias names served; NotFound where the fleet does not have it."""
        return self._served.change(name, alias=alias)

    def sources(self) -> dict[str, Source]:
        """Named sources that features can be looked up in, by name."""
        return self._connections.sources.every()

    def source(self, name: str) -> Source:
        """The source of a name; raises NotFound where there is none."""
        return self._connections.sources.one(name)

    def set_source(self, name: str, spec: Source | Mapping[str, object] | str | Path | None) -> None:
        """Say what a source's name means from now on, None: nothing; see :meth:`Definitions.change`."""
        self._connections.sources.change(name, spec)

    def sinks(self) -> dict[str, SinkSpec]:
        """Named sinks that results can go to, by name."""
        return self._connections.sinks.every()

    def sink(self, name: str) -> SinkSpec:
        """The sink of a name; raises NotFound where there is none."""
        return self._connections.sinks.one(name)

    def set_sink(self, name: str, spec: SinkSpec | Mapping[str, object] | str | Path | None) -> None:
        """Say what a sink's name means from now on, None: nothing; see :meth:`Definitions.change`."""
        self._connections.sinks.change(name, spec)

    def history(self, lookup: LookupSpec, types: Mapping[str, KeyType]) -> pl.DataFrame:
        """All rows of a lookup's source, for training; see :meth:`Connections.history`."""
        return self._connections.history(lookup, types)

    def create_key(
        self, name: str, role: Role | str, *, expires_s: float | None = None, actor: str | None = None
    ) -> IssuedKey:
        """Make an API key that is taken for so many seconds, or for ever; see :meth:`ApiKeys.create`."""
        return self._keys.create(name, role, expires_s, actor)

    def revoke_key(self, key_id: str) -> ApiKeyRecord:
        """Take an API key no more, from now on and everywhere; see :meth:`ApiKeys.revoke`."""
        return self._keys.revoke(key_id)

    def rotate_key(
        self, key_id: str, *, overlap_s: float = 86_400.0, expires_s: float | None = None, actor: str | None = None
    ) -> IssuedKey:
        """Replace an API key, which is taken for ``overlap_s`` seconds yet; see :meth:`ApiKeys.rotate`."""
        return self._keys.rotate(key_id, overlap_s, expires_s, actor)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
