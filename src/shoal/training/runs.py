"""Trainings in the ledger: one run, one shard, and one outcome per model."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from shoal.errors import Conflict
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, ShardClaim, ShardPlan, is_gone, this_worker
from shoal.training.decision import Decision
from shoal.training.plan import Plan
from shoal.types import Counts

KIND = "train"
_LEASE_S = 3600.0


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
            shards=[ShardPlan(number=0, source={"models": models})],
            actor=actor,
        )
        self.id = record.id
        self._source_rows = plan.rows.source_rows
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

    def succeed(self) -> None:
        """The fleet is registered."""
        self._ledger.transition(self.id, RunState.SUCCEEDED)

    def end(self, error: BaseException) -> None:
        """Record why it did not come to an end."""
        cancelled = isinstance(error, KeyboardInterrupt)
        running = self._ledger.run(self.id).state is RunState.RUNNING
        state = RunState.CANCELLED if cancelled and running else RunState.FAILED
        self._ledger.transition(self.id, state, error=str(error) or type(error).__name__)


def clear_dead_runs(ledger: Ledger, folder: Path) -> None:
    """Fail the trainings whose process is gone, and remove the rows they left in ``folder``."""
    for run in ledger.runs(state=RunState.RUNNING, kind=KIND, limit=1000):
        owners = ledger.owners(run.id)
        if owners and all(is_gone(owner) for owner in owners):
            try:
                ledger.transition(run.id, RunState.FAILED, error="its process ended; train again")
            except Conflict:
                continue  # somebody else was first
            shutil.rmtree(folder / run.id, ignore_errors=True)
