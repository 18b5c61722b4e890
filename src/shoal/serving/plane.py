"""The data plane: everything that real-time inference does, without any transport."""

import asyncio
import contextlib
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shoal.errors import NotFound, NotReady, Unloaded
from shoal.fleet import Fleet
from shoal.registry import Registry, SnapshotRecord
from shoal.scoring.warming import warm_kernels
from shoal.serving.addresses import split
from shoal.serving.catalog import Catalog
from shoal.serving.contact import Contact
from shoal.serving.desired import Known, Selection
from shoal.serving.keeping import Keepers
from shoal.serving.log import LogStatistics
from shoal.serving.messages import (
    IndexEntry,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelStatistics,
    RequestContext,
    ServerMetadata,
)
from shoal.serving.options import ServingOptions
from shoal.serving.served import ServedFleet
from shoal.serving.slots import READY
from shoal.serving.statistics import SharedStatistics

if TYPE_CHECKING:
    from shoal.requests.lookups import LookupStats
    from shoal.requests.timed_cache import CacheStats

EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "statistics")

#: How long the prediction log has at least to write what it took, in seconds.
FLUSH_S: Final = 2.0

#: How long a process that was told what others knew waits for the registry itself, in seconds.
KNOWN_S: Final = 1.0


class DataPlane:
    """Serves fleets in one event loop; see :meth:`shoal.Workspace.data_plane`.

    Parameters
    ----------
    registry : Registry
        What should be served.
    opener : callable
        Maps a snapshot.
    selection : Selection
        Which fleets.
    options : ServingOptions
        How.
    cache : Path
        Private folder for what lookups map.
    keepers : Keepers
        Where what is kept of requests goes.
    """

    def __init__(
        self,
        registry: Registry,
        opener: Callable[[SnapshotRecord], Fleet],
        selection: Selection,
        options: ServingOptions,
        cache: Path,
        keepers: Keepers,
    ) -> None:
        self._catalog = Catalog(registry, opener, selection, options, cache, keepers)
        self._keepers = keepers
        self._shared: SharedStatistics | None = None
        self._options = options
        self._started = self._draining = False
        self._under_way = 0
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._patience_s: float | None = None

    @property
    def most_rows(self) -> int:
        """Rows of one request; a fleet may have a narrower limit of its own."""
        return self._options.max_rows

    async def start(self, known: Known | None = None) -> None:
        """Compile kernels and open the fleets; returns when each of them is served, or it is known why not.

        Parameters
        ----------
        known : Known, optional
            What another process knew of the registry: it is begun with where the registry does not answer soon.
        """
        await asyncio.get_running_loop().run_in_executor(None, warm_kernels)
        if known is not None:
            self._catalog.adopt(known)
            self._patience_s = KNOWN_S
        await self.catch_up()
        self._started = True
        self._following = asyncio.create_task(self._follow())

    async def catch_up(self) -> None:
        """Follow what was promoted while the process was busy starting; before its doors are opened."""
        looking = self._looking = asyncio.create_task(self._catalog.refresh())
        await asyncio.wait({looking}, timeout=self._patience_s)
        self._catalog.follow()
        await self._catalog.settle()

    async def _follow(self) -> None:
        """Look at the registry again and again; while it cannot be reached, what is served stays."""
        while True:
            await asyncio.sleep(self._options.poll_s)
            await self._catalog.refresh()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, wait for those under way, and stop.

        Parameters
        ----------
        timeout_s : float
            How long to wait, in seconds; what is not done by then is given up.
        """
        self._draining = True
        until_s = time.monotonic() + timeout_s
        while self._under_way and time.monotonic() < until_s:
            await asyncio.sleep(0.005)
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._catalog.close()
        left_s = max(FLUSH_S, until_s - time.monotonic())
        await asyncio.get_running_loop().run_in_executor(None, self._keepers.close, left_s)

    async def infer(self, request: InferenceRequest, context: RequestContext) -> InferenceResponse:
        """Answer a request, all of it from one snapshot.

        Raises
        ------
        InvalidInput
            The inputs do not fit the model.
        NotFound
            There is no such fleet, model or version.
        NotReady, Overloaded, TooLarge, DeadlineExceeded
            Not now, or not so much at once.
        """
        if self._draining or not self._started:
            raise NotReady("the server ends; ask another" if self._draining else "the server is starting; try again")
        self._under_way += 1
        try:
            fleet, key = split(request.model)
            if request.version is None:
                served = self._catalog.current(fleet)
            else:
                served = await self._catalog.version(fleet, request.version)
            return await served.infer(request, context, key)
        finally:
            self._under_way -= 1

    async def check(self, request: InferenceRequest) -> None:
        """Refuse a request that could not be answered, by what :meth:`infer` checks; nothing is scored.

        A fleet that is not served just now lets everything pass: what it is going to take is not known.

        Raises
        ------
        InvalidInput
            The inputs do not fit the model.
        NotFound
            There is no such fleet, model or version.
        TooLarge
            Too many rows.
        Unloaded
            The fleet was unloaded: nobody knows whether it ever comes back.
        """
        fleet, key = split(request.model)
        try:
            if request.version is None:
                served = self._catalog.current(fleet)
            else:
                served = await self._catalog.version(fleet, request.version)
        except Unloaded:
            raise
        except NotReady:
            return
        await served.check(request, key)

    def ready(self) -> bool:
        """Whether requests can be answered: kernels compiled, fleets verified and mapped, not ending.

        A fleet that cannot be opened says so in :meth:`index` and does not keep the others from being served.
        Where all were unloaded, nothing is missing: whoever wants to load one again has to find the server.
        """
        if self._draining or not self._started or not self.contact.is_made:
            return False
        wanted = [slot for slot in self._catalog.slots.values() if slot.wanted.loaded]
        return not wanted or any(slot.served for slot in wanted)

    async def open(self, model: str, version: str) -> None:
        """See to it that :meth:`model_metadata` and :meth:`model_ready` know a version that is not served by default.

        Raises
        ------
        NotFound
            There is no such fleet or version.
        """
        await self._catalog.version(split(model)[0], version)

    def model_ready(self, model: str, version: str | None = None) -> bool:
        """Whether a model can be asked.

        Raises
        ------
        NotFound
            There is no such fleet, model or version.
        """
        try:
            served, key = self._served(model, version)
        except NotReady:
            return False
        if key is not None:
            served.metadata(model, key)
        return self.ready()

    def reason(self, model: str) -> str:
        """Why a fleet cannot be asked; empty where that is not known."""
        slot = self._catalog.slots.get(split(model)[0])
        return "" if slot is None else slot.told

    def comes_back(self, model: str) -> bool:
        """Whether a fleet that cannot be asked may be by itself; not where somebody unloaded it."""
        slot = self._catalog.slots.get(split(model)[0])
        return slot is None or slot.wanted.loaded

    def serves(self, fleet: str) -> bool:
        """Whether there is such a fleet here: names that callers make up are none for logs and metrics."""
        return fleet in self._catalog.slots

    def require(self, fleet: str) -> None:
        """Refuse what is asked of a fleet that is not here.

        Raises
        ------
        NotFound
            There is no such fleet here.
        NotReady
            It is not known yet which there are.
        """
        if not self.serves(fleet):
            self._catalog.current(fleet)

    def server_metadata(self) -> ServerMetadata:
        """What this server is."""
        return ServerMetadata(name="shoal", version=importlib.metadata.version("shoal"), extensions=EXTENSIONS)

    def model_metadata(self, model: str, version: str | None = None) -> ModelMetadata:
        """What a fleet or a single model takes and gives.

        Raises
        ------
        NotFound
            There is no such fleet, model or version.
        NotReady
            It is not served yet; or a version that was not opened, see :meth:`open`.
        """
        served, key = self._served(model, version)
        return served.metadata(model, key)

    def _served(self, model: str, version: str | None) -> tuple[ServedFleet, str | None]:
        fleet, key = split(model)
        if version is None:
            return self._catalog.current(fleet), key
        served = self._catalog.opened(fleet, version)
        if served is None:
            raise NotReady(f"version {version} of fleet {fleet!r} is not open")
        return served, key

    def index(self, *, ready: bool | None = None) -> list[IndexEntry]:
        """The fleets, by name, or only those that are ready or not."""
        entries = [slot.entry() for _, slot in sorted(self._catalog.slots.items())]
        return [entry for entry in entries if ready is None or (entry.state == READY) == ready]

    def problems(self) -> dict[str, str]:
        """The fleets that are not ready, by name, and all that is known of why; for whoever runs the server."""
        return {entry.name: self._catalog.slots[entry.name].why() for entry in self.index(ready=False)}

    def missed(self) -> dict[str, int]:
        """The versions that should be served and cannot be, by fleet; the index says why."""
        missed = ((name, slot.missed()) for name, slot in self._catalog.slots.items())
        return {name: version for name, version in missed if version is not None}

    async def load(self, fleet: str, *, actor: str) -> None:
        """Have a fleet served by all servers, from now on; returns when this one does.

        Raises
        ------
        InvalidInput
            The server was not started for that fleet.
        NotFound
            There is no such fleet.
        NotReady
            It cannot be served; says why.
        StorageError
            The registry cannot be written.
        """
        await self._catalog.set_loaded(fleet, loaded=True, actor=actor)

    async def unload(self, fleet: str, *, actor: str) -> None:
        """Have a fleet served no more by any server; returns when this one follows. Raises as :meth:`load` does."""
        await self._catalog.set_loaded(fleet, loaded=False, actor=actor)

    def statistics(self, model: str | None = None, version: str | None = None) -> list[ModelStatistics]:
        """What fleets were asked, per snapshot; those of earlier snapshots are kept for a while.

        Parameters
        ----------
        model : str, optional
            Only this fleet's.
        version : str, optional
            Only this snapshot's.

        Raises
        ------
        NotFound, NotReady
            The fleet is not served; it was never asked under that version.
        """
        if model is None:
            slots = [slot for _, slot in sorted(self._catalog.slots.items())]
        else:
            self._catalog.current(split(model)[0])
            slots = [self._catalog.slots[split(model)[0]]]
        found = [one for slot in slots for one in slot.statistics()]
        if self._shared is not None:
            found = self._shared.with_others(found, {slot.name for slot in slots})
        if version is None:
            return found
        chosen = [one for one in found if one.version == version]
        if not chosen:
            raise NotFound(f"{model!r} was not served under version {version!r} here")
        return chosen

    def share(self, statistics: SharedStatistics) -> None:
        """Tell the statistics of all processes of a server from now on."""
        self._shared = statistics

    def publish(self) -> None:
        """Let the other processes see what this one was asked."""
        if self._shared is not None:
            asked = (slot for slot in self._catalog.slots.values() if slot.was_asked())
            self._shared.publish([one for slot in asked for one in slot.statistics()])

    def totals(self) -> list[ModelStatistics]:
        """What each fleet was asked under all of its snapshots, as counters that never shrink; versions are empty."""
        return [slot.total() for _, slot in sorted(self._catalog.slots.items())]

    def between(self) -> dict[str, "tuple[LookupStats | None, CacheStats | None]"]:
        """How the lookups and prediction caches of fleets that have any are doing, by fleet."""
        served = {name: slot.served for name, slot in self._catalog.slots.items()}
        return {name: one.between.stats() for name, one in served.items() if one is not None and one.between}

    def kept(self) -> LogStatistics | None:
        """What the prediction log has done; None where no fleet ever had one."""
        return self._keepers.statistics()

    def fleet(self, name: str, version: int) -> Fleet | None:
        """The models of a snapshot that is served now; None where another one is, or none."""
        slot = self._catalog.slots.get(name)
        served = None if slot is None else slot.served
        return served.fleet if served is not None and served.snapshot.version == version else None

    def known(self) -> Known | None:
        """What this process knows of the registry; None while it knows nothing."""
        return self._catalog.known()

    @property
    def contact(self) -> Contact:
        """Whether the registry answers."""
        return self._catalog.contact

    def staleness_s(self) -> float:
        """Seconds since the registry last answered."""
        return time.monotonic() - self.contact.answered_at_s
