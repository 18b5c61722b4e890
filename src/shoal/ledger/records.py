"""What the ledger keeps, as values."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from shoal.jobs.states import RunState, ShardState
from shoal.types import Counts, Json


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One execution of a job.

    Attributes
    ----------
    id : str
        E.g. ``20261121-044012-x7f3``; sorts by the time of its creation.
    kind : str
        What it does, e.g. ``score`` or ``train``.
    fleet : str
        Name of the fleet; empty when it works on none that is registered.
    version : int or None
        The snapshot that it has pinned.
    spec : mapping
        What it was told to do.
    state : RunState
        Where it stands.
    actor : str
        Who asked for it.
    created_at, started_at, ended_at : datetime or None
        UTC; ``started_at`` is when it first ran, ``ended_at`` when it last failed or ended.
    expires_at : datetime or None
        When it may no longer be resumed.
    error : str or None
        Why it failed.
    resumes : str or None
        The earlier run that it takes up again.
    """

    id: str
    kind: str
    fleet: str
    version: int | None
    spec: Mapping[str, Json]
    state: RunState
    actor: str
    created_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    expires_at: dt.datetime | None
    error: str | None
    resumes: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """A shard to be done.

    Attributes
    ----------
    number : int
        From 0; shards are claimed in this order.
    source : mapping
        Which rows it stands for, in the planner's words.
    """

    number: int
    source: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """A shard as the ledger knows it.

    Attributes
    ----------
    run_id : str
        Its run.
    number : int
        From 0.
    source : mapping
        Which rows it stands for.
    state : ShardState
        Where it stands.
    owner : str or None
        Who holds or last held it.
    lease_until : datetime or None
        Until when its owner is believed to be at work, UTC.
    attempts : int
        How often it was claimed.
    source_rows : int
        Rows read for it, before preprocessing; 0 until it is done.
    counts : Counts
        Rows after preprocessing and their outcomes; all 0 until it is done.
    part : mapping or None
        What its worker left for the commit, such as the staged file; None until it is done.
    error : str or None
        What last went wrong with it.
    """

    run_id: str
    number: int
    source: Mapping[str, Json]
    state: ShardState
    owner: str | None
    lease_until: dt.datetime | None
    attempts: int
    source_rows: int
    counts: Counts
    part: Mapping[str, Json] | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardClaim:
    """The right to work on a shard, while its lease lasts or nobody else has claimed it since.

    Attributes
    ----------
    run_id : str
        The run.
    number : int
        The shard.
    source : mapping
        Which rows it stands for.
    owner : str
        Who holds it.
    attempt : int
        Counts the claims of this shard from 1; it tells this claim from an earlier one of the same owner.
    lease_until : datetime
        When others may take it over, UTC, by the database's clock.
    """

    run_id: str
    number: int
    source: Mapping[str, Json]
    owner: str
    attempt: int
    lease_until: dt.datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTotals:
    """What a run has done so far.

    Attributes
    ----------
    run_id : str
        The run.
    source_rows : int
        Rows read, before preprocessing.
    counts : Counts
        Rows after preprocessing and their outcomes, over the shards that are done.
    shards : mapping of ShardState to int
        How many shards stand where; every state is there.
    """

    run_id: str
    source_rows: int
    counts: Counts
    shards: Mapping[ShardState, int]

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return all(count == 0 for state, count in self.shards.items() if state is not ShardState.DONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciliation:
    """Whether every row of a run met exactly one outcome, per shard and over all.

    Attributes
    ----------
    totals : RunTotals
        The run's sums.
    input_rows : int or None
        Rows of the input files as they were counted at the start; None where nobody counted them. Beside
        ``totals.source_rows`` it shows how many rows were never read, e.g. because of a filter on dates.
    differences : tuple of str
        What does not add up, shard by shard, in plain words; empty when the ledger reconciles.
    """

    totals: RunTotals
    input_rows: int | None
    differences: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Whether the ledger reconciles."""
        return not self.differences
