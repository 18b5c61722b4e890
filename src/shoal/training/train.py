"""Training: fit many, measure, choose per segment, register, and promote what is better."""

import dataclasses
import datetime as dt
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from shoal.engines.local import LocalEngine
from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.fleet import Fleet
from shoal.ledger import Ledger
from shoal.registry import AliasChange, Lineage, SnapshotRecord
from shoal.storage.files import storage_errors
from shoal.telemetry.progress import SILENT, Progress
from shoal.training.decision import Decision
from shoal.training.distribution import Distribution
from shoal.training.levels import Fitted, fit_levels
from shoal.training.lineage import lineage
from shoal.training.plan import Plan, plan
from shoal.training.promotion import Comparison, compare_with_champion
from shoal.training.reading import History
from shoal.training.results import Alternative, alternatives, decisions, kept_models, report
from shoal.training.runs import TrainingRun, clear_dead_runs
from shoal.training.spec import TrainSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedFleet:
    """What a training made and found out.

    Attributes
    ----------
    fleet : Fleet
        The models that were kept, at all levels.
    report : polars.DataFrame
        One row per segment and level, see :func:`shoal.training.results.report`.
    decisions : mapping of Decision to int
        How many segments of the finest level met each.
    metric : str
        What decided.
    alternatives : tuple of Alternative
        The metric over all held-out rows, for one global model, a model for every segment, and what was chosen.
    distribution : Distribution
        How rows spread over segments.
    rows : mapping of str to int
        Rows by what became of them.
    split : str
        How rows were held out.
    lineage : Lineage
        Where the models come from.
    warnings : tuple of str
        What the user should know.
    run : str
        Its run in the ledger.
    snapshot : SnapshotRecord
        The version it became.
    comparison : Comparison or None
        How it compares with the champion; None unless promoting was asked for.
    seconds : float
        How long it took.
    """

    fleet: Fleet
    report: pl.DataFrame
    decisions: Mapping[Decision, int]
    metric: str
    alternatives: tuple[Alternative, ...]
    distribution: Distribution
    rows: Mapping[str, int]
    split: str
    lineage: Lineage
    warnings: tuple[str, ...]
    run: str
    snapshot: SnapshotRecord
    comparison: Comparison | None
    seconds: float


class Register(Protocol):
    """Stores a fleet as the next snapshot of its name."""

    def __call__(
        self,
        fleet: Fleet,
        name: str | None = None,
        *,
        description: str | None = None,
        category: str | None = None,
        tags: Iterable[str] | None = None,
        lineage: Lineage | None = None,
    ) -> SnapshotRecord:
        """Store it."""
        ...


class Promote(Protocol):
    """Makes an alias name a version."""

    def __call__(
        self, name: str, version: int, *, alias: str = ..., expected: int | None = None, reason: str = ""
    ) -> AliasChange:
        """Move it."""
        ...


class Trainer:
    """Runs trainings.

    Parameters
    ----------
    register : callable
        Stores a fleet as a snapshot.
    promote : callable
        Moves an alias.
    open_fleet : callable
        Opens ``name@alias``; raises NotFound where there is none.
    ledger : Ledger
        Where runs are recorded.
    actor : str
        In whose name.
    home : Path
        Rows are handed to the workers in a folder below it, which is removed at the end.
    history : callable, optional
        Reads the source of a lookup.
    """

    def __init__(
        self,
        *,
        register: Register,
        promote: Promote,
        open_fleet: Callable[[str], Fleet],
        ledger: Ledger,
        actor: str,
        home: Path,
        history: History | None = None,
    ) -> None:
        self._register = register
        self._promote = promote
        self._open_fleet = open_fleet
        self._ledger = ledger
        self._actor = actor
        self._folder = home / "training"
        self._history = history

    def train(
        self, source: TrainSpec | Mapping[str, object] | str | Path | Plan, progress: Progress = SILENT
    ) -> TrainedFleet:
        """Train a fleet and register it.

        Parameters
        ----------
        source : TrainSpec, mapping, path of a YAML file, or Plan
            What is to be done.
        progress : Progress
            Told of every segment.

        Raises
        ------
        InvalidSpec
            A field is wrong, a column missing, or a candidate cannot be packed.
        InvalidInput
            There is no usable input, or no model at all could be trained.
        StorageError
            The disk is full.
        """
        began = time.monotonic()
        clear_dead_runs(self._ledger, self._folder)
        planned = source if isinstance(source, Plan) else plan(source, self._history)
        for warning in planned.distribution.warnings:
            _log.warning(warning)
        run = TrainingRun(self._ledger, planned, self._actor)
        try:
            trained = self._train(planned, run, progress)
        except BaseException as error:
            run.end(error)
            raise
        return dataclasses.replace(trained, seconds=time.monotonic() - began)

    def _train(self, planned: Plan, run: TrainingRun, progress: Progress) -> TrainedFleet:
        fitted = self._fit(planned, run.id, progress)
        origin = lineage(planned, run.id)
        fleet = assemble(planned, fitted, origin)
        run.commit(decisions(fitted), fallback=len(planned.levels) > 1)
        spec = planned.spec
        comparison = self._compare(planned, fitted)
        snapshot = self._register(
            fleet, spec.fleet, description=spec.description, category=spec.category, tags=spec.tags, lineage=origin
        )
        run.registered(snapshot)
        trained = TrainedFleet(
            fleet=fleet,
            report=report(planned, fitted),
            decisions=decisions(fitted, [0]),
            metric=spec.measure.name,
            alternatives=alternatives(planned, fitted),
            distribution=planned.distribution,
            rows=planned.summary,
            split=planned.division.description,
            lineage=origin,
            warnings=(*planned.distribution.warnings, *fitted.warnings, *_failures(fitted)),
            run=run.id,
            snapshot=snapshot,
            comparison=self._move(spec, comparison, snapshot),
            seconds=0.0,
        )
        run.succeed()
        return trained

    def _fit(self, planned: Plan, run: str, progress: Progress) -> Fitted:
        folder = self._folder / run
        try:
            with storage_errors(folder):
                folder.mkdir(parents=True)
            with LocalEngine(planned.spec.processes) as engine:
                return fit_levels(planned, folder, engine, progress)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _compare(self, planned: Plan, fitted: Fitted) -> Comparison | None:
        alias = planned.spec.alias
        if alias is None:
            return None
        try:
            champion = self._open_fleet(f"{planned.spec.fleet}@{alias}")
        except NotFound:
            champion = None
        return compare_with_champion(planned, fitted, champion)

    def _move(self, spec: TrainSpec, comparison: Comparison | None, snapshot: SnapshotRecord) -> Comparison | None:
        """Promote what is better, unless the alias moved meanwhile."""
        if comparison is None or not comparison.better or spec.alias is None:
            return comparison
        try:
            self._promote(
                spec.fleet,
                snapshot.version,
                alias=spec.alias,
                expected=comparison.champion or 0,
                reason=f"training: {comparison.reason}",
            )
        except Conflict as error:
            return dataclasses.replace(comparison, reason=f"{comparison.reason}; not promoted: {error}")
        return dataclasses.replace(comparison, promoted=True)


def assemble(planned: Plan, fitted: Fitted, origin: Lineage) -> Fleet:
    """Make the fleet of the models that were kept.

    Raises
    ------
    InvalidInput
        There are none.
    """
    at = dt.datetime.now(dt.UTC)
    models = list(kept_models(planned, fitted, run=origin.run, libraries=origin.libraries, at=at))
    if not models:
        reasons = Counter(verdict.reason for level in fitted.levels for verdict in level.verdicts)
        reason, count = reasons.most_common(1)[0]
        raise InvalidInput(f"no model could be trained; {count:,} times the reason was: {reason}")
    return Fleet.from_packed(
        keys=planned.rows.keys,
        levels=planned.spec.levels,
        models=models,
        features=planned.rows.features,
        task=planned.spec.task,
        name=planned.spec.fleet,
    )


def _failures(fitted: Fitted) -> list[str]:
    failed = [v for level in fitted.levels for v in level.verdicts if v.decision is Decision.FAILED]
    if not failed:
        return []
    return [f"{len(failed):,} segments could not be trained, e.g.: {failed[0].reason}"]
