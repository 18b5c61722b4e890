"""A snapshot of a fleet that is being served: from one request to its response."""

import asyncio
import time
from collections.abc import Sequence

from shoal.errors import TooLarge
from shoal.fleet import Fleet
from shoal.registry import SnapshotRecord
from shoal.requests.batcher import Batcher, Lane, Limits
from shoal.requests.cost import Cost
from shoal.requests.loading import load
from shoal.requests.spec import ServingSpec
from shoal.serving.addressed import SingleModel, SingleModels
from shoal.serving.desired import Wanted
from shoal.serving.messages import InferenceRequest, InferenceResponse, ModelMetadata, RequestContext, Tensor, Value
from shoal.serving.options import ServingOptions
from shoal.serving.outputs import Output, OutputSchema
from shoal.serving.ruled import RuledScoring
from shoal.serving.scoring import Part, Scoring
from shoal.serving.statistics import FleetCounters
from shoal.serving.tensors import InputSchema, Rows
from shoal.types import Outcome

#: Requests with more rows are scored in pieces, so that others get their turn.
PIECE_ROWS = 1024

#: Requests with more rows are read and answered in the worker thread, away from the event loop.
HEAVY_ROWS = 4096


class ServedFleet:
    """One snapshot, its queue and its counters.

    Parameters
    ----------
    fleet : Fleet
        Mapped and verified.
    snapshot : SnapshotRecord
        Which it is.
    wanted : Wanted
        How it is to be served.
    lane : Lane
        What it shares with others.
    options : ServingOptions
        Limits.
    cost : Cost, optional
        What is known of calls, from the snapshot before.

    Raises
    ------
    InvalidSpec
        The serving spec does not fit the fleet.
    """

    def __init__(
        self,
        fleet: Fleet,
        snapshot: SnapshotRecord,
        wanted: Wanted,
        *,
        lane: Lane,
        options: ServingOptions,
        cost: Cost | None = None,
    ) -> None:
        spec = load(wanted.spec)
        self.fleet = fleet
        self.snapshot = snapshot
        self.wanted = wanted
        self.version = str(snapshot.version)
        self.inputs = InputSchema(fleet.keys, fleet.features)
        self._scoring = _scoring(fleet, self.inputs, spec)
        ruled = self._scoring.rules.outputs if isinstance(self._scoring, RuledScoring) else None
        self.outputs = OutputSchema(fleet.table, snapshot.version, ruled)
        self.models = SingleModels(fleet)
        limits = Limits(
            queue_rows=options.queue_rows,
            inline_s=options.inline_s,
            call_s=options.call_s,
            batching=options.batching,
        )
        self.batcher: Batcher[Rows, Part] = Batcher(
            self._scoring, lane=lane, limits=limits, cost=cost, name=f"fleet {fleet.name!r}"
        )
        self.counters = FleetCounters(fleet.name, self.version, self.batcher.tally)
        self._lane = lane
        self._max_rows = min(options.max_rows, spec.limits.max_rows or options.max_rows)
        self._few_rows = min(PIECE_ROWS, self._max_rows)
        self._timeout_s = spec.limits.timeout_s

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
            single = None if key is None else self.models[key]
            deadline_s = context.deadline_s
            if deadline_s is None and self._timeout_s is not None:
                deadline_s = time.monotonic() + self._timeout_s
            if request.inputs and len(request.inputs[0].data) > self._few_rows:
                outputs = await self._many(request, deadline_s, single, wanted)
            else:
                rows = self._rows(request, single)
                part = await self.batcher.submit(
                    rows, rows=rows.rows, size_bytes=rows.size_bytes, deadline_s=deadline_s
                )
                outputs = _tensors([part], wanted, single)
        except BaseException:
            self.counters.failed(started_ns)
            raise
        self.counters.answered(started_ns)
        return InferenceResponse(model_name=request.model, model_version=self.version, outputs=outputs, id=request.id)

    def _rows(self, request: InferenceRequest, single: SingleModel | None) -> Rows:
        if single is None:
            return self.inputs.rows(request.inputs)
        return self.inputs.rows(request.inputs, single.constants, single.needed)

    async def _many(
        self, request: InferenceRequest, deadline_s: float | None, single: SingleModel | None, wanted: Sequence[Output]
    ) -> tuple[Tensor, ...]:
        """Answer a request with many rows piece by piece; the whole of it counts as waiting until it is done."""
        given = len(request.inputs[0].data)
        if given > self._max_rows:
            raise TooLarge(f"{given} rows in one request; send at most {self._max_rows} at a time")
        loop = asyncio.get_running_loop()
        heavy = given > HEAVY_ROWS
        if heavy:
            rows = await loop.run_in_executor(self._lane.executor, self._rows, request, single)
        else:
            rows = self._rows(request, single)
        parts = await self._pieces(rows, deadline_s)
        if heavy:
            return await loop.run_in_executor(self._lane.executor, _tensors, parts, wanted, single)
        return _tensors(parts, wanted, single)

    async def _pieces(self, rows: Rows, deadline_s: float | None) -> list[Part]:
        self.batcher.admit(rows.rows, rows.size_bytes)
        parts, start = [], 0
        try:
            while start < rows.rows:
                piece = rows.slice(start, min(start + self.batcher.piece_rows(), rows.rows))
                start += piece.rows
                parts.append(await self.batcher.submit(piece, rows=piece.rows, deadline_s=deadline_s, admitted=True))
        finally:
            self.batcher.release(rows.rows - start, rows.size_bytes)
        return parts

    def metadata(self, name: str, key: str | None) -> ModelMetadata:
        """What the fleet, or a single model of it, takes and gives.

        Parameters
        ----------
        name : str
            The address.
        key : str or None
            What follows the fleet's name in it.

        Raises
        ------
        NotFound
            There is no such single model.
        """
        properties: dict[str, Value] = {"task": str(self.fleet.task)}
        if key is None:
            inputs = self.inputs.metadata()
            properties["models"] = self.snapshot.model_count
        else:
            layout = self.models[key].layout
            inputs = self.inputs.metadata(keys=False, features=[feature.name for feature in layout.features])
            properties["family"] = layout.family
        return ModelMetadata(
            name=name,
            versions=(self.version,),
            inputs=inputs,
            outputs=self.outputs.metadata(),
            properties=properties,
        )

    def warm(self) -> None:
        """Make everything that is made at first use, so that no request waits for it."""
        part = self._scoring([self.inputs.nothing()])[0]
        if isinstance(part, Exception):  # a check that refuses missing values is warm as well
            return
        batch, start, stop = part
        for output in self.outputs.outputs:
            batch.values(output, start, stop)


def _scoring(fleet: Fleet, inputs: InputSchema, spec: ServingSpec) -> Scoring:
    """What runs for each call: nothing but the models where no check or rule is set."""
    if spec.rules or spec.threshold or spec.checks.inputs or spec.checks.outputs:
        return RuledScoring(fleet.table, inputs, spec)
    return Scoring(fleet.table, inputs)


def _tensors(parts: Sequence[Part], wanted: Sequence[Output], single: SingleModel | None) -> tuple[Tensor, ...]:
    """The outputs of a request, from all of its parts."""
    if single is not None:
        batch, start, stop = parts[0]
        single.require_own(batch.levels[start:stop])
    return tuple([_tensor(parts, output, single) for output in wanted])


def _tensor(parts: Sequence[Part], output: Output, single: SingleModel | None) -> Tensor:
    if len(parts) == 1:
        batch, start, stop = parts[0]
        values = batch.values(output, start, stop)
    else:
        values = [value for batch, start, stop in parts for value in batch.values(output, start, stop)]
    if single is not None and single.level > 0 and output.name == "outcome":
        # a coarse model that was asked for by its own address is nobody's fallback
        values = [Outcome.SCORED.word if value == Outcome.FALLBACK.word else value for value in values]
    return output.tensor(values)
