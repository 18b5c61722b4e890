"""Records of the registry and the ledger as they come over the network."""

from collections.abc import Callable, Collection
from typing import Final, TypeVar

import msgspec

from shoal.client.exchange import reading
from shoal.errors import StorageError
from shoal.ledger import PredictionRecord
from shoal.security.api_keys import ApiKeyRecord, IssuedKey
from shoal.serving.frames import Answered
from shoal.serving.messages import InferenceResponse, ModelStatistics, Tensor
from shoal.serving.payloads import encode_response
from shoal.storage.decoding import decodable

Record = TypeVar("Record")
Told = dict[str, object]

_table: Final = reading(list[dict[str, object]])
_fields: Final = reading(dict[str, object])


def one(kind: type[Record], *, json: Collection[str] = ()) -> Callable[[bytes], Record]:
    """What reads a record; fields named in ``json`` stay the JSON that they are."""
    return lambda content: record(kind, _fields(content), json=json)


def many(kind: type[Record], *, json: Collection[str] = ()) -> Callable[[bytes], list[Record]]:
    """What reads a list of records."""
    return lambda content: [record(kind, told, json=json) for told in _table(content)]


def record(kind: type[Record], told: Told, *, json: Collection[str] = ()) -> Record:
    """A record of what was told; what this version does not know is left out.

    Raises
    ------
    StorageError
        Something is missing, or of another kind.
    """
    fields = kind.__annotations__
    try:
        values = {
            name: told[name] if name in json else msgspec.convert(told[name], type=decodable(fields[name]))
            for name in fields
            if name in told
        }
        return kind(**values)
    except (TypeError, msgspec.ValidationError) as error:
        raise StorageError(f"the server's answer cannot be read ({error}); is it of another version?") from error


def converted(told: object, kind: type[Record]) -> Record:
    """What was told as what it is.

    Raises
    ------
    StorageError
        It is something else.
    """
    try:
        return msgspec.convert(told, type=decodable(kind))
    except msgspec.ValidationError as error:
        raise StorageError(f"the server's answer cannot be read ({error}); is it of another version?") from error


def part_of(name: str, kind: type[Record], *, json: Collection[str] = ()) -> Callable[[bytes], Record]:
    """What reads a record that is a member of what is answered."""

    def read(content: bytes) -> Record:
        told = _fields(content).get(name)
        if not isinstance(told, dict):
            raise StorageError(f"the server's answer has no {name!r}; is it of another version?")
        return record(kind, told, json=json)

    return read


def api_key(told: Told) -> ApiKeyRecord:
    """An API key; its digest stays on the server."""
    return record(ApiKeyRecord, {**told, "hash": ""})


def issued_key(content: bytes) -> IssuedKey:
    """A key that was just made."""
    told = _fields(content)
    return IssuedKey(record=api_key(told), text=str(told.get("key", "")))


def api_keys(content: bytes) -> list[ApiKeyRecord]:
    """All keys."""
    return [api_key(told) for told in _table(content)]


def revoked_key(content: bytes) -> ApiKeyRecord:
    """A key that was just revoked."""
    return api_key(_fields(content))


def prediction(content: bytes) -> PredictionRecord:
    """A prediction with its answer, as the ledger keeps it; what was asked is not told."""
    return _prediction(_fields(content))


def predictions(content: bytes) -> list[PredictionRecord]:
    """A list of predictions."""
    return [_prediction(told) for told in _table(content)]


def _prediction(told: Told) -> PredictionRecord:
    absent = dict.fromkeys(PredictionRecord.__struct_fields__)  # what is null is left out on the way
    response = told.get("response")
    answer = None if response is None else encode_response(_response(response))
    return record(PredictionRecord, {**absent, **told, "request": None, "answer": answer}, json=("answer",))


def _response(told: object) -> InferenceResponse:
    answered = converted(told, Answered)
    outputs = [Tensor(name=o.name, datatype=o.datatype, shape=o.shape, data=o.data) for o in answered.outputs]
    return InferenceResponse(
        model_name=answered.model_name, model_version=answered.model_version, id=answered.id, outputs=tuple(outputs)
    )


class _Duration(msgspec.Struct):
    count: int
    ns: int


class _Stages(msgspec.Struct):
    success: _Duration
    fail: _Duration
    queue: _Duration
    compute_input: _Duration
    compute_infer: _Duration
    compute_output: _Duration
    cache_hit: _Duration
    cache_miss: _Duration


class _Statistics(msgspec.Struct):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: _Stages


class _Model(msgspec.Struct):
    model_stats: list[_Statistics]


_statistics: Final = reading(_Model)


def statistics(content: bytes) -> list[ModelStatistics]:
    """What fleets were asked, from the protocol's words."""
    return [
        ModelStatistics(
            name=one.name,
            version=one.version,
            requests=one.inference_stats.success.count,
            failures=one.inference_stats.fail.count,
            rows=one.inference_count,
            batches=one.execution_count,
            cache_hits=one.inference_stats.cache_hit.count,
            cache_misses=one.inference_stats.cache_miss.count,
            queue_ns=one.inference_stats.queue.ns,
            compute_ns=one.inference_stats.compute_infer.ns,
            request_ns=one.inference_stats.success.ns,
            failure_ns=one.inference_stats.fail.ns,
            input_ns=one.inference_stats.compute_input.ns,
            output_ns=one.inference_stats.compute_output.ns,
            last_request_at_ms=one.last_inference,
        )
        for one in _statistics(content).model_stats
    ]
