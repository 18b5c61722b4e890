"""Predictions that are kept: asked for without waiting, or committed before they are answered."""

import datetime as dt
import time
from collections.abc import Collection, Sequence
from typing import Final

from shoal.errors import Conflict
from shoal.jobs.states import PredictionState
from shoal.ledger import prediction_intake as intake
from shoal.ledger import prediction_listings as listings
from shoal.ledger import prediction_queue as queue
from shoal.ledger import prediction_retention as retention
from shoal.ledger import stored
from shoal.ledger.owners import is_gone
from shoal.ledger.prediction_records import (
    Acceptance,
    Backlog,
    NewPrediction,
    PredictionClaim,
    PredictionKind,
    PredictionRecord,
    PredictionResult,
    Sweep,
    Turn,
    Wanted,
)
from shoal.storage.filters import moment
from shoal.storage.sql import Database

_LOOK_S: Final = 0.05
"""Seconds between two looks of somebody who waits."""


class Predictions:
    """The part of the ledger that is about predictions. It is also their queue: workers claim them from it.

    Safe for threads and for any number of processes. Every method is one transaction. All methods raise
    :class:`~shoal.errors.StorageError` when the database cannot be reached or the disk is full; nothing is changed
    then.

    Parameters
    ----------
    database : Database
        Migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def accept(self, new: Sequence[NewPrediction], *, keep_s: float | None = None) -> list[str | Conflict]:
        """Keep predictions, all in one transaction: when this returns they survive a power cut.

        Parameters
        ----------
        new : sequence of NewPrediction
            Those without an answer or with a sink wait for a worker, in this order.
        keep_s : float, optional
            How long those are kept that need no worker, in seconds; for ever unless told.

        Returns
        -------
        list of str or Conflict
            Their ids; of one whose idempotency key is known, that of the prediction that has it, or a conflict if that
            one asked something else.
        """
        with self._database.write() as connection:
            kept = intake.accept(connection, new, at=self._database.now(connection), forget_s=keep_s)
        return [one if isinstance(one, Conflict) else one.id for one in kept]

    def known(self, new: NewPrediction) -> Acceptance | None:
        """The prediction that has the idempotency key of another, which may be accepted no more; None if none has.

        Raises
        ------
        Conflict
            It asked something else.
        """
        with self._database.read() as connection:
            found = intake.known(connection, new, at=self._database.now(connection))
        if isinstance(found, Conflict):
            raise found
        return found

    def store(self, new: Sequence[NewPrediction]) -> list[str | Conflict]:
        """Keep results that need no worker, for ever or as long as they say; quicker than :meth:`accept`.

        Parameters
        ----------
        new : sequence of NewPrediction
            Each with an answer and an idempotency key, and without a sink.

        Returns
        -------
        list of str or Conflict
            As :meth:`accept` gives.
        """
        with self._database.write_once() as connection:
            kept = stored.store(connection, new, at=self._database.known_now())
        taken = [one for one, found in zip(new, kept, strict=True) if found is None]
        there = iter(self.accept(taken) if taken else [])
        return [next(there) if found is None else found for found in kept]

    def claim(
        self, fleets: Collection[str], *, owner: str, lease_s: float, limit: int, suspects: bool = False
    ) -> list[PredictionClaim]:
        """Take predictions that wait or whose worker fell silent, the oldest first.

        Of those with the same ordering key only the first that is not settled is given out.

        Parameters
        ----------
        fleets : collection of str
            Only predictions of these, however many they are.
        owner : str
            Who takes them; unique among all workers.
        lease_s : float
            Seconds until others may take them over; renew before that.
        limit : int
            How many at most.
        suspects : bool
            Instead, one prediction whose workers fell silent again and again; let it run alone.

        Raises
        ------
        InvalidInput
            The lease is too long or not positive.
        """
        with self._database.read() as connection:
            if not queue.is_work(connection, fleets, now=self._database.now(connection), suspects=suspects):
                return []
        with self._database.write() as connection:
            return queue.claim(
                connection, fleets, owner=owner, now=self._database.now(connection), lease_s=lease_s, limit=limit,
                suspects=suspects,
            )  # fmt: skip

    def renew(self, claims: Sequence[PredictionClaim], *, lease_s: float) -> set[int]:
        """Make leases last ``lease_s`` seconds from now; the numbers of those that were still held.

        Raises
        ------
        InvalidInput
            The lease is too long or not positive.
        """
        with self._database.write() as connection:
            return queue.renew(connection, claims, now=self._database.now(connection), lease_s=lease_s)

    def settle(self, results: Sequence[PredictionResult], *, keep_s: float, lease_s: float) -> set[int]:
        """Write what became of claimed predictions, each once, whoever else worked on it.

        Parameters
        ----------
        results : sequence of PredictionResult
            What became of them. What failed for the last time that it may goes to the dead-letter list instead of
            back to its place.
        keep_s : float
            How long what ended is kept, in seconds.
        lease_s : float
            How long those stay held that are to be gone on with, in seconds.

        Returns
        -------
        set of int
            The numbers of those that were still held; the others are as others left them.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            return queue.settle(connection, results, now=now, keep_s=keep_s, lease_s=lease_s)

    def turn(
        self,
        results: Sequence[PredictionResult],
        new: Sequence[NewPrediction],
        wanted: Wanted | None,
        *,
        keep_s: float,
        lease_s: float,
    ) -> Turn:
        """Settle, accept and claim in one transaction: the disk is flushed once for all of it.

        Parameters
        ----------
        results : sequence of PredictionResult
            See :meth:`settle`.
        new : sequence of NewPrediction
            See :meth:`accept`.
        wanted : Wanted or None
            See :meth:`claim`; what is accepted in the same turn may be among what is claimed.
        keep_s, lease_s : float
            As for :meth:`settle`.

        Raises
        ------
        InvalidInput
            A lease is too long or not positive.
        """
        if not results and not new and (wanted is None or not self._is_work(wanted)):
            return Turn(settled=set(), accepted=[], claims=[])
        with self._database.write() as connection:
            now = self._database.now(connection)
            settled = queue.settle(connection, results, now=now, keep_s=keep_s, lease_s=lease_s) if results else set()
            accepted = intake.accept(connection, new, at=now, forget_s=keep_s) if new else []
            claims = [] if wanted is None else queue.claim(
                connection, wanted.fleets, owner=wanted.owner, now=now, lease_s=wanted.lease_s, limit=wanted.limit,
                suspects=False, full_sinks=wanted.full_sinks,
            )  # fmt: skip
            return Turn(settled=settled, accepted=accepted, claims=claims)

    def _is_work(self, wanted: Wanted) -> bool:
        with self._database.read() as connection:
            return queue.is_work(
                connection, wanted.fleets, now=self._database.now(connection), suspects=False,
                full_sinks=wanted.full_sinks,
            )  # fmt: skip

    def sweep(self, *, keep_s: float) -> Sweep:
        """Discard what came too late, give up what only kills its workers, forget what was kept long enough.

        Parameters
        ----------
        keep_s : float
            How long what ends by this is kept, in seconds.

        Returns
        -------
        Sweep
            What waited or was being worked on, and how many were discarded and given up.
        """
        with self._database.read() as connection:
            began_s = time.monotonic()
            now = self._database.now(connection)
            needed = queue.sweep_needed(connection, now=now)
            gone = [owner for owner in queue.owners(connection) if is_gone(owner)]
            backlog = queue.backlog(connection, now=now)
            look_s = time.monotonic() - began_s
        if not needed and not gone:
            return Sweep(backlog=backlog, look_s=look_s)
        with self._database.write() as connection:
            now = self._database.now(connection)
            for owner in gone:
                queue.end_leases(connection, owner, now=now)
            expired, failed = queue.sweep(connection, now=now, keep_s=keep_s)
        return Sweep(backlog=backlog, look_s=look_s, expired=expired, failed=failed)

    def settled_among(self, ids: Collection[str]) -> set[str]:
        """Those of the ids that are settled, or are not there any more.

        Raises
        ------
        NotFound
            A text is no id.
        """
        with self._database.read() as connection:
            return queue.settled_among(connection, ids)

    def one(self, prediction_id: str) -> PredictionRecord:
        """A prediction, with what was asked and answered.

        Raises
        ------
        NotFound
            There is none of this id.
        """
        with self._database.read() as connection:
            return listings.one(connection, prediction_id)

    def wait(self, prediction_id: str, *, timeout_s: float) -> PredictionRecord:
        """A prediction as soon as it is settled, by whatever process, or as it stands when the time is over.

        Parameters
        ----------
        prediction_id : str
            Which.
        timeout_s : float
            How long to wait, in seconds.

        Raises
        ------
        NotFound
            There is none of this id.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s and prediction_id not in self.settled_among({prediction_id}):
            time.sleep(min(_LOOK_S, max(0.0, until_s - time.monotonic())))
        return self.one(prediction_id)

    def many(self, ids: Sequence[str]) -> list[PredictionRecord]:
        """Predictions with what was asked and answered, in the order given; those that are not there are left out.

        Raises
        ------
        NotFound
            A text is no id.
        """
        with self._database.read() as connection:
            return listings.many(connection, ids)

    def of_request(self, request_id: str, *, principal: str | None = None, limit: int = 100) -> list[PredictionRecord]:
        """The newest durable results of a request, newest first, with what was asked and answered.

        Parameters
        ----------
        request_id : str
            As the caller gave it, or was told it; callers may have used it several times.
        principal : str, optional
            Only what was asked in this name.
        limit : int
            How many at most.

        Raises
        ------
        InvalidInput
            The limit is none.
        """
        with self._database.read() as connection:
            return listings.of_request(connection, request_id, principal=principal, limit=limit)

    def listed(
        self,
        *,
        state: PredictionState | None = None,
        kind: PredictionKind | None = None,
        fleet: str | None = None,
        principal: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 50,
    ) -> list[PredictionRecord]:
        """The newest predictions, newest first, filtered; without what was asked and answered.

        Parameters
        ----------
        state, kind, fleet, principal : PredictionState, PredictionKind, str, str, optional
            Only those.
        since, until : datetime, optional
            Only those that were accepted then or later, and before; aware.
        limit : int
            How many at most.

        Raises
        ------
        InvalidInput
            There is no such state or kind, a time has no zone, or the limit is none.
        """
        with self._database.read() as connection:
            return listings.listed(
                connection, state=state, kind=kind, fleet=fleet, principal=principal, since=since, until=until,
                limit=limit,
            )  # fmt: skip

    def purge(self, fleet: str, *, before: dt.datetime) -> int:
        """Forget the durable results of a fleet that are older and need no worker any more; how many there were.

        Parameters
        ----------
        fleet : str
            Whose.
        before : datetime
            Those that were accepted before this; aware.

        Raises
        ------
        InvalidInput
            The time has no zone.
        """
        gone, before = 0, moment("before", before)
        while True:
            with self._database.write() as connection:  # in steps, so that others can write in between
                some = retention.purge(connection, fleet, before=before)
            gone += some
            if some < retention.FORGET_AT_ONCE:
                return gone

    def backlog(self) -> Backlog:
        """What waits or is being worked on."""
        with self._database.read() as connection:
            return queue.backlog(connection, now=self._database.now(connection))

    def replay(self, prediction_id: str, *, more_attempts: int = 5) -> PredictionRecord:
        """Let a prediction that failed or came too late wait again, at its place and without a deadline.

        Raises
        ------
        NotFound
            There is none of this id.
        Conflict
            It neither failed nor expired.
        """
        with self._database.write() as connection:
            queue.replay(connection, prediction_id, more_attempts=more_attempts)
            return listings.one(connection, prediction_id)

    def replay_failed(self, *, fleet: str | None = None, more_attempts: int = 5) -> int:
        """Let all failed predictions, or those of one fleet, wait again; how many there were."""
        with self._database.write() as connection:
            return queue.replay_failed(connection, fleet=fleet, more_attempts=more_attempts)
