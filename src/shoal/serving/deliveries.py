"""From answers to sinks: what waits for the same sink at the same moment is delivered together.

A sink that could show a result twice gets it in three steps: the answer is written down beside the name under which it
is going to be delivered; it is delivered; the prediction is settled. Whoever takes the prediction over after a crash
finds that name and asks the sink whether anything came of it. Where delivering twice is harmless the first step is left
out: an answer that the sink did not take is written down with the attempt that failed.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from shoal.errors import LeaseLost
from shoal.requests.futures import settle
from shoal.serving.sink_kinds import Delivery, Sink
from shoal.serving.sinks import Sinks

AT_ONCE = 500
"""Results of one delivery."""

Keep = Callable[[list[Delivery], str | None], Awaitable[set[int]]]


class Deliveries:
    """Delivers answers. Belongs to one event loop.

    Parameters
    ----------
    sinks : Sinks
        Where to.
    keep : callable
        Writes answers down, with the name of their delivery; gives the numbers of the predictions that are still ours.

    Attributes
    ----------
    owed : Counter of str
        How many answers each sink has not taken yet.
    """

    def __init__(self, sinks: Sinks, keep: Keep) -> None:
        self._sinks = sinks
        self._keep = keep
        self._waiting: dict[str, list[tuple[Delivery, asyncio.Future[None]]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.owed: Counter[str] = Counter()

    async def deliver(self, delivery: Delivery) -> None:
        """Return when the sink has the answer.

        Raises
        ------
        NotFound, InvalidSpec
            There is no such sink, or it is not what it was.
        LeaseLost
            The prediction is somebody else's by now.
        StorageError
            The sink cannot be reached, or does not take it.
        """
        sink = delivery.claim.sink
        assert sink is not None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(sink, []).append((delivery, future))
        if sink not in self._running:
            self._running[sink] = asyncio.create_task(self._run(sink))
        self.owed[sink] += 1
        try:
            await future
        finally:
            self.owed[sink] -= 1

    async def _run(self, name: str) -> None:
        """Deliver until nothing waits."""
        await asyncio.sleep(0)  # what is answered in the same moment is taken along
        while waiting := self._waiting.pop(name, []):
            now, later = waiting[:AT_ONCE], waiting[AT_ONCE:]
            if later:
                self._waiting[name] = later
            outcomes = await self._outcomes(name, [delivery for delivery, _ in now])
            settle(zip([future for _, future in now], outcomes, strict=True))
        del self._running[name]

    async def _outcomes(self, name: str, deliveries: list[Delivery]) -> list[Exception | None]:
        try:
            return await self._delivered(await self._sinks.open(name), deliveries)
        except Exception as error:  # noqa: BLE001 - it is the fate of all of them, and is told there
            return [error] * len(deliveries)

    async def _delivered(self, sink: Sink, deliveries: list[Delivery]) -> list[Exception | None]:
        outcomes: list[Exception | None] = [None] * len(deliveries)
        left = [place for place, one in enumerate(deliveries) if not await _came(sink, one)]
        name = sink.next_name()
        if name is not None and left:
            kept = await self._keep([deliveries[place] for place in left], name)
            for place in [place for place in left if deliveries[place].claim.number not in kept]:
                outcomes[place] = LeaseLost("the prediction is another worker's by now; drop this result")
            left = [place for place in left if outcomes[place] is None]
        if left:
            found = await sink.deliver([deliveries[place] for place in left], name or "")
            for place, outcome in zip(left, found, strict=True):
                outcomes[place] = outcome
        return outcomes


async def _came(sink: Sink, delivery: Delivery) -> bool:
    """Whether an earlier attempt, which nobody settled, delivered it all the same."""
    name = delivery.claim.delivery
    return name is not None and await sink.has_delivered(delivery, name)
