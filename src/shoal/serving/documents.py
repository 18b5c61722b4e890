"""What is kept of predictions as JSON, for callers, sinks and people."""

from typing import Final

import msgspec
import numpy as np
import polars as pl

from shoal.errors import DeadlineExceeded, ShoalError
from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_records import PredictionKind, PredictionRecord
from shoal.serving.frames import Answered, answer_frame
from shoal.serving.messages import InferenceResponse
from shoal.serving.payloads import decode_response
from shoal.storage.decoding import decodable

_encoder: Final = msgspec.json.Encoder(enc_hook=lambda array: array.tolist())


def response_json(response: InferenceResponse) -> bytes:
    """A response as the protocol has it; numbers that are none, such as NaN, become null."""
    document: dict[str, object] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = response.parameters
    return _encoder.encode({**document, "outputs": response.outputs})


def response_rows(response: InferenceResponse) -> list[dict[str, object]]:
    """A response's rows, each with its outputs by name."""
    columns: dict[str, list[object]] = {}
    for tensor in response.outputs:
        values = tensor.data.tolist() if isinstance(tensor.data, np.ndarray) else list(tensor.data)
        width = tensor.shape[1] if len(tensor.shape) > 1 else 0
        wide = [values[start : start + width] for start in range(0, len(values), width)] if width else values
        columns[tensor.name] = wide
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def prediction_document(record: PredictionRecord) -> dict[str, object]:
    """A prediction as it is told: all that there is to say, and the protocol's response once there is one."""
    values = msgspec.structs.asdict(record)
    del values["request"], values["answer"]
    if record.is_settled:
        del values["due_at"]  # the attempt that it was about has been, or is not going to be
    if record.kind is PredictionKind.STORED:
        del values["idempotency_key"]  # nobody's but ours
    shown = {name: value for name, value in values.items() if value is not None}
    if record.answer is not None:
        shown["response"] = msgspec.Raw(response_json(decode_response(record.answer)))
    return shown


def prediction_frame(record: PredictionRecord) -> pl.DataFrame:
    """What a prediction answered, a row for each row that was asked about.

    Raises
    ------
    DeadlineExceeded
        It is not done yet, or was discarded because nobody wanted it any more.
    ShoalError
        It failed; says why.
    """
    if record.state is PredictionState.FAILED:
        raise ShoalError(f"prediction {record.id} failed: {record.error}; mend that and replay it")
    if record.state is PredictionState.EXPIRED:
        raise DeadlineExceeded(f"prediction {record.id} was not done in time; replay it if it is still wanted")
    # One that a sink has not taken yet may still fail; durable results were answered to somebody before.
    is_owed = record.kind is PredictionKind.DEFERRED and record.state is not PredictionState.DONE
    if record.answer is None or is_owed:
        raise DeadlineExceeded(f"prediction {record.id} is {record.state} yet; ask again, or wait longer")
    return answer_frame(msgspec.json.decode(response_json(decode_response(record.answer)), type=decodable(Answered)))
