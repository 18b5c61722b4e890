"""What stands between a request and its score: features looked up by key, and answers that were given before."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from shoal.errors import NotFound
from shoal.registry import SnapshotRecord
from shoal.requests.lookups import Lookup, LookupStats
from shoal.requests.opening import open_lookup, open_store
from shoal.requests.prediction_cache import PredictionKeys
from shoal.requests.sources import Source, load_source
from shoal.requests.spec import FleetSchema, ServingSpec
from shoal.requests.timed_cache import CacheStats
from shoal.serving.inputs import InputSchema
from shoal.serving.outputs import OutputSchema
from shoal.serving.remembered import Remembered
from shoal.serving.rows import Column, Rows
from shoal.serving.scoring import Part
from shoal.serving.statistics import CacheTally
from shoal.types import Json, KeyColumn

Score = Callable[[Rows], Awaitable[Sequence[Part]]]


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
        That of the snapshot before; its lookup, with all that it has cached, goes on where nothing about it changed.

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
        self._looks = (spec.lookup, schema.keys, schema.features, sources)
        self.lookup: Lookup | None = None
        if spec.lookup is not None:
            if before is not None and before._looks == self._looks:
                self.lookup = before.lookup
            else:
                self.lookup = open_lookup(spec.lookup, schema, self._source, cache=folder)
        self.store = None if spec.cache is None else open_store(spec.cache, self._source)
        self._keys = PredictionKeys(
            schema, snapshot_digest=snapshot.digest, spec_digest=spec.digest, extra=len(self.extra)
        )
        self._remembered: Remembered | None = None
        self._asked_by: list[int] = []
        self._positions: dict[str, int] = {}

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
        self, rows: Rows, given: Collection[str], deadline_s: float | None, score: Score
    ) -> tuple[Rows, Sequence[Part], float | None]:
        """The rows, completed, and the answers for them, remembered or scored.

        Beside them, the age of the oldest that was remembered, in seconds; None where none was.

        Parameters
        ----------
        rows : Rows
            The request's, with nothing where features are to be looked up.
        given : collection of str
            Names of the inputs that the request brought; they are taken as they are.
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
            rows = await self._complete(self.lookup, rows, given, deadline_s)
        if self._remembered is None:
            return rows, await score(rows), None
        return rows, *await self._remembered.parts(rows, score)

    async def _complete(self, lookup: Lookup, rows: Rows, given: Collection[str], deadline_s: float | None) -> Rows:
        wanted = [name for name in lookup.features if name not in given]
        if not wanted:
            return rows
        keys = list(zip(*[rows.columns[position] for position in self._asked_by], strict=True))
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        found = await lookup.complete(keys, left_s)
        columns: list[Column] = list(rows.columns)
        for name in wanted:
            columns[self._positions[name]] = found.columns[name]
        return Rows(columns=tuple(columns), rows=rows.rows, size_bytes=rows.size_bytes, notes=found.reasons)

    def stats(self) -> tuple[LookupStats | None, CacheStats | None]:
        """How the lookup and the prediction cache are doing; None for one that there is not."""
        return (
            None if self.lookup is None else self.lookup.stats(),
            None if self.store is None else self.store.stats(),
        )

    async def close(self, heir: "Between | None") -> None:
        """Let go of everything but what goes on with the next snapshot."""
        if self.lookup is not None and (heir is None or heir.lookup is not self.lookup):
            await self.lookup.close()
        if self.store is not None:
            await self.store.close()

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise NotFound(f"there is no source {name!r}; `shoal sources list` shows those that there are")
        return load_source(dict(self._sources[name]))
