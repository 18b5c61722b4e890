"""The lives of runs, shards and predictions, as tables: which state may follow which.

A run that failed may run again (it then does only what is not done). A run that is committing stays so when its
process dies: whoever resumes it asks the output whether the commit happened.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

from shoal.errors import Conflict


class RunState(enum.StrEnum):
    """Where a run stands."""

    PLANNED = "planned"
    RUNNING = "running"
    COMMITTING = "committing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class ShardState(enum.StrEnum):
    """Where a shard stands."""

    PENDING = "pending"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"


class PredictionState(enum.StrEnum):
    """Where a prediction stands that is kept: one asked for without waiting, or a durable one, which is born done."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    """In the dead-letter list: its error says why."""
    EXPIRED = "expired"
    """Discarded: its deadline passed."""


RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.PLANNED: frozenset({RunState.RUNNING, RunState.FAILED, RunState.CANCELLED, RunState.EXPIRED}),
    RunState.RUNNING: frozenset({RunState.COMMITTING, RunState.FAILED, RunState.CANCELLED, RunState.EXPIRED}),
    RunState.COMMITTING: frozenset({RunState.SUCCEEDED, RunState.FAILED}),
    RunState.FAILED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.EXPIRED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.EXPIRED: frozenset(),
}

SHARD_TRANSITIONS: Mapping[ShardState, frozenset[ShardState]] = {
    ShardState.PENDING: frozenset({ShardState.CLAIMED}),
    ShardState.CLAIMED: frozenset({ShardState.CLAIMED, ShardState.PENDING, ShardState.DONE, ShardState.FAILED}),
    ShardState.FAILED: frozenset({ShardState.PENDING}),
    ShardState.DONE: frozenset(),
}

PREDICTION_TRANSITIONS: Mapping[PredictionState, frozenset[PredictionState]] = {
    PredictionState.WAITING: frozenset({PredictionState.CLAIMED, PredictionState.EXPIRED}),
    PredictionState.CLAIMED: frozenset(PredictionState),
    PredictionState.FAILED: frozenset({PredictionState.WAITING}),
    PredictionState.EXPIRED: frozenset({PredictionState.WAITING}),
    PredictionState.DONE: frozenset(),
}

FINAL_RUN_STATES = frozenset(state for state, following in RUN_TRANSITIONS.items() if not following)
"""States that a run never leaves."""

ACTIVE_RUN_STATES = frozenset(RunState) - FINAL_RUN_STATES
"""States in which a run still needs its snapshot."""

State = TypeVar("State", RunState, ShardState, PredictionState)


def require_transition(
    transitions: Mapping[State, frozenset[State]], before: State, after: State, *, what: str
) -> None:
    """Refuse a step that the table does not have.

    Raises
    ------
    Conflict
        Names what stands where, and the states it may go to.
    """
    following = transitions[before]
    if after in following:
        return
    choices = ", ".join(sorted(following)) or "nothing: it has ended"
    raise Conflict(f"{what} is {before} and cannot become {after}; what may follow is {choices}")
