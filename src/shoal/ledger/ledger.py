"""The ledger: which runs there are, who works on which of their shards, and what became of every row."""

import datetime as dt
from collections.abc import Mapping, Sequence

from shoal.errors import Conflict
from shoal.jobs.states import RunState
from shoal.ledger import runs, shards
from shoal.ledger.owners import is_gone
from shoal.ledger.predictions import Predictions
from shoal.ledger.records import Reconciliation, RunRecord, RunTotals, ShardClaim, ShardPlan, ShardRecord
from shoal.storage.sql import Database
from shoal.types import Counts, InputFile, Json

MOST_ATTEMPTS = 5
"""Workers may fall silent on a shard this often before it counts as failed."""


class Ledger:
    """The durable truth about runs. It is also their queue: workers claim shards from it.

    Safe for threads and for any number of processes. Every method is one transaction. All methods raise
    :class:`~shoal.errors.StorageError` when the database cannot be reached or the disk is full; nothing is changed
    then.

    Parameters
    ----------
    database : Database
        Migrated.

    Attributes
    ----------
    predictions : Predictions
        What is kept of single predictions, and the queue of those that nobody waits for.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.predictions = Predictions(database)

    def create_run(
        self,
        *,
        kind: str,
        fleet: str,
        version: int | None,
        spec: Mapping[str, Json],
        inputs: Sequence[InputFile],
        shards: Sequence[ShardPlan],
        actor: str,
        expires_at: dt.datetime | None = None,
        resumes: str | None = None,
    ) -> RunRecord:
        """Add a planned run with its pinned input and its shards, all pending.

        Raises
        ------
        InvalidInput
            Two shards have the same number.
        NotFound
            The run to be resumed does not exist.
        """
        with self._database.write() as connection:
            return runs.create(
                connection, kind=kind, fleet=fleet, version=version, spec=spec, inputs=inputs, plans=shards,
                actor=actor, at=self._database.now(connection), expires_at=expires_at, resumes=resumes,
            )  # fmt: skip

    def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises
        ------
        NotFound
            There is no such run.
        """
        with self._database.read() as connection:
            return runs.one(connection, run_id)

    def runs(
        self, *, state: RunState | None = None, fleet: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """The newest runs, newest first, filtered.

        Raises
        ------
        InvalidInput
            There is no such state, or the limit is none.
        """
        with self._database.read() as connection:
            return runs.listed(connection, state=state, fleet=fleet, kind=kind, limit=limit)

    def inputs(self, run_id: str) -> list[InputFile]:
        """The files that a run has pinned, in the order it named them.

        Raises
        ------
        NotFound
            There is no such run.
        """
        with self._database.read() as connection:
            return runs.inputs_of(connection, run_id)

    def shards(self, run_id: str) -> list[ShardRecord]:
        """A run's shards by number.

        Raises
        ------
        NotFound
            There is no such run.
        """
        with self._database.read() as connection:
            return shards.of_run(connection, run_id)

    def transition(self, run_id: str, to: RunState, *, error: str | None = None) -> RunRecord:
        """Move a run to another state; ``error`` says why it failed.

        Raises
        ------
        NotFound
            There is no such run.
        Conflict
            The run cannot go there from where it stands, has expired, or is to commit while shards are not done or
            rows do not reconcile.
        """
        with self._database.write() as connection:
            moved = runs.transition(connection, run_id, to, error=error, at=self._database.now(connection))
            if to is RunState.COMMITTING:
                _require_complete(shards.reconcile(connection, run_id))
            return moved

    def claim(
        self, run_id: str, *, owner: str, lease_s: float, limit: int = 1, most_attempts: int = MOST_ATTEMPTS
    ) -> list[ShardClaim]:
        """Take up to ``limit`` shards that wait or whose worker fell silent; lowest numbers first.

        Parameters
        ----------
        run_id : str
            A running run. Of a run that failed, commits or has ended, nothing is given out.
        owner : str
            Who takes them; unique among all workers, e.g. :func:`shoal.ledger.owners.this_worker`.
        lease_s : float
            Seconds until others may take them over; renew before that. At most an hour.
        limit : int
            How many at most.
        most_attempts : int
            A shard whose workers fell silent this often is failed instead of given out again.

        Raises
        ------
        NotFound
            There is no such run.
        Conflict
            The run was not started.
        InvalidInput
            The lease is too long or not positive.
        """
        with self._database.write() as connection:
            return shards.claim(
                connection, run_id, owner=owner, now=self._database.now(connection), lease_s=lease_s, limit=limit,
                most_attempts=most_attempts,
            )  # fmt: skip

    def renew(self, claims: Sequence[ShardClaim], lease_s: float) -> list[ShardClaim]:
        """Make leases last ``lease_s`` seconds from now; what is missing in the answer was lost.

        Raises
        ------
        InvalidInput
            The lease is too long or not positive.
        """
        with self._database.write() as connection:
            return shards.renew(connection, claims, now=self._database.now(connection), lease_s=lease_s)

    def release(self, claim: ShardClaim) -> None:
        """Give a shard back untouched.

        Raises
        ------
        LeaseLost
            Another worker holds the shard, or it is settled; nothing was changed.
        """
        with self._database.write() as connection:
            shards.release(connection, claim)

    def finish(self, claim: ShardClaim, counts: Counts, source_rows: int, part: Mapping[str, Json]) -> None:
        """Record what became of a shard's rows. Happens once, whoever else worked on the shard.

        A claim whose lease ran out may still finish as long as nobody took the shard over.

        Parameters
        ----------
        claim : ShardClaim
            The claim.
        counts : Counts
            Rows after preprocessing and their outcomes.
        source_rows : int
            Rows read, before preprocessing.
        part : mapping
            What the commit needs to know, such as the staged file and its digest.

        Raises
        ------
        LeaseLost
            Another worker holds the shard, or it is settled; nothing was changed.
        InvalidInput
            The outcomes do not add up to the rows.
        """
        with self._database.write() as connection:
            shards.finish(connection, claim, counts, source_rows, part)

    def fail(self, claim: ShardClaim, error: str, *, retry: bool) -> None:
        """Give a shard back because of an error, to be tried again or for good.

        Raises
        ------
        LeaseLost
            Another worker holds the shard, or it is settled; nothing was changed.
        """
        with self._database.write() as connection:
            shards.fail(connection, claim, error, retry=retry)

    def owners(self, run_id: str) -> list[str]:
        """Who holds shards of a run now."""
        with self._database.read() as connection:
            return shards.owners(connection, run_id)

    def release_owner(self, run_id: str, owner: str) -> int:
        """Give back the shards of an owner known to be gone, without waiting for its leases; how many there were."""
        with self._database.write() as connection:
            return shards.release_owner(connection, run_id, owner)

    def release_gone(self, run_id: str) -> int:
        """Give back the shards whose owners were processes of this machine that run no more; how many there were."""
        return sum(self.release_owner(run_id, owner) for owner in self.owners(run_id) if is_gone(owner))

    def retry_failed(self, run_id: str) -> int:
        """Make a run's failed shards wait again; how many there were."""
        with self._database.write() as connection:
            return shards.retry_failed(connection, run_id)

    def totals(self, run_id: str) -> RunTotals:
        """What a run has done so far.

        Raises
        ------
        NotFound
            There is no such run.
        """
        with self._database.read() as connection:
            return shards.totals(connection, run_id)

    def reconcile(self, run_id: str) -> Reconciliation:
        """Compare rows with outcomes, per shard and over all; the answer says what differs.

        A run that does not reconcile cannot begin to commit, so nobody has to remember to call this.

        Raises
        ------
        NotFound
            There is no such run.
        """
        with self._database.read() as connection:
            return shards.reconcile(connection, run_id)

    def expire_overdue(self) -> list[RunRecord]:
        """End the runs whose time to be resumed is over, and give them back."""
        with self._database.write() as connection:
            at = self._database.now(connection)
            return [
                runs.transition(connection, run_id, RunState.EXPIRED, error="nobody resumed it in time", at=at)
                for run_id in runs.overdue(connection, at)
            ]

    def pinned(self) -> set[tuple[str, int]]:
        """Fleet and version that runs which may still go on have pinned; garbage collection keeps them."""
        with self._database.read() as connection:
            return runs.pinned(connection)


def _require_complete(report: Reconciliation) -> None:
    """Refuse to commit what is not whole; raising undoes the transition."""
    totals = report.totals
    if not totals.complete:
        standing = ", ".join(f"{count} {state}" for state, count in totals.shards.items() if count)
        raise Conflict(
            f"run {totals.run_id} cannot commit, not all of its shards are done: {standing}; finish them first"
        )
    if not report.balanced:
        raise Conflict(
            f"run {totals.run_id} cannot commit, its ledger does not reconcile: " + "; ".join(report.differences)
        )
