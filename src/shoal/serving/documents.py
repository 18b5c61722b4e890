"""What is kept of predictions as JSON, for callers, sinks and people."""

from typing import Final

import msgspec

from shoal.ledger.prediction_records import PredictionRecord
from shoal.serving.messages import InferenceResponse
from shoal.serving.payloads import decode_response

_encoder: Final = msgspec.json.Encoder(enc_hook=lambda array: array.tolist())


def response_json(response: InferenceResponse) -> bytes:
    """A response as the protocol has it; numbers that are none, such as NaN, become null."""
    document: dict[str, object] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = response.parameters
    return _encoder.encode({**document, "outputs": response.outputs})


def prediction_document(record: PredictionRecord) -> dict[str, object]:
    """A prediction as it is told: all that there is to say, and the protocol's response once there is one."""
    values = msgspec.structs.asdict(record)
    del values["request"], values["answer"]
    shown = {name: value for name, value in values.items() if value is not None}
    if record.answer is not None:
        shown["response"] = msgspec.Raw(response_json(decode_response(record.answer)))
    return shown
