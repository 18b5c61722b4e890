"""Runs of score jobs: plan, work through the shards, reconcile, publish; and resume whatever was interrupted."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import polars as pl

from shoal.batch.definition import pinned_in
from shoal.batch.merging import merge
from shoal.batch.parts import Part, read_model_outcomes
from shoal.batch.planning import Planner, budget_of, read_columns
from shoal.batch.publishing import Destination, PublishedFile, Record, concatenate
from shoal.batch.source import common_types, require_unchanged, slices_of
from shoal.batch.spec import KIND, ScoreSpec, load, load_planned
from shoal.batch.summary import ScoreSummary
from shoal.batch.worker import Crew, Work, require_few_errors
from shoal.engines.threads import Threads
from shoal.errors import Conflict, InvalidInput, StorageError
from shoal.fleet import Fleet
from shoal.jobs.states import RUN_TRANSITIONS, RunState, ShardState, require_transition
from shoal.ledger import Ledger, RunRecord, is_gone, this_worker
from shoal.requests.readers import FindSource
from shoal.requests.spec import ServingSpec
from shoal.storage.decoding import decodable
from shoal.storage.files import exclusive, storage_errors
from shoal.telemetry.progress import SILENT, Progress
from shoal.types import Json

_log = logging.getLogger(__name__)

ServingOf: TypeAlias = Callable[[Fleet, bool | Mapping[str, object]], ServingSpec]
"""What to apply to a fleet's rows: what it is served with (true), or a spec that fits it. Raises InvalidSpec."""

#: How often a process looks whether the last shards of another one are done.
LOOK_S = 0.2


class Scorer:
    """Runs score jobs.

    Parameters
    ----------
    ledger : Ledger
        Where runs are kept.
    open_fleet : callable
        Opens ``name``, ``name@alias`` or ``name:version``.
    serving_of : callable
        What to apply to a fleet's rows, from what a job says of ``serving``.
    find_source : callable
        Finds a source of features by name.
    actor : str
        In whose name.
    home : Path
        The workspace's folder.
    checkpoint : callable, optional
        Called with the name of each step that is about to be taken.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        open_fleet: Callable[[str], Fleet],
        serving_of: ServingOf,
        find_source: FindSource,
        actor: str,
        home: Path,
        checkpoint: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._ledger = ledger
        self._open_fleet = open_fleet
        self._actor = actor
        self._home = home
        self._checkpoint = checkpoint
        self._serving_of = serving_of
        self._planner = Planner(ledger, home, find_source, checkpoint)

    def score(self, source: ScoreSpec | Mapping[str, object] | str | Path, progress: Progress = SILENT) -> ScoreSummary:
        """Run a job from the beginning.

        Parameters
        ----------
        source : ScoreSpec, mapping, or path of a YAML file
            The job.
        progress : Progress
            Told how many rows are done.

        Raises
        ------
        InvalidSpec, InvalidInput, NotFound, OutputExists
            The job cannot be done as it is; nothing is visible.
        TooManyErrors
            More rows than ``max_errors`` allows could not be scored.
        StorageError
            A file could not be read or written, also when tried again; resume the run when that is mended.
        """
        started = time.perf_counter()
        spec = load(source)
        destination = self._destination(spec, "new")
        destination.require_free()
        destination.require_apart(spec.input)
        fleet = self._open_fleet(spec.fleet)
        self._checkpoint("plan")
        serving = None if spec.serving is None else self._serving_of(fleet, spec.serving)
        run = self._planner.plan(spec, fleet, serving, actor=self._actor)
        self._checkpoint("planned")
        return self._execute(run, spec, fleet, progress, started)

    def resume(self, run_id: str, progress: Progress = SILENT) -> ScoreSummary:
        """Finish a run that was interrupted or failed, or help one that is under way.

        Only what is not done is done, but under the policy ``retry-all``, where everything is done anew in a new run.

        Raises
        ------
        NotFound
            There is no such run.
        Conflict
            It was cancelled or has expired.
        InputChanged
            The input, or the source of its lookup, is not what the run pinned.
        """
        started = time.perf_counter()
        run = _require_scoring(self._ledger.run(run_id))
        spec = load_planned(run.spec)
        if run.state is RunState.SUCCEEDED:
            self._clear(run, spec)
            return self._summary(run, spec, started)
        require_unchanged(self._ledger.inputs(run_id))
        fleet = self._open_fleet(f"{run.fleet}:{run.version}")
        self._planner.definition(spec, fleet, pinned_in(run.spec))  # refuses a source that is another one by now
        self._ledger.release_gone(run_id)
        if spec.failure_policy == "retry-all" and run.state in (RunState.FAILED, RunState.RUNNING):
            run = self._restart(run, spec)
        elif run.state is RunState.FAILED:
            self._ledger.retry_failed(run_id)
        return self._execute(run, spec, fleet, progress, started)

    def _restart(self, run: RunRecord, spec: ScoreSpec) -> RunRecord:
        with exclusive(self._home / "locks" / run.id):  # of two who resume it at once, one finds it cancelled
            if self._ledger.owners(run.id):
                raise Conflict(f"run {run.id} is still being worked on; under retry-all nobody can help it")
            state = self._ledger.run(run.id).state
            require_transition(RUN_TRANSITIONS, state, RunState.CANCELLED, what=f"run {run.id}")
            # Only then the old one ends: killed in between, there is still one to resume.
            anew = self._planner.again(run, actor=self._actor)
            words = f"began anew as {anew.id} under the policy retry-all"
            self._ledger.transition(run.id, RunState.CANCELLED, error=words)
        self._destination(spec, run.id).clear()
        return anew

    def _destination(self, spec: ScoreSpec, run: str) -> Destination:
        return Destination(spec, run, self._home / "locks")

    def _execute(
        self, run: RunRecord, spec: ScoreSpec, fleet: Fleet, progress: Progress, started: float
    ) -> ScoreSummary:
        if run.state in (RunState.PLANNED, RunState.FAILED):
            run = self._begin(run)
        if run.state is RunState.SUCCEEDED:
            return self._summary(run, spec, started)
        work = self._work(run, spec, fleet, progress)
        try:
            if run.state is RunState.RUNNING:
                self._score_shards(work)
            self._commit(work)
        except BaseException as error:
            self._fail(work, error)
            raise
        return self._summary(self._ledger.run(run.id), spec, started)

    def _begin(self, run: RunRecord) -> RunRecord:
        """Set a run going; of two processes that do so at once, the second finds it going."""
        try:
            return self._ledger.transition(run.id, RunState.RUNNING)
        except Conflict:
            found = self._ledger.run(run.id)
            if found.state in (RunState.RUNNING, RunState.COMMITTING, RunState.SUCCEEDED):
                return found
            raise

    def _work(self, run: RunRecord, spec: ScoreSpec, fleet: Fleet, progress: Progress) -> Work:
        shards = [shard for shard in self._ledger.shards(run.id) if shard.source["slices"]]
        slices = [piece for shard in shards for piece in slices_of(shard.source)]
        rows = sum(piece.rows for piece in slices)
        prepared = bool(shards and shards[0].source.get("prepared"))
        definition = self._planner.definition(spec, fleet, pinned_in(run.spec))
        columns = read_columns(spec, fleet, definition)
        types = common_types(spec, {piece.path for piece in slices}, columns.all, prepared=prepared)
        definition.prepare(types)
        tables = list({piece.path: piece.rows for piece in slices_of(shards[0].source) + slices}.items())
        return Work(
            run=run.id,
            spec=spec,
            fleet=fleet,
            ledger=self._ledger,
            destination=self._destination(spec, run.id),
            folder=self._home / "runs" / run.id,
            columns=columns.all,
            types={**types, **definition.brought},
            unshown=columns.unshown,
            definition=definition,
            most_errors=spec.error_limit(rows),
            budget=budget_of(spec, fleet, definition, tables, prepared=prepared),
            progress=progress,
            checkpoint=self._checkpoint,
            threads=Threads(spec.threads),
        )

    def _score_shards(self, work: Work) -> None:
        """Work until every shard is settled, by this process or another."""
        shards = self._ledger.shards(work.run)
        task = f"scoring {work.run}"
        work.progress.start(task, sum(_planned_rows(shard.source) for shard in shards))
        work.progress.advance(task, sum(_planned_rows(s.source) for s in shards if s.state is ShardState.DONE))
        Crew(work).run()
        while self._unsettled(work.run):
            time.sleep(LOOK_S)
            self._ledger.release_gone(work.run)
            Crew(work).run()
        work.progress.finish(task)
        failed = [shard for shard in self._ledger.shards(work.run) if shard.state is ShardState.FAILED]
        if failed:
            raise StorageError(
                f"{len(failed)} shard(s) of run {work.run} failed, the first with: {failed[0].error}; "
                f"mend that and run `shoal score --resume {work.run}`"
            )

    def _unsettled(self, run_id: str) -> int:
        shards = self._ledger.totals(run_id).shards
        running = self._ledger.run(run_id).state is RunState.RUNNING
        return shards[ShardState.PENDING] + shards[ShardState.CLAIMED] if running else 0

    def _commit(self, work: Work) -> None:
        """Publish, unless that has happened; one process at a time."""
        with work.destination.alone():
            state = self._ledger.run(work.run).state
            if state is RunState.RUNNING:
                self._ledger.transition(work.run, RunState.COMMITTING)
            elif state is not RunState.COMMITTING:
                if state is RunState.SUCCEEDED:
                    return
                raise Conflict(f"run {work.run} is {state}; see `shoal runs show {work.run}`")
            self._checkpoint("commit")
            if not work.destination.is_published():
                self._require_few_errors(work)
                self._publish(work)
            self._checkpoint("published")
            self._ledger.transition(work.run, RunState.SUCCEEDED)
            self._checkpoint("succeeded")
            self._clear(self._ledger.run(work.run), work.spec)

    def _require_few_errors(self, work: Work) -> None:
        """A share of all rows is known for certain only now that ``where`` has had its say."""
        most = work.spec.error_limit(self._ledger.totals(work.run).counts.rows)
        if most is not None:
            require_few_errors(work, most)

    def _clear(self, run: RunRecord, spec: ScoreSpec) -> None:
        """Remove what only a run under way needs; also when it died between its last word and this."""
        self._destination(spec, run.id).clear()
        self._planner.clear_prepared(run.id)
        for listed in (self._home / "runs" / run.id).glob("errors*.jsonl"):
            listed.unlink(missing_ok=True)  # the output has them

    def _publish(self, work: Work) -> None:
        destination = work.destination
        destination.require_free()
        parts = self._parts(work.run)
        staging = destination.staging
        errors = [work.folder / part.errors for part in parts if part.errors]
        files = [file for part in parts for file in part.files]
        with storage_errors(staging):
            staging.mkdir(parents=True, exist_ok=True)
            if not work.spec.single_file:
                for file in files:
                    if (staging / file.staged).exists():
                        (staging / file.staged).rename(staging / file.name)
                self._checkpoint("named")
        record = Record(
            run=work.run,
            fleet=work.fleet.name,
            snapshot=work.fleet.version or 0,
            rows=sum(file.rows for file in files),
            files=tuple(PublishedFile(path=file.name, rows=file.rows, sha256=file.sha256) for file in files),
        )
        if work.spec.single_file:
            merged = merge(work, [staging / file.staged for file in files])
            self._checkpoint("merged")
            destination.publish_file(record, merged, errors, self._checkpoint)
        else:
            destination.publish_folder(record, errors, self._checkpoint)

    def _parts(self, run_id: str) -> list[Part]:
        return [msgspec.convert(shard.part or {}, decodable(Part)) for shard in self._ledger.shards(run_id)]

    def _fail(self, work: Work, error: BaseException) -> None:
        """Record why, keep the list of bad rows where `shoal runs errors` points, and leave nothing visible."""
        listed = [work.folder / part.errors for part in self._parts(work.run) if part.errors]
        present = [path for path in listed if path.is_file()]
        try:
            if present:
                concatenate(present, work.folder / "errors.jsonl")
        except StorageError as problem:
            _log.warning("the bad rows of %s could not be listed: %s", work.run, problem)
        words = str(error)
        if isinstance(error, KeyboardInterrupt):
            words = f"interrupted; `shoal score --resume {work.run}` goes on"
            _log.warning("run %s was %s", work.run, words)
            if self._others_work_on(work.run):
                return
        if self._ledger.run(work.run).state in (RunState.RUNNING, RunState.COMMITTING):
            self._ledger.transition(work.run, RunState.FAILED, error=words)

    def _others_work_on(self, run_id: str) -> bool:
        """Whether a process that has done some of a run still runs: it need not stop because this one does."""
        owners = {(shard.owner or "").partition("#")[0] for shard in self._ledger.shards(run_id)}
        return any(not is_gone(owner) for owner in owners - {"", this_worker()})

    def _summary(self, run: RunRecord, spec: ScoreSpec, started: float) -> ScoreSummary:
        destination = self._destination(spec, run.id)
        return ScoreSummary(
            run=run.id,
            fleet=run.fleet,
            version=run.version or 0,
            state=run.state,
            output=destination.path,
            errors=destination.errors if destination.errors.exists() else None,
            ledger=self._ledger.reconcile(run.id),
            seconds=time.perf_counter() - started,
        )

    def model_outcomes(self, run_id: str) -> pl.DataFrame:
        """What became of the rows of each model in a run.

        Returns
        -------
        polars.DataFrame
            The key columns, ``level`` and a column of rows per outcome; one row per model that met rows, and one
            without key for rows that met no model.

        Raises
        ------
        NotFound
            There is no such run.
        InvalidInput
            The run did not score.
        """
        run = _require_scoring(self._ledger.run(run_id))
        fleet = self._open_fleet(f"{run.fleet}:{run.version}")
        folder = self._home / "runs" / run_id
        return read_model_outcomes(fleet, [folder / part.models for part in self._parts(run_id) if part.models])


def _require_scoring(run: RunRecord) -> RunRecord:
    if run.kind != KIND:
        raise InvalidInput(f"run {run.id} does not score, it is a {run.kind} run; see `shoal runs list --kind {KIND}`")
    return run


def _planned_rows(source: Mapping[str, Json]) -> int:
    return sum(piece.rows for piece in slices_of(source))
