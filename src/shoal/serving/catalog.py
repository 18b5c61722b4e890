"""Which fleets a server serves, and how it follows the registry.

A promotion replaces the reference to a :class:`ServedFleet`; requests hold the one that they took, so nobody is
answered from two snapshots, and the old one goes when its last request is done.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from shoal.errors import NotFound, NotReady, ShoalError
from shoal.fleet import Fleet
from shoal.registry import Registry, SnapshotRecord
from shoal.requests.batcher import Lane
from shoal.serving.desired import Selection, Wanted
from shoal.serving.messages import IndexEntry
from shoal.serving.options import ServingOptions
from shoal.serving.served import ServedFleet

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"

#: A snapshot that could not be opened is tried again after so many seconds.
RETRY_S = 10.0

Opener = Callable[[SnapshotRecord], Fleet]


class Slot:
    """A fleet's place in the catalog.

    Attributes
    ----------
    name : str
        The fleet.
    served : ServedFleet or None
        What answers now.
    wanted : SnapshotRecord or None
        What should.
    reason : str
        Why what should be served is not.
    """

    __slots__ = ("failed_at_s", "name", "reason", "served", "wanted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.served: ServedFleet | None = None
        self.wanted: SnapshotRecord | None = None
        self.reason = ""
        self.failed_at_s = 0.0

    def behind(self) -> bool:
        """Whether another snapshot should be served, and it is time to try."""
        if self.wanted is None or (self.served is not None and self.served.snapshot.digest == self.wanted.digest
                                   and self.served.snapshot.version == self.wanted.version):  # fmt: skip
            return False
        return not self.failed_at_s or time.monotonic() - self.failed_at_s >= RETRY_S

    def want(self, wanted: Wanted) -> None:
        """Take note of what should be served."""
        if wanted.snapshot != self.wanted:
            self.failed_at_s = 0.0
            self.reason = wanted.reason
        self.wanted = wanted.snapshot
        if wanted.snapshot is None:
            self.reason = wanted.reason

    def entry(self) -> IndexEntry:
        """The slot as the repository's index shows it."""
        if self.served is not None:
            return IndexEntry(name=self.name, version=self.served.version, state=READY, reason=self.reason)
        version = str(self.wanted.version) if self.wanted else ""
        state = UNAVAILABLE if self.wanted is None or self.failed_at_s else LOADING
        return IndexEntry(name=self.name, version=version, state=state, reason=self.reason)


class Catalog:
    """The fleets of a server.

    Parameters
    ----------
    registry : Registry
        What should be served.
    opener : callable
        Maps a snapshot, verifying what was not met before; called in a thread.
    selection : Selection
        What the server was started with.
    options : ServingOptions
        How to serve.
    """

    def __init__(self, registry: Registry, opener: Opener, selection: Selection, options: ServingOptions) -> None:
        self._registry = registry
        self._opener = opener
        self._selection = selection
        self._options = options
        self.lane = Lane(options.queue_bytes)
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="shoal-registry")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="shoal-load")
        self.slots: dict[str, Slot] = {}
        self.answered_at_s = time.monotonic()
        self._versions: OrderedDict[tuple[str, int], ServedFleet] = OrderedDict()
        self._opening: dict[tuple[str, int], asyncio.Task[ServedFleet]] = {}

    def current(self, fleet: str) -> ServedFleet:
        """What answers for a fleet now.

        Raises
        ------
        NotFound
            The server does not serve it.
        NotReady
            It should, but cannot (yet).
        """
        slot = self.slots.get(fleet)
        if slot is None:
            raise NotFound(f"there is no model {fleet!r} here; see the repository's index for those that are served")
        if slot.served is None:
            raise NotReady(f"fleet {fleet!r} is not served: {slot.reason or 'it is being opened'}")
        return slot.served

    async def refresh(self) -> None:
        """Ask the registry what should be served, and follow.

        Raises
        ------
        StorageError
            The registry cannot be reached; what is served stays.
        """
        loop = asyncio.get_running_loop()
        wanted = await loop.run_in_executor(self._asking, self._selection.wanted, self._registry)
        self.answered_at_s = time.monotonic()
        names = {one.fleet for one in wanted}
        for name in [name for name in self.slots if name not in names]:
            del self.slots[name]
        for one in wanted:
            self.slots.setdefault(one.fleet, Slot(one.fleet)).want(one)
        for slot in list(self.slots.values()):
            if slot.wanted is None:
                slot.served = None
            elif slot.behind():
                await self._follow(slot, slot.wanted)

    async def _follow(self, slot: Slot, snapshot: SnapshotRecord) -> None:
        try:
            served = await self._opened(snapshot)
        except (ShoalError, OSError) as error:
            slot.failed_at_s = time.monotonic()
            slot.reason = f"snapshot {snapshot.version} cannot be served: {error}"
            return
        slot.served, slot.reason, slot.failed_at_s = served, "", 0.0

    async def _opened(self, snapshot: SnapshotRecord) -> ServedFleet:
        """A snapshot opened, verified and warmed in a thread, while the event loop goes on."""
        before = self.slots.get(snapshot.fleet)
        cost = before.served.batcher.cost if before is not None and before.served is not None else None

        def work() -> ServedFleet:
            served = ServedFleet(self._opener(snapshot), snapshot, lane=self.lane, options=self._options, cost=cost)
            served.warm()
            return served

        return await asyncio.get_running_loop().run_in_executor(self._loading, work)

    async def version(self, fleet: str, version: str) -> ServedFleet:
        """A snapshot by its number, opened if it is not served now.

        Raises
        ------
        NotFound
            There is no such snapshot, its files were collected, or the server does not serve the fleet.
        """
        served = self.opened(fleet, version)
        if served is not None:
            return served
        if not version.isdecimal() or not version.isascii() or len(version) > 9:
            raise NotFound(f"{version!r} is no version; versions are numbers, such as 3")
        key = (fleet, int(version))
        task = self._opening.get(key)
        if task is None:
            task = self._opening[key] = asyncio.create_task(self._open_version(*key))
            task.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(task)

    def opened(self, fleet: str, version: str) -> ServedFleet | None:
        """A snapshot by its number if it is open."""
        slot = self.slots.get(fleet)
        if slot is None:
            raise NotFound(f"there is no model {fleet!r} here; see the repository's index for those that are served")
        if slot.served is not None and slot.served.version == version:
            return slot.served
        if not version.isdecimal() or not version.isascii() or len(version) > 9:
            raise NotFound(f"{version!r} is no version; versions are numbers, such as 3")
        key = (fleet, int(version))
        if key in self._versions:
            self._versions.move_to_end(key)
        return self._versions.get(key)

    async def _open_version(self, fleet: str, version: int) -> ServedFleet:
        loop = asyncio.get_running_loop()
        snapshot = await loop.run_in_executor(self._asking, self._registry.resolve, f"{fleet}:{version}")
        served = await self._opened(snapshot)
        self._versions[fleet, version] = served
        while len(self._versions) > self._options.versions:
            self._versions.popitem(last=False)
        return served

    def close(self) -> None:
        """Let the threads end."""
        for executor in (self._asking, self._loading):
            executor.shutdown(wait=False, cancel_futures=True)
        self.lane.close()
