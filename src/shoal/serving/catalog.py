"""Which fleets a server serves, and how it follows the registry.

A promotion replaces the reference to a :class:`ServedFleet`; requests hold the one that they took, so nobody is
answered from two snapshots, and the old one goes when its last request is done.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn, TypeVar

from shoal.errors import InvalidArtifact, InvalidInput, NotFound, NotReady, ShoalError
from shoal.registry import Registry
from shoal.serving.addresses import no_version
from shoal.serving.desired import Known, Selection, Wanted, earlier, unloaded
from shoal.serving.keeping import Keepers
from shoal.serving.numbered import Numbered
from shoal.serving.openings import Opener, Openings
from shoal.serving.options import ServingOptions
from shoal.serving.served import ServedFleet
from shoal.serving.slots import DAMAGED, RETRY_S, Slot

Answer = TypeVar("Answer")

#: How long lookups and caches have to let go of their connections in the end, in seconds.
CLOSE_S = 1.0


_log = logging.getLogger(__name__)


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
    cache : Path
        Private folder for what lookups map.
    keepers : Keepers
        Where what is kept of requests goes.

    Attributes
    ----------
    slots : dict of str to Slot
        By the fleet's name.
    contact : Contact
        Whether the registry answers.
    """

    def __init__(
        self,
        registry: Registry,
        opener: Opener,
        selection: Selection,
        options: ServingOptions,
        cache: Path,
        keepers: Keepers,
    ) -> None:
        self._registry = registry
        self._selection = selection
        self._options = options
        self._openings = Openings(opener, options, cache, keepers)
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="shoal-registry")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="shoal-registry-write")
        self._refreshing = asyncio.Lock()
        self._numbered = Numbered(options.versions)
        self._opening: dict[tuple[str, int], asyncio.Task[ServedFleet]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._held: Mapping[str, Wanted] = {}
        self.slots: dict[str, Slot] = {}
        self.contact = keepers.contact

    def current(self, fleet: str) -> ServedFleet:
        """What answers for a fleet now.

        Raises
        ------
        NotFound
            The server does not serve it.
        NotReady
            It should, but cannot (yet), or the registry was not asked yet.
        Unloaded
            It was unloaded.
        """
        slot = self.slots.get(fleet)
        if slot is None or slot.served is None:
            return self._missing(fleet)
        return slot.served

    def _missing(self, fleet: str) -> NoReturn:
        slot = self.slots.get(fleet)
        if slot is None and not self.contact.is_made:
            raise NotReady("the server is starting and does not know yet what it serves; try again")
        if slot is None:
            raise NotFound(f"no fleet {fleet[:100]!r} is served here; the repository's index lists those that are")
        if not slot.wanted.loaded:
            raise unloaded(fleet)
        raise NotReady(f"fleet {fleet!r} is not served: {slot.reason or 'it is being opened'}", detail=slot.detail)

    async def refresh(self) -> None:
        """Ask the registry what should be served, and begin to follow; never raises.

        While the registry does not answer, what is served stays.
        """
        async with self._refreshing:
            await self._look()
            self.follow()

    async def _look(self) -> None:
        try:
            with self.contact.question():
                wanted = await self.ask(self._selection.look, self._registry)
        except Exception:  # noqa: BLE001 - whatever ails the database is known there; serving goes on and asks again
            return
        if wanted is not None:
            self._want(wanted)

    def follow(self) -> None:
        """Begin to open what should be served and is not."""
        for slot in self.slots.values():
            if slot.behind():
                slot.following = asyncio.create_task(self._follow(slot))

    def adopt(self, known: Known) -> None:
        """Take what another process of the server knew for what the registry says, until that says something itself."""
        self._held = known.served
        self.contact.answered_at_s, self.contact.is_made = known.at_s, True
        self._want(known.wanted)

    def known(self) -> Known | None:
        """What this process knows; None while it knows nothing."""
        if not self.contact.is_made:
            return None
        slots = self.slots.values()
        held = {slot.name: slot.served.wanted for slot in slots if slot.served and slot.served.wanted != slot.wanted}
        return Known(at_s=self.contact.answered_at_s, wanted=tuple([slot.wanted for slot in slots]), served=held)

    async def ask(self, question: Callable[..., Answer], *arguments: object) -> Answer:
        """Call the registry in its thread, one question at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, question, *arguments)

    def _want(self, wanted: Sequence[Wanted]) -> None:
        names = {one.fleet for one in wanted}
        for name in [name for name in self.slots if name not in names]:
            self._retire(self.slots.pop(name).replace(None))
        for one in wanted:
            slot = self.slots.setdefault(one.fleet, Slot(one))
            slot.want(one)
            if not one.loaded:
                self._retire(slot.replace(None))
        for served in self._numbered.drop(unless=self._is_as_wanted):
            self._shut(served)

    async def settle(self) -> None:
        """Wait until every fleet that should be served is, or cannot be."""
        await asyncio.gather(*[slot.following for slot in self.slots.values() if slot.following is not None])

    async def _follow(self, slot: Slot) -> None:
        wanted, failure = slot.wanted, None
        try:
            served: ServedFleet | None = await self._opened(wanted)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one snapshot, the others are served
            failure = error
            served = await self._stand_in(wanted) if slot.served is None else None
        if served is not None:
            self._take(slot, served)
        if failure is not None:
            slot.fail(wanted, failure)

    def _take(self, slot: Slot, served: ServedFleet) -> None:
        if slot.wanted.loaded and self.slots.get(slot.name) is slot:
            self._retire(slot.replace(served))
        else:
            self._retire(served)

    async def _stand_in(self, wanted: Wanted) -> ServedFleet | None:
        """What answers where nothing does and the snapshot that should cannot be opened: one from before."""
        held = self._held.get(wanted.fleet)
        if held is not None and (served := await self._opened_if_whole(held)) is not None:
            return served
        try:
            snapshots = await self.ask(earlier, self._registry, wanted)
        except ShoalError as error:
            _log.warning("fleet %s: nobody says what was served before: %s", wanted.fleet, error)
            return None
        for snapshot in snapshots:
            served = await self._opened_if_whole(dataclasses.replace(wanted, snapshot=snapshot))
            if served is not None:
                return served
        return None

    async def _opened_if_whole(self, wanted: Wanted) -> ServedFleet | None:
        try:
            return await self._opened(wanted)
        except Exception as error:  # noqa: BLE001 - the next one may be whole
            _log.debug("fleet %s has no stand-in in %s: %s", wanted.fleet, wanted.snapshot, error)
            return None

    def _retire(self, served: ServedFleet | None) -> None:
        """See to it that a snapshot lets go of what it holds once its last request is answered."""
        if served is not None and served.between is not None:
            task = asyncio.create_task(served.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _opened(self, wanted: Wanted) -> ServedFleet:
        slot = self.slots.get(wanted.fleet)
        return await self._openings.open(wanted, None if slot is None else slot.served)

    def opened(self, fleet: str, version: str) -> ServedFleet | None:
        """A snapshot by its number, if it is open.

        Raises
        ------
        NotFound
            The server does not serve the fleet, or that is no number.
        """
        slot = self._loaded(fleet)
        if slot.served is not None and slot.served.version == version:
            return slot.served
        return self._numbered.get(fleet, _number(version))

    def _loaded(self, fleet: str) -> Slot:
        """The slot of a fleet that is to be served; raises NotFound or NotReady where it is not."""
        slot = self.slots.get(fleet)
        if slot is None or not slot.wanted.loaded:
            self._missing(fleet)
        return slot

    async def version(self, fleet: str, version: str) -> ServedFleet:
        """A snapshot by its number, opened if it is not.

        Raises
        ------
        NotFound
            There is no such snapshot, its files were collected, or the server does not serve the fleet.
        NotReady
            Its files are damaged.
        Unavailable, StorageError
            The registry cannot be asked.
        """
        served = self.opened(fleet, version)
        if served is not None:
            return served
        self.contact.require()
        key = (fleet, _number(version))
        task = self._opening.get(key)
        if task is None:
            task = self._opening[key] = asyncio.create_task(self._open_version(*key))
            task.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(task)

    async def _open_version(self, fleet: str, version: int) -> ServedFleet:
        snapshot = await self.contact.during(self.ask(self._registry.resolve, f"{fleet}:{version}"))
        slot = self._loaded(fleet)
        try:
            served = await self._opened(dataclasses.replace(slot.wanted, snapshot=snapshot))
        except InvalidArtifact as error:
            reason = f"cannot be served from version {version}: {DAMAGED}; restore them, or ask for another"
            raise NotReady(f"fleet {fleet!r} {reason}", retry_after_s=RETRY_S, detail=str(error)) from error
        if not self._is_as_wanted(served):  # what is wanted of the fleet has changed meanwhile
            self._retire(served)
            return await self._open_version(fleet, version)
        slot.open(served.counters)
        for old in self._numbered.add(served):
            self._shut(old)
        return served

    def _is_as_wanted(self, served: ServedFleet) -> bool:
        """Whether a snapshot is served as its fleet should be now, whatever its number."""
        slot, had = self.slots.get(served.wanted.fleet), served.wanted
        return (
            slot is not None
            and slot.wanted.loaded
            and (slot.wanted.spec, slot.wanted.sources) == (had.spec, had.sources)
        )

    def _shut(self, served: ServedFleet) -> None:
        """Keep a snapshot that was opened by its number no longer."""
        if (slot := self.slots.get(served.wanted.fleet)) is not None:
            slot.shut(served.counters)
        self._retire(served)

    async def set_loaded(self, fleet: str, *, loaded: bool, actor: str) -> None:
        """Write into the registry whether a fleet is to be served, and follow.

        Raises
        ------
        InvalidInput
            The server was not started for that fleet.
        NotFound
            There is no such fleet.
        NotReady
            It cannot be served; says why.
        Unavailable, StorageError
            The registry cannot be written.
        """
        self.contact.require()
        if not self._selection.may_serve(fleet):
            raise InvalidInput(f"this server was not started for fleet {fleet!r}; start one that serves it")

        def write() -> None:
            self._registry.set_serving(fleet, actor=actor, loaded=loaded)

        # Not in the thread that asks: a write waits for other writers, and following must not wait with it.
        await asyncio.get_running_loop().run_in_executor(self._writing, write)
        await self.refresh()
        slot = self.slots.get(fleet)
        if slot is None:
            raise NotReady(f"fleet {fleet!r} is not for this server")
        if loaded:
            slot.failed_at_s = 0.0
            await self._until_served(slot)

    async def _until_served(self, slot: Slot) -> None:
        """Wait until a slot serves what it should, or it is known why it cannot; every turn of the loop waits."""
        until_s = time.monotonic() + self._options.load_s
        while slot.served is None or slot.served.wanted != slot.wanted:
            if self.slots.get(slot.name) is not slot:
                raise NotReady(f"fleet {slot.name!r} is not for this server")
            if slot.behind():
                slot.following = asyncio.create_task(self._follow(slot))
            left_s = until_s - time.monotonic()
            if slot.following is None or slot.following.done() or not slot.wanted.loaded or left_s <= 0:
                raise slot.refusal()
            await asyncio.wait([slot.following], timeout=left_s)

    async def close(self) -> None:
        """Let go of everything, and let the threads end."""
        for slot in self.slots.values():
            self._retire(slot.served)
        for served in self._numbered.drop(unless=lambda _: False):
            self._retire(served)
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=CLOSE_S)
        for executor in (self._asking, self._writing):
            executor.shutdown(wait=False, cancel_futures=True)
        self._openings.close()


def _number(version: str) -> int:
    if version.isdecimal() and version.isascii() and len(version) < 10 and version[0] != "0":
        return int(version)
    raise no_version(version)
