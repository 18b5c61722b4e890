"""Working through a run's shards: claim, read, score, write, tell the ledger; again until none is left."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from shoal.batch.definition import Answered, Definition
from shoal.batch.leaving import read_shard
from shoal.batch.memory import Budget
from shoal.batch.parts import Part, output_frame, write_errors, write_model_outcomes, write_part
from shoal.batch.publishing import Destination
from shoal.batch.source import FILE, LINE, ROW, slices_of
from shoal.batch.spec import ScoreSpec
from shoal.engines.threads import Threads
from shoal.errors import LeaseLost, NotFound, ShoalError, StorageError, TooManyErrors
from shoal.fleet import Fleet
from shoal.ledger import Ledger, ShardClaim, this_worker
from shoal.scoring.outcomes import Scored
from shoal.telemetry.progress import Progress
from shoal.types import Counts, Outcome, Reason

LEASE_S = 60.0
#: A shard that met an error of storage is tried so often, a little later each time.
ATTEMPTS = 3
BACKOFF_S = 0.2
#: How often whoever waits for the workers looks up, in seconds: Polars takes Ctrl-C over such that it ends no wait.
LISTEN_S = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all workers of a run share.

    Attributes
    ----------
    run : str
        The run.
    spec : ScoreSpec
        The job.
    fleet : Fleet
        The pinned snapshot.
    ledger : Ledger
        Where shards are claimed and settled.
    destination : Destination
        Where parts are staged.
    folder : Path
        The run's own folder.
    columns : tuple of str
        Input columns that are read.
    types : mapping of str to DataType
        The types that the columns have in the output: those that hold the values of all files.
    unshown : tuple of str
        Those of them that only the template of partitions needs.
    definition : Definition
        Checks, rules and lookup.
    most_errors : int or None
        Bad rows from which on the run fails.
    budget : Budget
        Memory.
    progress : Progress
        Told rows.
    checkpoint : callable
        Called with the name of each step that is about to be taken; tests end the process there.
    """

    run: str
    spec: ScoreSpec
    fleet: Fleet
    ledger: Ledger
    destination: Destination
    folder: Path
    columns: tuple[str, ...]
    types: Mapping[str, pl.DataType]
    unshown: tuple[str, ...]
    definition: Definition
    most_errors: int | None
    budget: Budget
    progress: Progress
    checkpoint: Callable[[str], None]
    threads: Threads = field(default_factory=Threads)


class Crew:
    """The workers of this process for one run.

    Parameters
    ----------
    work : Work
        What they work on.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        # By attempt too: after a long sleep of the machine two workers here may hold one shard, the first in vain.
        self._claims: dict[tuple[int, int], ShardClaim] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Work until no shard waits.

        Raises
        ------
        ShoalError
            The first error that must stop the run; shards under way were given back.
        """
        beat = threading.Thread(target=self._keep_leases, name="shoal-leases", daemon=True)
        beat.start()
        try:
            with ThreadPoolExecutor(self.work.budget.workers, thread_name_prefix="shoal-shard") as pool:
                for future in [pool.submit(self._loop, number) for number in range(self.work.budget.workers)]:
                    self._await(future)
        finally:
            self._stop.set()
            beat.join()
        if self._errors:
            raise self._errors[0]

    def _await(self, loop: "Future[None]") -> None:
        try:
            while wait([loop], LISTEN_S).not_done:
                pass
            loop.result()
        except (KeyboardInterrupt, ShoalError) as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._stop.set()
        self._errors.append(error)

    def _keep_leases(self) -> None:
        while not self._stop.wait(LEASE_S / 3):
            with self._lock:
                held = list(self._claims.values())
            try:
                if held:
                    self.work.ledger.renew(held, LEASE_S)
            except ShoalError as error:  # the database may be back at the next beat, before the leases run out
                _log.warning("leases of run %s could not be renewed: %s", self.work.run, error)

    def _loop(self, number: int) -> None:
        owner = this_worker(str(number))
        while not self._stop.is_set():
            self._wait_for_memory()
            claims = self.work.ledger.claim(self.work.run, owner=owner, lease_s=LEASE_S, most_attempts=ATTEMPTS + 2)
            if not claims:
                return
            try:
                self._settle(claims[0])
            except BaseException as error:  # noqa: BLE001 - it is raised again once all have stopped
                self._give_up(error)
                return

    def _wait_for_memory(self) -> None:
        """Hold back while others of this process still hold the memory; alone, go on: nothing else would free it."""
        while self._claims and self.work.budget.exhausted and not self._stop.is_set():
            time.sleep(0.02)

    def _settle(self, claim: ShardClaim) -> None:
        with self._lock:
            self._claims[claim.number, claim.attempt] = claim
        try:
            self._try(claim)
        except LeaseLost:
            _log.warning(
                "shard %d of %s went to another worker; its result here is dropped", claim.number, self.work.run
            )
        finally:
            with self._lock:
                del self._claims[claim.number, claim.attempt]

    def _try(self, claim: ShardClaim) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                counts, source_rows, part = score_shard(self.work, claim)
                break
            except (StorageError, OSError) as error:
                _log.warning("shard %d of %s, attempt %d: %s", claim.number, self.work.run, attempt, error)
                if attempt == ATTEMPTS:
                    self._fail(claim, error)
                    return
                time.sleep(BACKOFF_S * 2**attempt)
            except BaseException:
                self.work.ledger.release(claim)
                raise
        self.work.checkpoint("finish")
        self.work.ledger.finish(claim, counts, source_rows, msgspec.to_builtins(part))
        self.work.checkpoint("finished")
        self.work.progress.advance(f"scoring {self.work.run}", sum(piece.rows for piece in slices_of(claim.source)))
        self._check_errors()

    def _fail(self, claim: ShardClaim, error: Exception) -> None:
        """Nothing more can be done for the shard now: leave its rows to the next run, or fail."""
        if self.work.spec.failure_policy != "leave":
            self.work.ledger.fail(claim, str(error), retry=False)
            return
        rows = sum(piece.rows for piece in slices_of(claim.source))
        left = msgspec.to_builtins(Part(left=True, reason=str(error)))
        self.work.ledger.finish(claim, Counts(rows=rows, failed=rows), _source_rows(claim), left)
        self.work.progress.advance(f"scoring {self.work.run}", rows)
        self._check_errors()

    def _check_errors(self) -> None:
        if self.work.most_errors is not None:
            require_few_errors(self.work, self.work.most_errors)


def require_few_errors(work: Work, most: int) -> None:
    """Stop a run that met more bad rows than it may.

    Raises
    ------
    TooManyErrors
        Says how many, and where they are listed.
    """
    counts = work.ledger.totals(work.run).counts
    bad = counts.invalid + counts.failed
    if bad > most:
        raise TooManyErrors(
            f"run {work.run} met {bad} rows it could not score, more than max_errors ({work.spec.max_errors}) "
            f"allows; see `shoal runs errors {work.run}`"
        )


def score_shard(work: Work, claim: ShardClaim) -> tuple[Counts, int, Part]:
    """Read, score and stage one shard; nothing is visible or counted yet.

    Raises
    ------
    InvalidInput
        A column is missing.
    NotFound
        A row has no model, and the job wants to fail then.
    StorageError
        Reading or writing failed.
    """
    slices = slices_of(claim.source)
    if not slices:  # rows that an earlier run left and that were dropped since
        return Counts(), 0, Part()
    work.checkpoint("read")
    rows = read_shard(work.spec, claim.source, work.columns)
    rows, answered = answer(work, rows)
    scored = answered.scored
    counts = scored.counts()
    if counts.no_model and work.spec.missing_model == "fail":
        raise _missing(work, rows, scored)
    shown = [*work.spec.carry, *work.unshown]
    rows = rows.with_columns(pl.col(name).cast(work.types[name]) for name in shown)
    suffix = f"{claim.number:05d}-{claim.attempt}"
    work.checkpoint("write")
    frame = output_frame(work.spec, work.fleet, rows, answered)
    extra = [name for name in work.unshown if name not in frame.columns]
    files = write_part(
        work.spec, work.fleet, frame.with_columns([rows[name] for name in extra]), work.destination, claim.number,
        claim.attempt, extra,
    )  # fmt: skip
    errors = Path(f"errors-{suffix}.jsonl")
    has_errors = write_errors(work.fleet, rows, answered, work.folder / errors)
    models = Path(f"models-{suffix}.parquet")
    write_model_outcomes(scored, work.folder / models)
    return (
        counts,
        _source_rows(claim),
        Part(files=files, errors=str(errors) if has_errors else None, models=str(models)),
    )


def answer(work: Work, rows: pl.DataFrame) -> tuple[pl.DataFrame, Answered]:
    """Score rows, with whatever the run's definition has to say of them.

    Returns
    -------
    rows : polars.DataFrame
        With the features that were looked up.
    answered : Answered
        What became of each.

    Raises
    ------
    InvalidInput, StorageError
        As of :meth:`Definition.complete` and :meth:`Fleet.score`.
    """
    completed = work.definition.complete(rows)
    rows = completed.rows
    scored = work.fleet.score(rows, threads=work.threads, fallback=work.spec.missing_model == "fallback")
    if LINE in rows.columns:
        scored.refuse(rows[LINE].is_not_null().to_numpy(), Reason.UNREADABLE_LINE)
    return rows, work.definition.answered(completed, scored)


def _source_rows(claim: ShardClaim) -> int:
    """Rows of the input that a shard stands for; rows that a preprocess made have a share of its input."""
    told = claim.source.get("source_rows")
    return told if isinstance(told, int) else sum(piece.rows for piece in slices_of(claim.source))


def _missing(work: Work, rows: pl.DataFrame, scored: Scored) -> NotFound:
    first = int(np.flatnonzero(scored.outcomes == Outcome.NO_MODEL)[0])
    key = scored.frame.select([column.name for column in work.fleet.keys]).row(first)
    return NotFound(
        f"row {rows[ROW][first]} of {rows[FILE][first]} has no model of its own, its key is {key}; train one, "
        "or set missing_model to fallback or null"
    )
