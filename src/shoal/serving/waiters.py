"""Callers that wait for predictions: a future each, no thread, and one question to the database for all of them."""

import asyncio
from collections.abc import Collection, Iterable

from shoal.errors import Overloaded


class Waiters:
    """Who waits for which prediction. Belongs to one event loop.

    Parameters
    ----------
    most : int
        How many may wait at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._futures: dict[str, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._closed = False

    @property
    def ids(self) -> Collection[str]:
        """What is waited for."""
        return self._futures.keys()

    async def wait(self, prediction_id: str, timeout_s: float) -> None:
        """Return when the prediction is settled, or the time is over, or the server ends.

        Raises
        ------
        Overloaded
            Too many wait.
        """
        if self._closed or timeout_s <= 0:
            return
        if self._count >= self._most:
            raise Overloaded("too many callers wait for predictions here; ask again without `timeout`")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        same = self._futures.setdefault(prediction_id, set())
        same.add(future)
        self._count += 1
        try:
            await asyncio.wait((future,), timeout=timeout_s)
        finally:
            self._count -= 1
            same.discard(future)
            if not same and self._futures.get(prediction_id) is same:
                del self._futures[prediction_id]

    def settled(self, ids: Iterable[str]) -> None:
        """Wake those who wait for these."""
        for one in ids:
            for future in self._futures.get(one, ()):
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """Wake all: the server ends, and whoever still wants to know asks another."""
        self._closed = True
        self.settled(list(self._futures))
