"""A snapshot of a fleet that is being served: from one request to its response."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from shoal.fleet import Fleet
from shoal.registry import SnapshotRecord
from shoal.requests.batcher import Batcher, Lane, Limits
from shoal.requests.cost import Cost
from shoal.requests.loading import load
from shoal.serving.addressed import SingleModel, SingleModels
from shoal.serving.desired import Wanted
from shoal.serving.inputs import InputSchema, given_rows
from shoal.serving.keeping import Keepers, Keeping
from shoal.serving.messages import InferenceRequest, InferenceResponse, ModelMetadata, RequestContext, Tensor, Value
from shoal.serving.options import ServingOptions
from shoal.serving.outputs import Output, OutputSchema
from shoal.serving.rows import Rows
from shoal.serving.ruled import RuledScoring, scoring_of
from shoal.serving.scoring import Part, tensors_of
from shoal.serving.statistics import FleetCounters
from shoal.table.keys import level_name

if TYPE_CHECKING:
    from shoal.serving.between import Between

Result = TypeVar("Result")

#: How often to look whether a replaced snapshot has answered its last request, in seconds.
RETIRE_S = 0.1

#: The parameter of a response that says how old the oldest prediction in it is that came from the cache, in seconds.
CACHE_AGE = "cache_age_s"

_NOTHING_TO_SAY: Mapping[str, Value] = {}

#: Requests with more rows are scored in pieces, so that others get their turn.
PIECE_ROWS = 1024

#: Requests with more rows are read and answered in the worker thread, away from the event loop.
HEAVY_ROWS = 4096


class _Answered(NamedTuple):
    """The rows of a request, what was found for them, the outputs, and what there is to say of the answer.

    Beside it, how long reading and writing tensors took, in nanoseconds.
    """

    rows: Rows
    parts: Sequence[Part]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Value]
    input_ns: int
    output_ns: int


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
    between : Between, optional
        Its lookup and prediction cache, it is closed with the rest.
    keepers : Keepers, optional
        Where what is to be kept of requests goes; nothing is kept unless told.
    cost : Cost, optional
        What calls are known to cost, from what is served until now.

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
        between: "Between | None" = None,
        keepers: Keepers | None = None,
        cost: Cost | None = None,
    ) -> None:
        spec = load(wanted.spec)
        self.fleet = fleet
        self.snapshot = snapshot
        self.wanted = wanted
        self.version = str(snapshot.version)
        self.between = between
        extra, brought = ((), ()) if between is None else (between.extra, between.brought)
        self.inputs = InputSchema(fleet.keys, fleet.features, extra, brought)
        self._scoring = scoring_of(fleet.table, self.inputs, spec)
        ruled = self._scoring.rules.outputs if isinstance(self._scoring, RuledScoring) else None
        self.outputs = OutputSchema(fleet.table, snapshot.version, ruled)
        if between is not None:
            between.bind(self.inputs, self.outputs)
        self._keeping: Keeping | None = None
        if keepers is not None:
            keepers.retention.keep(fleet.name, None if spec.log is None else spec.log.keep_days)
            if spec.log is not None or spec.store == "durable":
                self._keeping = Keeping(fleet.name, snapshot.version, spec, self.inputs, self.outputs, keepers)
        self.models = SingleModels(fleet)
        limits = Limits(
            queue_rows=options.most_waiting_rows,
            inline_s=options.inline_s,
            call_s=options.call_s,
            batching=options.batching,
        )
        self.batcher: Batcher[Rows, Part] = Batcher(
            self._scoring,
            lane=lane,
            limits=limits,
            cost=cost,
            name=f"fleet {fleet.name!r}",
        )
        cached = None if between is None else between.cached
        self.counters = FleetCounters(fleet.name, self.version, self.batcher.tally, cached)
        self._lane = lane
        self._under_way = 0
        self._max_rows = options.most_rows(spec.limits.max_rows)
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
        Unavailable
            The result is to be durable and could not be committed.
        """
        started_ns = time.perf_counter_ns()
        keeping, parameters = self._keeping, _NOTHING_TO_SAY
        self._under_way += 1
        try:
            wanted = self.outputs.wanted(request.outputs)
            single = None if key is None else self.models[key]
            deadline_s = context.deadline_s
            if self._timeout_s is not None:
                limit_s = time.monotonic() + self._timeout_s
                deadline_s = limit_s if deadline_s is None else min(deadline_s, limit_s)
            if self.between is None and request.inputs and len(request.inputs[0].data) <= self._few_rows:
                rows = self._rows(request, single)
                read_ns = time.perf_counter_ns()
                part = await self.batcher.submit(
                    rows,
                    rows=rows.rows,
                    size_bytes=rows.size_bytes,
                    deadline_s=deadline_s,
                    one_by_one=context.one_by_one,
                )
                found_ns = time.perf_counter_ns()
                parts: Sequence[Part] = (part,)
                outputs = tensors_of(parts, wanted, single)
            else:
                rows, parts, outputs, parameters, input_ns, output_ns = await self._answer(
                    request, context, deadline_s, single, wanted
                )
                read_ns, found_ns = started_ns + input_ns, time.perf_counter_ns() - output_ns
            if keeping is not None and keeping.is_durable:
                is_own = single is not None
                written_ns = time.perf_counter_ns()
                await keeping.commit(
                    request.model, context, rows, parts, started_ns=started_ns, deadline_s=deadline_s, is_own=is_own
                )
                found_ns += time.perf_counter_ns() - written_ns  # what follows has nothing to do with the outputs
        except BaseException:
            self.counters.failed(started_ns)
            raise
        finally:
            self._under_way -= 1
        self.counters.answered(started_ns, read_ns, found_ns)
        if keeping is not None:
            keeping.offer(request.model, context, rows, parts, started_ns=started_ns, is_own=single is not None)
        return InferenceResponse(
            model_name=request.model,
            model_version=self.version,
            outputs=outputs,
            id=request.id,
            parameters=parameters,
        )

    async def check(self, request: InferenceRequest, key: str | None) -> None:
        """Refuse what :meth:`infer` would refuse whatever else happens, without scoring; parameters as of that.

        Raises
        ------
        InvalidInput
            The inputs do not fit, a check of the fleet's serving spec refuses them, or there is no such output.
        NotFound
            There is no such single model.
        TooLarge
            Too many rows.
        """
        self.outputs.wanted(request.outputs)
        single = None if key is None else self.models[key]
        given = given_rows(request.inputs, self._max_rows)
        rows, _ = await self._apart(given > HEAVY_ROWS, self._rows, request, single)
        if single is not None:
            _ = single.number  # raises if there is none
        if isinstance(self._scoring, RuledScoring) and (self.between is None or self.between.lookup is None):
            await self._apart(given > HEAVY_ROWS, self._scoring.require, rows)

    def _rows(self, request: InferenceRequest, single: SingleModel | None) -> Rows:
        if single is None:
            return self.inputs.rows(request.inputs)
        return self.inputs.rows(request.inputs, single.constants, single.needed)

    async def _answer(
        self,
        request: InferenceRequest,
        context: RequestContext,
        deadline_s: float | None,
        single: SingleModel | None,
        wanted: Sequence[Output],
    ) -> "_Answered":
        """Answer a request that has many rows, or of a fleet with a lookup or a cache."""
        is_heavy = given_rows(request.inputs, self._max_rows) > HEAVY_ROWS
        rows, input_ns = await self._apart(is_heavy, self._rows, request, single)

        async def score(chosen: Rows) -> Sequence[Part]:
            return await self._scored(chosen, deadline_s)

        age_s = None
        if self.between is None:
            parts = await score(rows)
        else:
            names = self.inputs.names(request.inputs, None if single is None else single.needed)
            rows, parts, age_s = await self.between.parts(rows, names, context, deadline_s, score)
        parameters = _NOTHING_TO_SAY if age_s is None else {CACHE_AGE: round(age_s, 3)}
        outputs, output_ns = await self._apart(is_heavy, tensors_of, parts, wanted, single)
        return _Answered(rows, parts, outputs, parameters, input_ns, output_ns)

    async def _apart(self, is_heavy: bool, work: Callable[..., Result], *arguments: object) -> tuple[Result, int]:
        """Do what takes long in the worker thread, away from the event loop; with the nanoseconds it took."""
        if not is_heavy:
            return _timed(work, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._lane.executor, _timed, work, *arguments)

    async def _scored(self, rows: Rows, deadline_s: float | None) -> Sequence[Part]:
        """Score rows, many of them piece by piece; the whole counts as waiting until it is done."""
        if rows.rows <= PIECE_ROWS:
            return [await self.batcher.submit(rows, rows=rows.rows, size_bytes=rows.size_bytes, deadline_s=deadline_s)]
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
        extra = () if self.between is None else self.between.extra
        typed = [*self.fleet.keys, *extra] if key is None else extra
        properties: dict[str, Value] = {"task": str(self.fleet.task)}
        if typed:
            properties["key_types"] = msgspec.json.encode({column.name: column.type for column in typed}).decode()
        if key is None:
            inputs = self.inputs.metadata()
            properties["models"] = self.snapshot.model_count
            properties["levels"] = msgspec.json.encode([level_name(level) for level in self.fleet.levels]).decode()
            properties["keys"] = len(self.fleet.keys)  # so many inputs, from the first on, are key columns
        else:
            layout = self.models[key].layout
            inputs = self.inputs.metadata(keys=False, features=[feature.name for feature in layout.features])
            properties["family"] = layout.family
        if self.fleet.labels:
            properties["labels"] = msgspec.json.encode(self.fleet.labels).decode()
        return ModelMetadata(
            name=name,
            versions=(self.version,),
            inputs=inputs,
            outputs=self.outputs.metadata(),
            properties=properties,
        )

    async def retire(self) -> None:
        """Wait for the last request, then let go of everything."""
        if self.between is None:
            return
        while self._under_way:
            await asyncio.sleep(RETIRE_S)
        await self.between.close()

    def warm(self) -> None:
        """Make everything that is made at first use, so that no request waits for it."""
        part = self._scoring([self.inputs.nothing()])[0]
        if isinstance(part, Exception):  # a check that refuses missing values is warm as well
            return
        batch, start, stop = part
        for output in self.outputs.outputs:
            batch.values(output, start, stop)


def _timed(work: Callable[..., Result], *arguments: object) -> tuple[Result, int]:
    """The result, and how long it took in nanoseconds."""
    began_ns = time.perf_counter_ns()
    return work(*arguments), time.perf_counter_ns() - began_ns
