"""From what should be served to what can be: a snapshot mapped, verified and warmed, away from the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.fleet import Fleet
from shoal.registry import SnapshotRecord
from shoal.requests.batcher import Lane
from shoal.requests.loading import load
from shoal.requests.spec import FleetSchema
from shoal.serving.desired import Wanted
from shoal.serving.keeping import Keepers
from shoal.serving.options import ServingOptions
from shoal.serving.served import ServedFleet

if TYPE_CHECKING:
    from shoal.serving.between import Between

#: Snapshots that are opened at once.
THREADS = 2

Opener = Callable[[SnapshotRecord], Fleet]


class Openings:
    """Opens snapshots.

    Parameters
    ----------
    opener : callable
        Maps a snapshot, verifying what was not met before; called in a thread.
    options : ServingOptions
        How to serve.
    cache : Path
        Private folder for what lookups map.
    keepers : Keepers
        Where what is kept of requests goes.
    """

    def __init__(self, opener: Opener, options: ServingOptions, cache: Path, keepers: Keepers) -> None:
        self._opener = opener
        self._options = options
        self._cache = cache
        self._keepers = keepers
        self._lane = Lane(options.queue_bytes)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="shoal-load")

    async def open(self, wanted: Wanted, before: ServedFleet | None) -> ServedFleet:
        """What should be served, ready for requests; whatever is wrong with it is raised.

        Parameters
        ----------
        wanted : Wanted
            Which snapshot, and how it is to be served.
        before : ServedFleet or None
            What answers for the fleet now: what it knows of costs is taken over, and its lookup shared.
        """
        made: list[Between] = []
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._open, wanted, before, made)
        except BaseException:
            for between in made:
                await between.close()
            raise

    def _open(self, wanted: Wanted, before: ServedFleet | None, made: "list[Between]") -> ServedFleet:
        assert wanted.snapshot is not None
        fleet = self._opener(wanted.snapshot)
        between = _between_of(wanted, fleet, self._cache, None if before is None else before.between)
        if between is not None:
            made.append(between)
        served = ServedFleet(
            fleet,
            wanted.snapshot,
            wanted,
            between=between,
            lane=self._lane,
            options=self._options,
            keepers=self._keepers,
            cost=None if before is None else before.batcher.cost,
        )
        served.warm()
        return served

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._lane.close()


def _between_of(wanted: Wanted, fleet: Fleet, cache: Path, before: "Between | None") -> "Between | None":
    """The lookup and prediction cache that a fleet should be served with, if it has any.

    Parameters
    ----------
    wanted : Wanted
        How it is to be served.
    fleet : Fleet
        The snapshot.
    cache : Path
        Private folder for what lookups map.
    before : Between, optional
        Those of what is served now; the lookup is shared where nothing about it is different.

    Raises
    ------
    InvalidSpec
        The serving spec does not fit the fleet or its sources.
    NotFound
        There is no such source.
    """
    spec, snapshot = load(wanted.spec), wanted.snapshot
    if snapshot is None or (spec.lookup is None and spec.cache is None):
        return None
    from shoal.serving.between import Between  # brings caches and clients, which not every installation has

    schema = FleetSchema(keys=fleet.keys, features=fleet.features, task=fleet.task, labels=fleet.labels)
    return Between(spec, schema, snapshot, sources=wanted.sources, folder=cache, before=before)
