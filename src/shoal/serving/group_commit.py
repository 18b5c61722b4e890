"""Many callers, one transaction: what arrives while the last one is being committed is committed together.

A commit costs a flush of the disk, whatever is in it. So one thread commits, and everybody who comes meanwhile shares
the next flush; nobody waits for company.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from shoal.errors import Overloaded, ShoalError, StorageError
from shoal.requests.futures import settle

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_log = logging.getLogger("shoal.serving")


class GroupCommit(Generic[Item, Answer]):
    """Collects what is to be committed, and commits it in a thread of its own.

    Parameters
    ----------
    commit : callable
        Commits items in one transaction; gives an answer for each, in their order. An answer that is an error is
        raised to that caller; what ``commit`` raises, to all.
    most : int
        Items of one transaction.
    queue_items, queue_bytes : int
        What may wait; more is refused.
    name : str
        Of the thread.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Sequence[Answer | ShoalError]],
        *,
        most: int = 500,
        queue_items: int = 20_000,
        queue_bytes: int = 128 * 2**20,
        name: str = "shoal-commit",
    ) -> None:
        self._commit = commit
        self._most = most
        self._queue_items = queue_items
        self._queue_bytes = queue_bytes
        self._waiting: deque[tuple[Item, int, asyncio.Future[Answer]]] = deque()
        self._waiting_bytes = 0
        self._wake = threading.Semaphore(0)
        self._ending = False
        self._is_asleep = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item, size_bytes: int) -> "asyncio.Future[Answer]":
        """Have an item committed; from one event loop only.

        Returns
        -------
        Future of Answer
            Done once the item survives a power cut. Cancelling it does not take the item back.

        Raises
        ------
        Overloaded
            Too much waits already; nothing was taken on.
        StorageError
            The group commit was closed.
        """
        if self._ending:
            raise StorageError("the server ends and commits nothing more; ask another")
        waits = len(self._waiting)
        if waits >= self._queue_items or (waits and self._waiting_bytes + size_bytes > self._queue_bytes):
            raise Overloaded(f"{waits} results wait to be committed; the database is too slow, try again in 1 s")
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting_bytes += size_bytes
        self._waiting.append((item, size_bytes, future))
        if self._is_asleep:
            self._is_asleep = False
            # At the end of this turn of the loop: who else comes in it is taken along.
            loop.call_soon(self._wake.release)
        return future

    def close(self, timeout_s: float = 30.0) -> None:
        """Commit what waits, and end.

        Parameters
        ----------
        timeout_s : float
            How long to wait for that, in seconds.
        """
        self._ending = True
        self._wake.release()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            if not self._waiting:
                self._is_asleep = True
                if not self._waiting:  # what came in between has woken nobody
                    if self._ending:
                        return
                    self._wake.acquire()
                self._is_asleep = False
                continue
            group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            self._answer(group, self._answers([item for item, _, _ in group]))

    def _answers(self, items: Sequence[Item]) -> Sequence[Answer | ShoalError]:
        try:
            return self._commit(items)
        except ShoalError as error:
            return [error] * len(items)
        except Exception:  # noqa: BLE001 - it is logged, and every caller told; the next group may fare better
            _log.exception("%d results could not be committed", len(items))
            return [StorageError("it could not be committed; the server's log says why")] * len(items)

    def _answer(
        self,
        group: "Sequence[tuple[Item, int, asyncio.Future[Answer]]]",
        answers: Sequence[Answer | ShoalError],
    ) -> None:
        """Wake the callers, all in one turn of their loop."""

        def tell() -> None:
            self._waiting_bytes -= sum([size_bytes for _, size_bytes, _ in group])
            settle(zip([future for _, _, future in group], answers, strict=True))

        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(tell)
