"""A snapshot of a fleet that is being served: from one request to its response."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from shoal.engines.threads import shared_threads
from shoal.errors import NotFound, TooLarge
from shoal.families.contract import Layout
from shoal.fleet import Fleet
from shoal.registry import SnapshotRecord
from shoal.requests.batcher import Batcher, Lane, Limits
from shoal.requests.cost import Cost
from shoal.scoring.score import score
from shoal.serving.addresses import ModelAddress, parse_key
from shoal.serving.messages import InferenceRequest, InferenceResponse, ModelMetadata, RequestContext, Tensor
from shoal.serving.options import ServingOptions
from shoal.serving.outputs import Output, OutputSchema, ScoredBatch
from shoal.serving.statistics import FleetCounters
from shoal.serving.tensors import InputSchema, Rows
from shoal.table.keys import frame_of_keys
from shoal.types import KeyType, Outcome

Part = tuple[ScoredBatch, int, int]
"""Some rows of what one kernel call found."""

#: Addresses of single models that are kept parsed.
KEPT_ADDRESSES = 16_384


class Addressed:
    """A single model of a fleet, as requests use it.

    Parameters
    ----------
    address : ModelAddress
        Its level and key.
    constants : sequence
        The values of the fleet's key columns; None where the level leaves one out.
    level : int
        Position of its level, -1 where the fleet has no such level.
    """

    __slots__ = ("address", "constants", "level")

    def __init__(self, address: ModelAddress, constants: Sequence[object], level: int) -> None:
        self.address = address
        self.constants = constants
        self.level = level


class ServedFleet:
    """One snapshot, its queue and its counters.

    Parameters
    ----------
    fleet : Fleet
        Mapped and verified.
    snapshot : SnapshotRecord
        Which it is.
    lane : Lane
        What it shares with others.
    options : ServingOptions
        Limits.
    cost : Cost, optional
        What is known of calls, from the snapshot before.
    """

    def __init__(
        self, fleet: Fleet, snapshot: SnapshotRecord, *, lane: Lane, options: ServingOptions, cost: Cost | None = None
    ) -> None:
        self.fleet = fleet
        self.snapshot = snapshot
        self.version = str(snapshot.version)
        self.inputs = InputSchema(fleet.keys, fleet.features)
        self.outputs = OutputSchema(fleet.table, snapshot.version)
        limits = Limits(
            queue_rows=options.queue_rows,
            inline_s=options.inline_s,
            call_s=options.call_s,
            batching=options.batching,
        )
        self.batcher: Batcher[Rows, Part] = Batcher(
            self._run, lane=lane, limits=limits, cost=cost, name=f"fleet {fleet.name!r}"
        )
        self.counters = FleetCounters(fleet.name, self.version, self.batcher.tally)
        self._max_rows = options.max_rows
        self._threads = shared_threads()
        self._addressed: dict[str, Addressed] = {}

    async def infer(self, request: InferenceRequest, context: RequestContext, key: str | None) -> InferenceResponse:
        """Answer a request from this snapshot.

        Parameters
        ----------
        request : InferenceRequest
            The request.
        context : RequestContext
            What else is known of it.
        key : str or None
            What follows the fleet's name in the address: a single model's key.

        Raises
        ------
        InvalidInput
            The inputs do not fit.
        NotFound
            There is no such single model.
        TooLarge, Overloaded, DeadlineExceeded
            Too many rows, a full queue, or no time left.
        """
        started_ns = time.perf_counter_ns()
        try:
            wanted = self.outputs.wanted(request.outputs)
            addressed = None if key is None else self.addressed(key)
            rows = self.inputs.rows(request.inputs, None if addressed is None else addressed.constants)
            if rows.rows > self._max_rows:
                raise TooLarge(f"{rows.rows} rows in one request; send at most {self._max_rows} at a time")
            if rows.rows <= 256:
                parts = [await self._submit(rows, context)]
            else:
                parts = await self._pieces(rows, context)
            if addressed is not None:
                self._require_own(addressed, parts)
            outputs = tuple([_joined(parts, output, addressed) for output in wanted])
        except BaseException:
            self.counters.failed(started_ns)
            raise
        self.counters.answered(started_ns)
        return InferenceResponse(model_name=request.model, model_version=self.version, outputs=outputs, id=request.id)

    def _submit(self, rows: Rows, context: RequestContext) -> "asyncio.Future[Part]":
        return self.batcher.submit(rows, rows=rows.rows, size_bytes=rows.size_bytes, deadline_s=context.deadline_s)

    async def _pieces(self, rows: Rows, context: RequestContext) -> list[Part]:
        """Score many rows piece by piece, so that others get their turn between two."""
        parts, start = [], 0
        while start < rows.rows:
            stop = min(start + self.batcher.piece_rows(), rows.rows)
            piece = rows if stop - start == rows.rows else rows.slice(start, stop)
            parts.append(await self._submit(piece, context))
            start = stop
        return parts

    def _run(self, requests: Sequence[Rows]) -> Sequence[Part]:
        """Score the rows of many requests in one call."""
        frame = self.inputs.frame(requests)
        batch = ScoredBatch(score(self.fleet.table, frame, threads=self._threads))
        parts, start = [], 0
        for request in requests:
            parts.append((batch, start, start + request.rows))
            start += request.rows
        return parts

    def addressed(self, key: str) -> Addressed:
        """The single model of an address's key; whether there is one shows when it is asked.

        Raises
        ------
        NotFound
            No model can have that key.
        """
        found = self._addressed.get(key)
        if found is None:
            address = parse_key(self.fleet.name, self.fleet.keys, key)
            values = dict(zip(address.level, address.key, strict=True))
            constants = [
                str(values[column.name]) if column.type is KeyType.DATE and column.name in values
                else values.get(column.name)
                for column in self.fleet.keys
            ]  # fmt: skip
            level = self.fleet.levels.index(address.level) if address.level in self.fleet.levels else -1
            found = Addressed(address, constants, level)
            if len(self._addressed) >= KEPT_ADDRESSES:
                self._addressed.clear()
            self._addressed[key] = found
        return found

    def _require_own(self, addressed: Addressed, parts: Sequence[Part]) -> None:
        """Refuse an answer that another model gave in place of the one that was asked."""
        batch, start, stop = parts[0]
        if addressed.level < 0 or (start < stop and batch.scored.levels[start] != addressed.level):
            raise self._no_model(addressed)

    def _no_model(self, addressed: Addressed) -> NotFound:
        name = self.fleet.name
        return NotFound(f"fleet {name!r} has no model {addressed.address.text}; ask {name!r} itself for its fallback")

    def has_model(self, key: str) -> bool:
        """Whether there is a model of an address's key."""
        return self._number(self.addressed(key)) >= 0

    def _number(self, addressed: Addressed) -> int:
        """The model's number in the table, negative if there is none."""
        level, key = addressed.address.level, addressed.address.key
        if addressed.level < 0:
            return -1
        frame = frame_of_keys(self.fleet.keys, level, [key])
        return int(self.fleet.table.find(frame, level, self._threads)[0])

    def metadata(self, name: str, key: str | None) -> ModelMetadata:
        """What the fleet, or a single model of it, takes and gives.

        Raises
        ------
        NotFound
            There is no such single model.
        """
        properties: dict[str, str | int | float | bool] = {"task": str(self.fleet.task)}
        features = None
        if key is None:
            properties["models"] = self.snapshot.model_count
        else:
            addressed = self.addressed(key)
            number = self._number(addressed)
            if number < 0:
                raise self._no_model(addressed)
            layout = self._layout(number)
            properties["family"] = layout.family
            features = None
        return ModelMetadata(
            name=name,
            versions=(self.version,),
            inputs=self.inputs.metadata(keys=key is None, features=features),
            outputs=self.outputs.metadata(),
            properties=properties,
        )

    def _layout(self, number: int) -> Layout:
        table = self.fleet.table
        block = int(np.searchsorted(table.starts, number, side="right")) - 1
        return table.blocks[block].header.layout

    def warm(self) -> None:
        """Touch everything that is made at first use, so that no request waits for it."""
        frame = self.inputs.frame([self.inputs.nothing()])
        score(self.fleet.table, frame, threads=self._threads)


def _joined(parts: Sequence[Part], output: Output, addressed: Addressed | None) -> Tensor:
    """One output of a request, from all of its parts."""
    if len(parts) == 1:
        batch, start, stop = parts[0]
        values = batch.values(output, start, stop)
    else:
        values = [value for batch, start, stop in parts for value in batch.values(output, start, stop)]
    if addressed is not None and addressed.level > 0 and output.name == "outcome":
        # a coarse model that was asked for by its own address is nobody's fallback
        values = [Outcome.SCORED.word if value == Outcome.FALLBACK.word else value for value in values]
    return output.tensor(values)
