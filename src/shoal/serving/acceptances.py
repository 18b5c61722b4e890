"""Predictions that are to be kept with the next transaction, each with whoever waits to hear that it is."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from shoal.errors import Conflict, ShoalError
from shoal.ledger.prediction_records import Acceptance, NewPrediction
from shoal.requests.futures import settle
from shoal.serving.contact import NOTHING_DONE

_Asked: TypeAlias = "tuple[NewPrediction, asyncio.Future[Acceptance]]"

_MOST: Final = 1000
_PERHAPS_KEPT: Final = (
    "and nobody knows whether the request was kept; send it again, with the same Idempotency-Key if it had one, and it "
    "is kept once"
)


class Acceptances:
    """What waits to be kept, and what a transaction is keeping. Belongs to one event loop; true while any wait."""

    def __init__(self) -> None:
        self._waiting: list[_Asked] = []
        self._taken: list[_Asked] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, new: NewPrediction) -> "asyncio.Future[Acceptance]":
        """Have a prediction kept; which it is, or why not."""
        future: asyncio.Future[Acceptance] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, future))
        return future

    def take(self) -> list[NewPrediction]:
        """What the next transaction keeps; :meth:`kept` or :meth:`put_back` ends it."""
        self._taken, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        return [new for new, _ in self._taken]

    def put_back(self) -> None:
        """The transaction failed: what it took waits again."""
        self._waiting = self._taken + self._waiting
        self._taken = []

    def kept(self, answers: Sequence[Acceptance | Conflict]) -> tuple[int, int]:
        """Tell those whose predictions a transaction took what became of them; how many are new, and their bytes."""
        requests = size_bytes = 0
        taken, self._taken = self._taken, []
        for (new, _), answer in zip(taken, answers, strict=True):
            if not isinstance(answer, Conflict) and answer.is_new:
                requests, size_bytes = requests + 1, size_bytes + len(new.request)
        settle(zip([future for _, future in taken], answers, strict=True))
        return requests, size_bytes

    def refuse(self, error: ShoalError) -> None:
        """Tell those that wait that nothing comes of it."""
        waiting, self._waiting = self._waiting, []
        _tell(waiting, lambda: error)

    def let_go(self, refusal: Callable[[str], ShoalError]) -> None:
        """Let nobody wait for a database that is away.

        Those that no transaction has begun with are forgotten, so nothing was done. What becomes of the others nobody
        knows before the database says so; an idempotency key makes sending them again harmless.

        Parameters
        ----------
        refusal : callable
            The error, from what is to be said about what was done.
        """
        waiting, self._waiting = self._waiting, []
        for asked, what_now in ((waiting, NOTHING_DONE), (self._taken, _PERHAPS_KEPT)):
            _tell(asked, partial(refusal, what_now))

    def cancel(self) -> None:
        """End the waiting, without an answer."""
        for _, future in self._waiting:
            future.cancel()


def _tell(asked: Sequence[_Asked], error: Callable[[], ShoalError]) -> None:
    settle((future, error()) for _, future in asked)
