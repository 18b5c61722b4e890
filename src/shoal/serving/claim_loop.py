"""The loop in which a process accepts predictions, claims them, has them answered, and settles them.

All writing is done in turns: one transaction settles what is done, takes in what has come meanwhile, and claims what
comes next, so that the disk is flushed once for all of it. Nobody waits for company: a turn takes what there is. One
thread per process talks to the database; claims run as tasks of the event loop, side by side, so that the batcher makes
one kernel call of many.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from shoal.errors import LeaseLost, NotReady, ShoalError, StorageError
from shoal.jobs.states import PredictionState
from shoal.ledger import this_worker
from shoal.ledger.prediction_records import (
    Acceptance,
    Backlog,
    NewPrediction,
    PredictionClaim,
    PredictionResult,
    Wanted,
)
from shoal.ledger.predictions import Predictions
from shoal.serving.acceptances import Acceptances
from shoal.serving.attempts import Attempts, given_back
from shoal.serving.contact import LOOK_S
from shoal.serving.deferred_options import DeferredCounts, DeferredOptions
from shoal.serving.deliveries import Deliveries
from shoal.serving.payloads import encode_response
from shoal.serving.plane import DataPlane
from shoal.serving.sink_kinds import Delivery
from shoal.serving.sinks import Sinks
from shoal.serving.waiters import Waiters

Result = TypeVar("Result")

_LAST_TURN_S: Final = 1.0
_PAUSE: Final = 0.25
"""How long to wait between two turns, as a share of what the last one took."""
_LONGEST_PAUSE_S: Final = 0.01
_REST: Final = 10.0
"""How long not to look again what waits, as a multiple of how long that took: the more waits the longer it takes."""

_log = logging.getLogger("shoal.serving")


class ClaimLoop:
    """Works on predictions in one event loop.

    Parameters
    ----------
    plane : DataPlane
        What answers.
    predictions : Predictions
        Where they are kept.
    sinks : Sinks
        Where results may go.
    waiters : Waiters
        Who wants to know when one is settled.
    options : DeferredOptions
        How.

    Attributes
    ----------
    backlog : Backlog
        What waited or was being worked on when that was last looked at, and what was accepted here since.
    counts : DeferredCounts
        What was done.
    """

    def __init__(
        self, plane: DataPlane, predictions: Predictions, sinks: Sinks, waiters: Waiters, options: DeferredOptions
    ) -> None:
        self._plane = plane
        self._predictions = predictions
        self._waiters = waiters
        self._options = options
        self._owner = this_worker(f"predictions-{secrets.token_hex(4)}")
        self._deliveries = Deliveries(sinks, self._keep)
        self._attempts = Attempts(plane, self._deliveries, options)
        self._database = ThreadPoolExecutor(1, thread_name_prefix="shoal-predictions")
        self._acceptances = Acceptances()
        self._results: list[tuple[PredictionResult, asyncio.Future[bool] | None]] = []
        self._held: dict[int, tuple[PredictionClaim, asyncio.Task[None]]] = {}
        self._suspect: PredictionClaim | None = None
        self._wake = asyncio.Event()
        self._look = self._claiming = True
        self._closed = False
        self._due_s = {"poll": 0.0, "sweep": 0.0, "renew": 0.0}
        self._task: asyncio.Task[None] | None = None
        self._is_broken = False
        self._is_unwritable = False
        self._looked_s = 0.0
        self.backlog = Backlog()
        self.counts = DeferredCounts()

    def oldest_s(self) -> float:
        """How long the first of those that wait has waited, in seconds, also while nobody looks."""
        backlog = self.backlog
        return backlog.oldest_s + time.monotonic() - self._looked_s if backlog.oldest_s else 0.0

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    def look(self) -> None:
        """Something may be there to be claimed."""
        self._look = True
        self._wake.set()

    def stop_claiming(self) -> None:
        """Take on nothing more."""
        self._claiming = False

    async def drain(self, timeout_s: float) -> None:
        """Finish what is being worked on, give back what takes longer, and stop.

        A database that hangs is not waited for: what could not be given back to it comes back by its lease.
        """
        until_s = time.monotonic() + timeout_s
        self._claiming = False
        working = [task for _, task in self._held.values()]
        if working:
            _, late = await asyncio.wait(working, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        self._closed = True
        self._wake.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=max(_LAST_TURN_S, until_s - time.monotonic()))
            for task in done:
                task.result()
        self._acceptances.cancel()
        self._database.shutdown(wait=False)

    def accept(self, new: NewPrediction) -> "asyncio.Future[Acceptance]":
        """Keep a prediction with the next turn.

        Returns
        -------
        Future of Acceptance
            Which it is, once it survives a power cut. Raises what :meth:`Predictions.accept` says or raises.

        Raises
        ------
        NotReady
            The server ends.
        """
        if self._closed or self._task is None:
            raise NotReady("the server ends; ask another" if self._closed else "the server is starting; try again")
        self._wake.set()
        return self._acceptances.add(new)

    async def _run(self) -> None:
        while not (self._closed and not self._results and not self._acceptances):
            try:
                await self._round()
            except ShoalError as error:
                self._trouble(error)
                if self._closed:
                    return
                await asyncio.sleep(self._options.poll_s)
            except Exception as error:  # noqa: BLE001 - it is logged; the leases of what was held run out
                _log.exception("predictions cannot be worked on")
                self._trouble(StorageError(f"predictions cannot be kept just now ({type(error).__name__}); try again"))
                if self._closed:
                    return
                await asyncio.sleep(self._options.poll_s)

    def _trouble(self, error: ShoalError) -> None:
        """Tell those who wait for their prediction to be kept; what is to be settled waits for a better moment."""
        if not self._is_broken:
            _log.warning("predictions wait: %s", error)
        self._is_broken = True
        self._acceptances.refuse(error)

    async def _round(self) -> None:
        """Wait until there is something to do, and do it."""
        if not (self._acceptances or self._results or (self._look and self._room()) or self._closed):
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, min(self._due_s.values()) - time.monotonic()))
        started_s = time.monotonic()
        await self._chores(started_s)
        if self._acceptances or self._results or (self._look and self._room()):
            await self._turn()
            # A break lets more come together when there is much to do.
            await asyncio.sleep(min(_PAUSE * (time.monotonic() - started_s), _LONGEST_PAUSE_S))
        # A database that can only be read lets everybody look for work, and nobody take or give any.
        if self._is_broken and not self._is_unwritable:
            _log.info("predictions are worked on again")
            self._is_broken = False

    def _room(self) -> int:
        """How many predictions may be claimed; none while one that may kill the process is to run alone.

        What only waits for its sink takes no place, or a sink that hangs would hold up all that does not go there.
        """
        if not self._claiming or self._suspect is not None:
            return 0
        return max(0, self._options.batch - (len(self._held) - self._deliveries.owed.total()))

    def _full_sinks(self) -> list[str]:
        """The sinks that are owed so much that nothing more is claimed for them."""
        return [sink for sink, count in self._deliveries.owed.items() if count >= self._options.batch]

    async def _turn(self) -> None:
        """Settle, accept and claim, in one transaction."""
        room = self._room()
        wanted = None
        if room:
            wanted = Wanted(
                fleets=self._fleets(),
                owner=self._owner,
                lease_s=self._options.lease_s,
                limit=room,
                full_sinks=self._full_sinks(),
            )
        new, settling, self._results = self._acceptances.take(), self._results, []
        results = [one for one, _ in settling]
        began_s = time.monotonic()
        try:
            turn = await self._in_thread(
                lambda: self._predictions.turn(
                    results, new, wanted, keep_s=self._options.keep_s, lease_s=self._options.lease_s
                )
            )
        except BaseException:
            self._results = settling + self._results
            self._acceptances.put_back()
            self._is_unwritable |= bool(new or results)
            raise
        if new or results or turn.claims:
            self._is_unwritable = False
        if room:
            self._look = len(turn.claims) >= room
            if not (turn.claims or new or results):
                self._rest("poll", min(time.monotonic() - began_s, self._options.poll_s))
        elif new:
            self._look = True
        self._settled(settling, turn.settled)
        requests, size_bytes = self._acceptances.kept(turn.accepted)
        self.counts.accepted += requests
        self.backlog = self.backlog.more(requests, size_bytes)
        for claim in turn.claims:
            self._held[claim.number] = (claim, asyncio.create_task(self._work(claim)))

    def _settled(
        self, settling: "list[tuple[PredictionResult, asyncio.Future[bool] | None]]", settled: set[int]
    ) -> None:
        ended: list[str] = []
        for result, future in settling:
            number, is_ours = result.claim.number, result.claim.number in settled
            if future is not None and not future.done():
                future.set_result(is_ours)
            if result.state is PredictionState.CLAIMED:
                continue
            if self._holds(result.claim):
                del self._held[number]
            if self._suspect is result.claim:
                self._suspect = None
                self._due_s["sweep"] = 0.0  # there may be more of its kind
            if is_ours:
                self._count(result)
                ended.append(result.claim.id)
        if ended:
            self._look = True  # of each ordering key the next one may be claimed now
        self._waiters.settled(ended)

    def _count(self, result: PredictionResult) -> None:
        name = "retried" if result.following is PredictionState.WAITING else str(result.following)
        setattr(self.counts, name, getattr(self.counts, name) + 1)

    async def _chores(self, now_s: float) -> None:
        if self._is_due("renew", now_s, self._options.lease_s / 3):
            await self._renew()
        if self._is_due("sweep", now_s, self._options.sweep_s):
            await self._sweep()
            await self._claim_suspect()
        if self._is_due("poll", now_s, self._options.poll_s):
            self._look = True
            if ids := list(self._waiters.ids):
                self._waiters.settled(await self._in_thread(lambda: self._predictions.settled_among(ids)))
        if self._suspect is not None and not self._held:
            self._held[self._suspect.number] = (self._suspect, asyncio.create_task(self._work(self._suspect)))

    async def _sweep(self) -> None:
        """Discard what is too late, and look at what waits, wherever it was accepted."""
        swept = await self._in_thread(lambda: self._predictions.sweep(keep_s=self._options.keep_s))
        self.backlog, self._looked_s = swept.backlog, time.monotonic()
        self._rest("sweep", swept.look_s)
        self.counts.expired += swept.expired
        self.counts.failed += swept.failed

    def _rest(self, chore: str, look_s: float) -> None:
        """Do not look again soon where looking took long, e.g. past all that waits for a sink that hangs."""
        self._due_s[chore] = max(self._due_s[chore], time.monotonic() + _REST * look_s)

    def _is_due(self, chore: str, now_s: float, every_s: float) -> bool:
        if now_s < self._due_s[chore]:
            return False
        # Not all processes at the same moment, again and again.
        self._due_s[chore] = now_s + every_s * random.uniform(0.8, 1.2)  # noqa: S311
        return True

    async def _renew(self) -> None:
        """Say that this process lives; what others took over meanwhile is dropped."""
        claims = [claim for claim, _ in self._held.values()]
        if self._suspect is not None and self._suspect.number not in self._held:
            claims.append(self._suspect)
        if not claims:
            return
        held = await self._in_thread(lambda: self._predictions.renew(claims, lease_s=self._options.lease_s))
        for claim in claims:
            if claim.number not in held:
                self._lose(claim)

    def _lose(self, claim: PredictionClaim) -> None:
        if self._suspect is claim:
            self._suspect = None
        if self._holds(claim):
            self._held.pop(claim.number)[1].cancel()

    def _holds(self, claim: PredictionClaim) -> bool:
        held = self._held.get(claim.number)
        return held is not None and held[0] is claim

    async def _claim_suspect(self) -> None:
        """Take one of those whose workers fell silent again and again; it waits until nothing else runs here."""
        if not self._claiming or self._suspect is not None:
            return
        claims = await self._in_thread(
            lambda: self._predictions.claim(
                self._fleets(), owner=self._owner, lease_s=self._options.lease_s, limit=1, suspects=True
            )
        )
        self._suspect = claims[0] if claims else None

    def _fleets(self) -> list[str]:
        return [entry.name for entry in self._plane.index(ready=True)]

    async def _work(self, claim: PredictionClaim) -> None:
        """Have a prediction answered, and its answer delivered."""
        try:
            result = await self._attempts.result(claim)
        except asyncio.CancelledError:
            result = given_back(claim)
        except LeaseLost:
            self._lose(claim)
            return
        if self._holds(claim):
            self._results.append((result, None))
            self._wake.set()

    async def _keep(self, deliveries: list[Delivery], name: str | None) -> set[int]:
        """Write down answers before a sink gets them; the numbers of those that are still ours."""
        loop = asyncio.get_running_loop()
        futures: list[tuple[int, asyncio.Future[bool]]] = []
        for one in deliveries:
            result = PredictionResult(
                claim=one.claim,
                state=PredictionState.CLAIMED,
                answer=encode_response(one.response),
                delivery=name,
                durable=one.durable,
            )
            future: asyncio.Future[bool] = loop.create_future()
            self._results.append((result, future))
            futures.append((one.claim.number, future))
        self._wake.set()
        return {number for number, future in futures if await future}

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        running = asyncio.get_running_loop().run_in_executor(self._database, work)
        while not (await asyncio.wait({running}, timeout=LOOK_S))[0]:
            if self._plane.contact.problem:
                self._acceptances.let_go(self._plane.contact.refusal)
        return running.result()
