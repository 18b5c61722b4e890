"""Trainings in the ledger: one run, one shard, and one outcome per model."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from shoal.errors import Conflict, ShoalError
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, RunRecord, ShardClaim, ShardPlan, is_gone, this_worker
from shoal.registry import SnapshotRecord
from shoal.training.decision import Decision
from shoal.training.plan import Plan
from shoal.types import Counts

KIND = "train"
_LEASE_S = 3600.0
_OWNER = "owner"
_log = logging.getLogger(__name__)


class TrainingRun:
    """A training's entry in the ledger.

    The models at all levels are its rows: kept ones count as ``scored``; those left to a fallback, or with too few rows
    of their own, as ``fallback``, or ``no_model`` where no coarser model was kept; the rest as ``failed``.

    Parameters
    ----------
    ledger : Ledger
        Where it is recorded.
    plan : Plan
        What is to be done.
    actor : str
        Who asked for it.
    """

    def __init__(self, ledger: Ledger, plan: Plan, actor: str) -> None:
        self._ledger = ledger
        models = sum(len(segments) for segments in plan.levels)
        record = ledger.create_run(
            kind=KIND,
            fleet=plan.spec.fleet,
            version=None,
            spec=plan.spec.document(),
            inputs=plan.rows.inputs,
            shards=[ShardPlan(number=0, source={"models": models, _OWNER: this_worker()})],
            actor=actor,
        )
        self.id = record.id
        self._source_rows = plan.rows.source_rows
        self._snapshot: SnapshotRecord | None = None
        ledger.transition(self.id, RunState.RUNNING)
        self._claim: ShardClaim = ledger.claim(self.id, owner=this_worker(), lease_s=_LEASE_S)[0]

    def commit(self, decisions: Mapping[Decision, int], *, fallback: bool) -> None:
        """Record the outcomes; from here on the fleet is being registered.

        Parameters
        ----------
        decisions : mapping of Decision to int
            How many models met each.
        fallback : bool
            Whether a coarser model answers for those that have none.
        """
        without = decisions[Decision.FALLBACK] + decisions[Decision.TOO_FEW_ROWS]
        counts = Counts(
            rows=sum(decisions.values()),
            scored=decisions[Decision.KEPT],
            fallback=without if fallback else 0,
            no_model=0 if fallback else without,
            failed=decisions[Decision.FAILED],
        )
        part = {decision.value: count for decision, count in decisions.items()}
        self._ledger.finish(self._claim, counts, self._source_rows, part)
        self._ledger.transition(self.id, RunState.COMMITTING)

    def registered(self, snapshot: SnapshotRecord) -> None:
        """From here on the snapshot is there, whatever else goes wrong."""
        self._snapshot = snapshot

    def succeed(self) -> None:
        """All is done."""
        self._ledger.transition(self.id, RunState.SUCCEEDED)

    def end(self, error: BaseException) -> None:
        """Record why it did not come to an end; never raises, so that the user sees ``error`` itself."""
        text = str(error) or type(error).__name__
        if self._snapshot is not None:
            text = f"{text} ({self._snapshot.reference} is registered all the same)"
            _log.warning("%s is registered although its training did not come to an end", self._snapshot.reference)
        try:
            running = self._ledger.run(self.id).state is RunState.RUNNING
            cancelled = isinstance(error, KeyboardInterrupt) and running
            self._ledger.transition(self.id, RunState.CANCELLED if cancelled else RunState.FAILED, error=text)
        except ShoalError as trouble:
            _log.warning("the end of run %s could not be recorded: %s", self.id, trouble)


def clear_dead_runs(ledger: Ledger, folder: Path) -> None:
    """Fail the trainings whose process is gone, and remove the rows they left in ``folder``."""
    for run in _unfinished(ledger):
        owners = _owners(ledger, run)
        if owners and all(is_gone(owner) for owner in owners):
            try:
                ledger.transition(run.id, RunState.FAILED, error=_fate(run))
            except Conflict:
                continue  # somebody else was first
            shutil.rmtree(folder / run.id, ignore_errors=True)


def _unfinished(ledger: Ledger) -> Iterator[RunRecord]:
    for state in (RunState.PLANNED, RunState.RUNNING, RunState.COMMITTING):
        yield from ledger.runs(state=state, kind=KIND, limit=1000)


def _owners(ledger: Ledger, run: RunRecord) -> set[str]:
    """Who works or worked on it, also before its shard was claimed and after it was done."""
    shards = ledger.shards(run.id)
    named = [owner for shard in shards for owner in (shard.owner, shard.source.get(_OWNER))]
    return {owner for owner in named if isinstance(owner, str)}


def _fate(run: RunRecord) -> str:
    if run.state is RunState.COMMITTING:
        return (
            f"its process ended while the fleet was being registered; `shoal fleets show {run.fleet}` lists its "
            "snapshot if that was done, else train again"
        )
    return "its process ended; train again"
