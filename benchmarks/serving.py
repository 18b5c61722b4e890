"""Real-time inference against other servers: requests per second, latency, memory, and the time to be ready."""

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence

from sklearn.base import BaseEstimator

from benchmarks import grpc_load, http_load, servers
from benchmarks.case import Bound, Effort, Result, seconds
from benchmarks.population import segment
from benchmarks.serving_fleets import (
    FEATURES,
    ROW,
    even_numbers,
    home,
    keyed_requests,
    machines,
    ridge,
    ridges,
    single,
    single_request,
    zipf_numbers,
)
from shoal.server.grpc import inference_pb2 as pb

CONNECTIONS = 32
MEASURED_S = 4.0
ALL_ON = "Shoal with API keys, request ids, metrics and prediction log on"
PREDICTED_LOG = {"log": {"sample": 1.0}}
ACCESS = ("--access-log", "1")
MANY = 10_000
LARGE = 100_000
MACHINES, VECTORS = 100_000, 500
GIGABYTE_MODELS = 62_500
MLSERVER_MODELS = 500

Measure = Callable[[], float]


def single_row(effort: Effort) -> list[Result]:
    """One small model, one row per request, over HTTP: MLServer and FastAPI beside Shoal, one process each."""
    model = ridge()
    assert isinstance(model, BaseEstimator)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(home())
        place.put(single())
        place.workspace.set_serving("single", spec=PREDICTED_LOG)
        shoal = stack.enter_context(servers.shoal(place.path, ["single"], *ACCESS, key=place.key))
        mlserver = stack.enter_context(servers.mlserver({"single": model}))
        fastapi = stack.enter_context(servers.fastapi(model))
        matrix = {"name": "x", "shape": [1, len(ROW)], "datatype": "FP64", "data": list(ROW)}
        own, ml, fast = in_turns(
            effort.repeats,
            [
                closed(shoal.port, [single_request(shoal)]),
                closed(mlserver.port, [mlserver.request("/v2/models/single/infer", {"inputs": [matrix]})]),
                closed(fastapi.port, [fastapi.request("/predict", dict(zip(FEATURES, ROW, strict=True)))]),
            ],
        )
    case = f"single-row JSON, one model, {CONNECTIONS} connections, requests/s"
    return [
        outpaced(case, "MLServer 1.7, scikit-learn runtime", own, ml, 10, ALL_ON),
        outpaced(case, "FastAPI, pydantic, one joblib model", own, fast, 4, ALL_ON),
    ]


def multiplexed(effort: Effort) -> list[Result]:
    """Ten thousand small models, asked unequally: Ray Serve's multiplexing beside Shoal."""
    count = effort.models(MANY)
    model, numbers = ridge(), zipf_numbers(count, 20_000)
    assert isinstance(model, BaseEstimator)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(home())
        place.put(ridges(count))
        place.workspace.set_serving("ridges", spec=PREDICTED_LOG)
        shoal = stack.enter_context(servers.shoal(place.path, ["ridges"], *ACCESS, key=place.key))
        ray = stack.enter_context(servers.ray_serve({_name(number): model for number in set(numbers)}))
        asked = [
            ray.request("/", {"features": list(ROW)}, {"serve_multiplexed_model_id": _name(number)})
            for number in numbers
        ]
        http_load.run(http_load.Load(port=ray.port, connections=CONNECTIONS, seconds=30 * effort.scale, requests=asked))
        own, theirs = in_turns(
            effort.repeats,
            [closed(shoal.port, keyed_requests(shoal, "ridges", numbers)), closed(ray.port, asked)],
        )
    note = f"{ALL_ON}; Ray Serve with one replica that may hold all models, after half a minute to load them"
    case = f"single-row JSON, {count:,} models, Zipf keys, requests/s"
    return [outpaced(case, "Ray Serve multiplexed", own, theirs, 50, note)]


def grpc_row(effort: Effort) -> list[Result]:
    """One small model, one row per call, over gRPC."""
    model = ridge()
    assert isinstance(model, BaseEstimator)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(home())
        place.put(single())
        place.workspace.set_serving("single", spec=PREDICTED_LOG)
        shoal = stack.enter_context(servers.shoal(place.path, ["single"], key=place.key))
        mlserver = stack.enter_context(servers.mlserver({"single": model}))
        columns = {name: ([1], [value]) for name, value in zip(FEATURES, ROW, strict=True)}
        own, theirs = in_turns(
            effort.repeats,
            [
                called(shoal.grpc_port, _message("single", columns), key=place.key),
                called(mlserver.grpc_port, _message("single", {"x": ([1, len(ROW)], list(ROW))})),
            ],
        )
    case = f"single-row gRPC, one model, {CONNECTIONS} callers, calls/s"
    return [outpaced(case, "MLServer 1.7 over gRPC", own, theirs, 3, ALL_ON)]


def many_rows(effort: Effort) -> list[Result]:
    """A hundred rows of a hundred models in one request, beside a hundred requests."""
    count = effort.models(MANY)
    with home() as place:
        place.put(ridges(count))
        with servers.shoal(place.path, ["ridges"], key=place.key) as shoal:
            numbers = even_numbers(count, count)
            together, alone = in_turns(
                effort.repeats,
                [
                    closed(shoal.port, keyed_requests(shoal, "ridges", numbers, rows=100)),
                    closed(shoal.port, keyed_requests(shoal, "ridges", numbers)),
                ],
            )
    case = f"100-row requests over 100 different models of {count:,}, rows/s"
    return [outpaced(case, "own single-row requests", 100 * together, alone, 15)]


def cross_model(effort: Effort) -> list[Result]:
    """Requests for different heavy models that wait at the same moment: one kernel call, or one each."""
    count = effort.models(MACHINES)
    with home() as place, contextlib.ExitStack() as stack:
        place.put(machines(count, VECTORS))
        on = stack.enter_context(servers.shoal(place.path, ["machines"], key=place.key))
        off = stack.enter_context(servers.shoal(place.path, ["machines"], "--no-batching", key=place.key))
        numbers = even_numbers(count, 20_000)
        together, alone = in_turns(
            effort.repeats,
            [closed(server.port, keyed_requests(server, "machines", numbers), connections=256) for server in (on, off)],
        )
    case = f"256 connections, {count:,} kernel machines with {VECTORS} support vectors, batching on, requests/s"
    return [outpaced(case, "batching off", together, alone, 1.5)]


def latency(effort: Effort) -> list[Result]:
    """The slowest hundredth of the answers at half of the load that the server can take."""
    count = effort.models(LARGE)
    with home() as place:
        place.put(ridges(count))
        place.workspace.set_serving("ridges", spec=PREDICTED_LOG)
        with servers.shoal(place.path, ["ridges"], *ACCESS, key=place.key) as shoal:
            requests = keyed_requests(shoal, "ridges", even_numbers(count, 20_000))
            most = closed(shoal.port, requests)()
            half = http_load.Load(
                port=shoal.port, connections=CONNECTIONS, seconds=2 * MEASURED_S, requests=requests, rate=most / 2
            )
            outcomes = [http_load.run(half) for _ in range(effort.repeats)]
    p99_s = statistics.median(outcome.p99_s for outcome in outcomes)
    return [
        Result(
            case=f"99th percentile of latency at {most / 2:,.0f} requests/s, half of the most, {count:,} models",
            against="a fixed limit",
            shoal=seconds(p99_s),
            figure=1e3 * p99_s,
            unit="ms",
            limit=10,
            bound=Bound.AT_MOST,
            note=f"{ALL_ON}; requests are due at even times, and latency counts from when they were due",
        )
    ]


def shared_memory(effort: Effort) -> list[Result]:
    """What four workers take beside one, with a fleet of a gigabyte."""
    with home() as place:
        place.put(machines(effort.models(GIGABYTE_MODELS), VECTORS))
        blocks = sum(path.stat().st_size for path in place.path.rglob("*.arrow"))
        taken = [_memory(place.path, place.key, workers) for workers in (1, 4)]
    return [
        Result(
            case=f"memory (PSS) of 4 workers with a fleet of {blocks / 1e9:.2f} GB",
            against="one worker",
            shoal=f"{taken[1] / 2**20:,.0f} MiB",
            peer=f"{taken[0] / 2**20:,.0f} MiB",
            figure=taken[1] / taken[0],
            unit="x",
            limit=1.2,
            bound=Bound.AT_MOST,
            note="after every model was asked once; the supervisor counts as well",
        )
    ]


def starting(effort: Effort) -> list[Result]:
    """From the command to the first answer: a hundred thousand models, beside MLServer with five hundred."""
    count, few = effort.models(LARGE), effort.models(MLSERVER_MODELS)
    model = ridge()
    assert isinstance(model, BaseEstimator)
    with home() as place:
        place.put(ridges(count))
        with servers.shoal(place.path, ["ridges"], key=place.key):
            pass  # the first time verifies the files
        own = statistics.median(_ready_s(servers.shoal(place.path, ["ridges"])) for _ in range(effort.repeats))
    peer = _ready_s(servers.mlserver({f"model-{number}": model for number in range(few)}))
    case = f"start to ready, {count:,} models, warm"
    note = "files verified and kernels compiled before"
    limits = (
        (f"MLServer with {few} models", seconds(peer), peer / own, "x", 1.0, Bound.AT_LEAST),
        ("a fixed limit", "", own, "s", 3.0, Bound.AT_MOST),
    )
    return [
        Result(
            case=case, against=against, shoal=seconds(own), peer=theirs, figure=figure, unit=unit, limit=limit,
            bound=bound, note=note,
        )
        for against, theirs, figure, unit, limit, bound in limits
    ]  # fmt: skip


def closed(port: int, requests: Sequence[bytes], *, connections: int = CONNECTIONS) -> Measure:
    """Good answers per second of a closed loop; any other answer ends the benchmark."""
    load = http_load.Load(port=port, connections=connections, seconds=MEASURED_S, requests=list(requests))

    def measure() -> float:
        outcome = http_load.run(load)
        if outcome.refused or outcome.broken or not outcome.answers:
            raise RuntimeError(f"answers that are none: {outcome}")
        return outcome.per_second

    return measure


def called(port: int, message: bytes, *, key: str = "") -> Measure:
    """Good answers per second over gRPC."""
    calls = grpc_load.Calls(port=port, callers=CONNECTIONS, seconds=MEASURED_S, message=message, key=key)
    return lambda: grpc_load.run(calls)


def in_turns(repeats: int, measures: Sequence[Measure]) -> list[float]:
    """Measure in turns, so that a busy moment of the machine meets all; the medians."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(repeats):
        for measure, values in zip(measures, found, strict=True):
            values.append(measure())
    return [statistics.median(values) for values in found]


def outpaced(case: str, against: str, own: float, theirs: float, limit: float, note: str = "") -> Result:
    """The line of a race that counts what is done per second."""
    return Result(
        case=case,
        against=against,
        shoal=f"{own:,.0f}",
        peer=f"{theirs:,.0f}",
        figure=own / theirs,
        unit="x",
        limit=limit,
        bound=Bound.AT_LEAST,
        note=note,
    )


def _name(number: int) -> str:
    return "-".join(segment(number))


def _message(model: str, tensors: Mapping[str, tuple[list[int], list[float]]]) -> bytes:
    message = pb.ModelInferRequest(model_name=model)
    for name, (shape, values) in tensors.items():
        tensor = message.inputs.add(name=name, datatype="FP64", shape=shape)
        tensor.contents.fp64_contents.extend(values)
    return message.SerializeToString()


def _memory(path: object, key: str, workers: int) -> int:
    from pathlib import Path

    assert isinstance(path, Path)
    with servers.shoal(path, ["machines"], "--workers", str(workers), key=key) as server:
        requests = keyed_requests(server, "machines", even_numbers(GIGABYTE_MODELS, GIGABYTE_MODELS), rows=500)
        for _ in range(3 * workers):
            http_load.run(
                http_load.Load(port=server.port, connections=2 * workers, seconds=2.0, warmup_s=0.0, requests=requests)
            )
        return servers.pss_bytes(server.pid)


def _ready_s(server: "contextlib.AbstractContextManager[servers.Server]") -> float:
    with server as running:
        return running.ready_s


CASES = {
    "serve-single": single_row,
    "serve-many": multiplexed,
    "serve-grpc": grpc_row,
    "serve-rows": many_rows,
    "serve-batching": cross_model,
    "serve-latency": latency,
    "serve-memory": shared_memory,
    "serve-start": starting,
}
