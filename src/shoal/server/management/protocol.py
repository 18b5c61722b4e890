"""Descriptions of the routes that are plain ASGI: the open inference protocol, predictions, health, metrics."""

from collections.abc import Mapping
from typing import Final

import msgspec

from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionKind
from shoal.server.management.operations import (
    JSON,
    TEXT,
    TRUTH,
    WHOLE,
    Node,
    Operation,
    either,
    listed,
    record,
    reference,
)
from shoal.serving.messages import Datatype, IndexEntry, ModelMetadata, ServerMetadata
from shoal.serving.services import Service
from shoal.storage.decoding import decodable

_BINARY: Final = "application/octet-stream"
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_STORE: Final = "/v2/repository/models/{model}"
_PREDICTION: Final = "/api/v1/predictions/{id}"

_INFERENCE, _REPOSITORY, _PREDICTIONS, _HEALTH = "inference", "repository", "predictions", "health"

_NULL: Final[Node] = {"type": "null"}
_NUMBER: Final[Node] = {"type": "number"}
_ANYTHING: Final[Node] = {"type": "object"}
_BYTES: Final[Node] = {"type": "string", "format": "binary"}
_CELL: Final[Node] = {"type": ["boolean", "number", "string", "null"]}
_SIZE: Final[Node] = {"type": "integer", "minimum": 0}
_TIME: Final[Node] = {
    "anyOf": [{"type": "string", "format": kind} for kind in ("date-time", "date")],
    "examples": ["2026-01-31T12:00:00Z", "2026-01-31"],
}
_SHAPE: Final = listed(_SIZE)
_DATA: Final = listed(either(_CELL, listed(_CELL)))
_VALUES: Final[Node] = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_TENSOR: Final[Mapping[str, Node]] = {"name": TEXT, "shape": _SHAPE, "datatype": reference("Datatype")}
_COUNTED: Final = record({"count": WHOLE, "ns": WHOLE})
_ROWS: Final = listed(either({"type": "object", "additionalProperties": _CELL}, listed(_CELL), _CELL))

_OWN: Final[Mapping[str, Node]] = {
    "Error": record({"error": {"type": "string", "minLength": 1, "description": "What to do"}}),
    "InferenceRequest": record(
        {"inputs": listed(reference("InputTensor"))},
        {
            "id": either(TEXT, _NULL),
            "outputs": either(listed(reference("WantedOutput")), _NULL),
            "parameters": either(_VALUES, _NULL),
        },
    ),
    "InputTensor": record(
        _TENSOR,
        {"data": _DATA, "parameters": either(record({}, {"binary_data_size": either(_SIZE, _NULL)}), _NULL)},
    ),
    "WantedOutput": record(
        {"name": TEXT}, {"parameters": either(record({}, {"binary_data": either(TRUTH, _NULL)}), _NULL)}
    ),
    "InferenceResponse": record(
        {"model_name": TEXT, "model_version": TEXT, "outputs": listed(reference("OutputTensor"))},
        {"id": TEXT, "parameters": _VALUES},
    ),
    "OutputTensor": record(_TENSOR, {"data": listed(_CELL), "parameters": record({}, {"binary_data_size": _SIZE})}),
    "Invocation": either(
        record({"dataframe_split": record({"columns": listed(either(TEXT, WHOLE)), "data": listed(listed(_CELL))})}),
        record({"dataframe_records": listed({"type": "object", "additionalProperties": _CELL})}),
        record({"instances": _ROWS}),
        record({"inputs": either({"type": "object", "additionalProperties": either(_DATA, _CELL)}, _ROWS)}),
    ),
    "ModelStatistics": record(
        {
            "name": TEXT,
            "version": TEXT,
            "last_inference": WHOLE,
            "inference_count": WHOLE,
            "execution_count": WHOLE,
            "inference_stats": {"type": "object", "additionalProperties": _COUNTED},
            "batch_stats": listed(_ANYTHING),
        }
    ),
    "Health": record({"live": TRUTH, "ready": TRUTH}, {"draining": TRUTH}),
    "PredictionState": {"type": "string", "enum": sorted(PredictionState)},
    "PredictionKind": {"type": "string", "enum": sorted(PredictionKind)},
    "Prediction": record(
        {"id": TEXT, "state": reference("PredictionState")}, {"response": reference("InferenceResponse")}
    ),
}

_HEADER_LENGTH: Final[Mapping[str, Node]] = {
    "Inference-Header-Content-Length": {
        "type": "integer",
        "minimum": 0,
        "description": "Bytes of the body that are JSON; tensors in binary follow it",
    }
}
_LATER: Final[Mapping[str, Node]] = {
    "Idempotency-Key": {**TEXT, "description": "The same request sent again with it is taken once"},
    "Ordering-Key": {**TEXT, "description": "Requests with the same one are answered in their order"},
    "Prediction-Sink": {**TEXT, "description": "Name of the sink that the answer goes to"},
    "Prediction-Timeout": {"type": "number", "description": "Seconds after which nobody wants the answer"},
}
_PREFER: Final[Node] = {**TEXT, "description": "`respond-async` has the request answered with 202, and done later"}
_ASKED: Final[Mapping[str, Node]] = {JSON: reference("InferenceRequest"), _BINARY: _BYTES}
_ANSWERED: Final[Mapping[str, Node]] = {JSON: reference("InferenceResponse"), _BINARY: _BYTES}
_ACCEPTED: Final[Mapping[str, Node]] = {JSON: reference("Prediction")}
_WHERE: Final[Mapping[int, Mapping[str, str]]] = {202: {"Location": "Where the answer is going to be"}}


def _json(tag: str, says: str, schema: Node) -> Operation:
    return Operation(tag=tag, says=says, answers={200: {JSON: schema}})


def _by_model(path: str) -> Mapping[tuple[str, str], Operation]:
    ready = record({"name": TEXT, "ready": TRUTH})
    statistics = record({"model_stats": listed(reference("ModelStatistics"))})
    return {
        ("GET", path): _json(_INFERENCE, "What a fleet or a model takes and gives.", reference("ModelMetadata")),
        ("GET", f"{path}/ready"): _json(_INFERENCE, "Whether a fleet or a model can answer.", ready),
        ("GET", f"{path}/stats"): _json(_INFERENCE, "What a fleet was asked since it is served.", statistics),
        ("POST", f"{path}/infer"): Operation(
            tag=_INFERENCE,
            says="Predict; all rows are answered by one snapshot. `fleet` takes the key columns and the features, "
            "`fleet:key1:key2` the features alone.",
            body=_ASKED,
            headers={**_HEADER_LENGTH, "Prefer": _PREFER, **_LATER},
            answers={200: _ANSWERED, 202: _ACCEPTED},
            given=_WHERE,
            refuses=(404, 409, 415),
        ),
        ("POST", f"{path}/infer/async"): Operation(
            tag=_PREDICTIONS,
            says="Keep a request; it is answered later, whatever happens to this server.",
            body=_ASKED,
            headers={**_HEADER_LENGTH, **_LATER},
            answers={202: _ACCEPTED},
            given=_WHERE,
            refuses=(404, 409, 415),
        ),
    }


def _change(says: str) -> Operation:
    return Operation(
        tag=_REPOSITORY,
        says=says,
        body={JSON: record({}, {"parameters": either(_ANYTHING, _NULL)})},
        needs_body=False,
        answers={200: {JSON: _ANYTHING}},
        refuses=(409, 415),
    )


OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    **{
        ("GET", path): _json(_HEALTH, says, reference("Health"))
        for path, says in (
            ("/health", "Whether the server lives, and whether it wants traffic."),
            ("/health/live", "Whether the server lives."),
            ("/health/ready", "Whether the server wants traffic."),
            ("/v2/health/live", "Whether the server lives."),
            ("/v2/health/ready", "Whether the server wants traffic."),
            ("/ping", "Whether the server wants traffic."),
        )
    },
    **{
        ("GET", path): _json(_INFERENCE, "What this server is.", reference("ServerMetadata"))
        for path in ("/v2", "/v2/")
    },
    **_by_model(_MODEL),
    **_by_model(_VERSION),
    ("GET", "/v2/models/stats"): _json(
        _INFERENCE, "What every fleet was asked.", record({"model_stats": listed(reference("ModelStatistics"))})
    ),
    ("POST", "/v2/repository/index"): Operation(
        tag=_REPOSITORY,
        says="Which fleets there are to be served.",
        body={JSON: record({}, {"ready": either(TRUTH, _NULL)})},
        needs_body=False,
        answers={200: {JSON: listed(reference("IndexEntry"))}},
        refuses=(415,),
    ),
    ("POST", f"{_STORE}/load"): _change("Have a fleet served, by every server and after a restart."),
    ("POST", f"{_STORE}/unload"): _change("Have a fleet served no more."),
    ("POST", "/invocations"): Operation(
        tag=_INFERENCE,
        says="Predict, in the forms of MLflow's clients.",
        body={JSON: reference("Invocation"), "text/csv": TEXT},
        query={"fleet": {**TEXT, "description": "The fleet or model; may be left out where there is one fleet only"}},
        headers={"X-Shoal-Fleet": {**TEXT, "description": "As `fleet`"}, "Prefer": _PREFER, **_LATER},
        answers={200: {JSON: record({"predictions": listed(either(_CELL, _ANYTHING))})}, 202: _ACCEPTED},
        given=_WHERE,
        refuses=(404, 409, 415),
    ),
    ("GET", "/api/v1/services"): Operation(
        tag="discovery",
        says="Which servers there are, and which fleets they hold.",
        query={
            "name": {**TEXT, "description": "Of a fleet"},
            "tag": {**TEXT, "description": "Of a fleet"},
            "category": {**TEXT, "description": "Of a fleet"},
            "key": {
                **TEXT,
                "description": "`key1:key2`: fleets that answer for this segment, by its own model or a coarser one",
            },
        },
        answers={200: {JSON: listed(reference("Service"))}},
    ),
    ("GET", "/api/v1/predictions"): Operation(
        tag=_PREDICTIONS,
        says="List the newest predictions that nobody waits for; callers see their own, who may read sees all.",
        query={
            "state": reference("PredictionState"),
            "kind": {
                **reference("PredictionKind"),
                "description": "`deferred`: asked for without waiting; `stored`: durable results",
            },
            "fleet": TEXT,
            "principal": {**TEXT, "description": "Asked with keys of this name"},
            "since": {**_TIME, "description": "Accepted then or later; UTC where no zone is given"},
            "until": {**_TIME, "description": "Accepted before"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 50},
        },
        answers={200: {JSON: listed(reference("Prediction"))}},
    ),
    ("GET", _PREDICTION): Operation(
        tag=_PREDICTIONS,
        says="What became of a prediction; 202 while it is under way.",
        query={
            "timeout": {"type": "number", "exclusiveMinimum": 0, "maximum": 2_592_000, "description": "Wait so long"}
        },
        answers={200: _ACCEPTED, 202: _ACCEPTED},
    ),
    ("POST", f"{_PREDICTION}/replay"): Operation(
        tag=_PREDICTIONS,
        says="Try again what was given up.",
        answers={202: _ACCEPTED},
        refuses=(409,),
    ),
    ("POST", "/api/v1/predictions/replay"): Operation(
        tag=_PREDICTIONS,
        says="Try again all that failed, or those of one fleet.",
        query={"fleet": TEXT},
        answers={202: {JSON: record({"waiting": _SIZE})}},
        refuses=(404,),
    ),
    ("GET", "/api/v1/requests/{id}/predictions"): Operation(
        tag=_PREDICTIONS,
        says="List the newest durable results of a request, by its id, with what was answered; callers see their own.",
        query={
            "principal": {**TEXT, "description": "Asked with keys of this name"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
        },
        answers={200: {JSON: listed(reference("Prediction"))}},
    ),
    ("POST", "/api/v1/predictions/purge"): Operation(
        tag=_PREDICTIONS,
        says="Forget the durable results of a fleet that were accepted before; what is on its way to a sink stays.",
        query={
            "fleet": {**TEXT, "minLength": 1, "description": "Whose"},
            "before": {**_TIME, "description": "Accepted before; UTC where no zone is given"},
        },
        needs=("fleet", "before"),
        answers={200: {JSON: record({"purged": _SIZE})}},
        refuses=(404,),
    ),
    ("GET", "/metrics"): Operation(
        tag=_HEALTH, says="The metrics of all workers, for Prometheus.", answers={200: {"text/plain": TEXT}}
    ),
    ("GET", "/api/v1/docs"): Operation(
        tag="management", says="This description as a page.", answers={200: {"text/html": TEXT}}
    ),
    ("GET", "/api/v1/openapi.json"): _json("management", "This description.", _ANYTHING),
}
"""By method and path."""


def schemas() -> Mapping[str, Node]:
    """The schemas that the descriptions refer to, by name."""
    structs = [decodable(kind) for kind in (Datatype, IndexEntry, ModelMetadata, ServerMetadata, Service)]
    _, read = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    return {**read, **_OWN}
