"""What stands between a request and its score: features looked up by key, and answers that were given before."""

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from shoal.errors import NotFound
from shoal.registry import SnapshotRecord
from shoal.requests.lookups import Lookup, LookupStats
from shoal.requests.opening import open_lookup, open_store
from shoal.requests.prediction_cache import PredictionKeys
from shoal.requests.sources import Source, load_source
from shoal.requests.spec import FleetSchema, ServingSpec
from shoal.requests.timed_cache import CacheStats
from shoal.serving.inputs import InputSchema
from shoal.serving.messages import RequestContext
from shoal.serving.outputs import OutputSchema
from shoal.serving.remembered import Remembered
from shoal.serving.rows import Column, Rows
from shoal.serving.scoring import Part
from shoal.serving.statistics import CacheTally
from shoal.types import Json, KeyColumn

_log = logging.getLogger("shoal.serving")

Score = Callable[[Rows], Awaitable[Sequence[Part]]]


class SharedLookup:
    """A lookup that some snapshots of a fleet use, with all that it has cached; the last that lets go of it closes it.

    Parameters
    ----------
    lookup : Lookup
        Held by who makes this.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self._holders = 1
        self._lock = threading.Lock()  # snapshots are opened in threads

    def hold(self) -> bool:
        """Use it as well; False where it is closed already."""
        with self._lock:
            if self._holders:
                self._holders += 1
                return True
            return False

    async def release(self) -> None:
        """Use it no more."""
        with self._lock:
            self._holders -= 1
            is_last = not self._holders
        if is_last:
            await self.lookup.close()


class Between:
    """The lookup and the prediction cache of a fleet that is served. Used from one event loop.

    Parameters
    ----------
    spec : ServingSpec
        What there is of them.
    schema : FleetSchema
        The fleet's columns.
    snapshot : SnapshotRecord
        Which snapshot answers.
    sources : mapping of str to mapping
        The definitions of the sources that the spec names.
    folder : Path
        Private folder for what lookups map.
    before : Between, optional
        That of the snapshot that answers now; its lookup is shared where nothing about it is different.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet or its sources.
    NotFound
        There is no such source.
    """

    def __init__(
        self,
        spec: ServingSpec,
        schema: FleetSchema,
        snapshot: SnapshotRecord,
        *,
        sources: Mapping[str, Mapping[str, Json]],
        folder: Path,
        before: "Between | None" = None,
    ) -> None:
        self._sources = sources
        # First, for a lookup that is held or opened has to be closed, and what fails here is never closed.
        self.store = None if spec.cache is None else open_store(spec.cache, self._source)
        self._looks = (spec.lookup, schema.keys, schema.features, sources)
        self._shared: SharedLookup | None = None
        if spec.lookup is not None:
            if (
                before is not None
                and before._looks == self._looks
                and before._shared is not None
                and before._shared.hold()
            ):
                self._shared = before._shared
            else:
                self._shared = SharedLookup(open_lookup(spec.lookup, schema, self._source, cache=folder))
        self._keys = PredictionKeys(
            schema, snapshot_digest=snapshot.digest, spec_digest=spec.digest, extra=len(self.extra)
        )
        self._remembered: Remembered | None = None
        self._asked_by: list[int] = []
        self._positions: dict[str, int] = {}

    @property
    def lookup(self) -> Lookup | None:
        """Where features are looked up; None where they are not."""
        return None if self._shared is None else self._shared.lookup

    @property
    def cached(self) -> CacheTally | None:
        """What the prediction cache has done; None where there is none."""
        return None if self._remembered is None else self._remembered.tally

    @property
    def extra(self) -> tuple[KeyColumn, ...]:
        """Inputs that only the lookup needs."""
        return () if self.lookup is None else self.lookup.inputs

    @property
    def brought(self) -> tuple[str, ...]:
        """Features that requests need not have."""
        return () if self.lookup is None else self.lookup.features

    def bind(self, inputs: InputSchema, outputs: OutputSchema) -> None:
        """Say in which order the rows' columns are, and what there is to keep; once, before the first request."""
        self._positions = {one.name: one.position for one in inputs.inputs}
        if self.lookup is not None:
            self._asked_by = [self._positions[column.name] for column in self.lookup.keys]
        if self.store is not None:
            self._remembered = Remembered(self.store, self._keys, outputs)

    async def parts(
        self, rows: Rows, given: Collection[str], context: RequestContext, deadline_s: float | None, score: Score
    ) -> tuple[Rows, Sequence[Part], float | None]:
        """The rows, completed, and the answers for them, remembered or scored.

        Beside them, the age of the oldest that was remembered, in seconds; None where none was.

        Parameters
        ----------
        rows : Rows
            The request's, with nothing where features are to be looked up.
        given : collection of str
            Names of the inputs that the request brought; they are taken as they are.
        context : RequestContext
            Whose request it is.
        deadline_s : float or None
            Point of ``time.monotonic()`` until which there is time.
        score : callable
            Scores rows.

        Raises
        ------
        Unavailable
            The source failed or took too long, and the spec says to refuse then.
        DeadlineExceeded
            The request's own time was over first.
        """
        if self.lookup is not None and rows.rows:
            rows = await self._complete(self.lookup, rows, given, context, deadline_s)
        if self._remembered is None:
            return rows, await score(rows), None
        return rows, *await self._remembered.parts(rows, score)

    async def _complete(
        self, lookup: Lookup, rows: Rows, given: Collection[str], context: RequestContext, deadline_s: float | None
    ) -> Rows:
        wanted = [name for name in lookup.features if name not in given]
        if not wanted:
            return rows
        keys = list(zip(*[rows.columns[position] for position in self._asked_by], strict=True))
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        found = await lookup.complete(keys, left_s)
        if found.failure is not None:  # reasons do not tell all of it
            _log.warning("request %s has rows that are not scored: %s", context.request_id, found.failure)
        columns: list[Column] = list(rows.columns)
        for name in wanted:
            columns[self._positions[name]] = found.columns[name]
        return msgspec.structs.replace(rows, columns=tuple(columns), notes=found.reasons, defaulted=found.defaulted)

    def stats(self) -> tuple[LookupStats | None, CacheStats | None]:
        """How the lookup and the prediction cache are doing; None for one that there is not."""
        return (
            None if self.lookup is None else self.lookup.stats(),
            None if self.store is None else self.store.stats(),
        )

    async def close(self) -> None:
        """Let go of everything, once."""
        if self._shared is not None:
            await self._shared.release()
        if self.store is not None:
            await self.store.close()

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise NotFound(f"there is no source {name!r}; `shoal sources list` shows those that there are")
        return load_source(dict(self._sources[name]))
