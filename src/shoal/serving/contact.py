"""Whether the registry answers, as far as those know who ask it again and again."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from typing import Any, Final, TypeVar

from shoal.errors import Unavailable
from shoal.requests.futures import settle

Answer = TypeVar("Answer")

SLOW_S: Final = 1.0
"""A registry that takes longer to say what is new counts as away, in seconds."""

LOOK_S: Final = 0.1
"""How often whoever waits for the registry looks whether it has gone, in seconds."""

AWAKE_S: Final = 0.5
"""What counts at most of the time between two looks, in seconds; a process that was held up itself blames nobody."""

NOTHING_DONE: Final = "so nothing was done; try again"
"""What becomes of what was only going to be asked of a registry that is away."""


class Contact:
    """What became of the questions that a process asks the registry again and again. Belongs to one event loop.

    Who needs the registry asks here first: a database that is away keeps whoever turns to it for seconds, and one that
    hangs for as long as it hangs.

    Attributes
    ----------
    is_made : bool
        Whether the registry ever answered.
    answered_at_s : float
        When it last did, by ``time.monotonic()``.
    """

    def __init__(self) -> None:
        self.is_made = False
        self.answered_at_s = time.monotonic()
        self._failure = ""
        self._waited_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._guarded: dict[asyncio.Future[Any], str] = {}
        self.is_asking = False

    @contextlib.contextmanager
    def question(self) -> Iterator[None]:
        """Take note of how the question goes that is asked inside; one at a time. What that raises is passed on."""
        assert not self.is_asking
        self.is_asking = True
        self._alarm = asyncio.get_running_loop().call_later(LOOK_S, self._wait_on, time.monotonic())
        try:
            yield
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            self._let_go()
            raise
        finally:
            self._alarm.cancel()
            self.is_asking = False
            self._waited_s = 0.0
        self.answered_at_s, self.is_made, self._failure = time.monotonic(), True, ""

    def _wait_on(self, since_s: float) -> None:
        """Count how long a question has been waited for, but for the time in which this process was held up."""
        now_s = time.monotonic()
        self._waited_s += min(now_s - since_s, AWAKE_S)
        self._alarm = asyncio.get_running_loop().call_later(LOOK_S, self._wait_on, now_s)
        if self.problem:
            self._let_go()

    def _let_go(self) -> None:
        guarded, self._guarded = self._guarded, {}
        settle((future, self.refusal(what_now)) for future, what_now in guarded.items())

    @property
    def problem(self) -> str:
        """Why the registry does not answer; empty when it does."""
        if not self._failure and self._waited_s > SLOW_S:
            return f"it has not answered for {self._waited_s:.0f} s"
        return self._failure

    def require(self) -> None:
        """Refuse at once what would have to wait for a registry that is away.

        Raises
        ------
        Unavailable
            It is.
        """
        if self.problem:
            raise self.refusal(NOTHING_DONE)

    def refusal(self, what_now: str) -> Unavailable:
        """The error for what needs a registry that is away.

        Parameters
        ----------
        what_now : str
            What became of what was asked, and what to do.
        """
        return Unavailable(f"the registry does not answer just now, {what_now}", detail=self.problem)

    def guard(self, future: "asyncio.Future[Answer]", what_now: str) -> "asyncio.Future[Answer]":
        """Have a future fail as soon as the registry is known to be away; much cheaper than :meth:`during`.

        Parameters
        ----------
        future : Future
            Whoever settles it minds that it may be done.
        what_now : str
            What became of it then, as far as anybody knows, and what to do.

        Returns
        -------
        Future
            The same.
        """
        self._guarded[future] = what_now
        future.add_done_callback(self._guarded.pop)
        return future

    async def during(self, work: Awaitable[Answer], what_now: str = NOTHING_DONE) -> Answer:
        """What comes of work that needs the registry; not waited for any longer once that is known to be away.

        Parameters
        ----------
        work : awaitable
            It goes on when nobody waits any more: what a thread does cannot be taken back.
        what_now : str
            What became of it then, as far as anybody knows, and what to do.

        Raises
        ------
        Unavailable
            The registry is away, and the work is not done.
        """
        task = asyncio.ensure_future(work)
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            if self.problem:
                task.add_done_callback(hear)
                raise self.refusal(what_now)
        return task.result()


def hear(task: "asyncio.Future[Answer]") -> None:
    """Take note of an error that is nobody's any more, so that it is not reported as forgotten."""
    if not task.cancelled():
        task.exception()
