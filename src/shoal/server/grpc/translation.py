"""Between gRPC's messages and the data plane's values."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from google.protobuf.message import Message

from shoal.errors import InvalidInput
from shoal.server.binary import elements, raw_bytes
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.parameters import MOST_TENSORS, element_count, no_shared_memory, require_plain_output
from shoal.serving.messages import (
    Data,
    Datatype,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelStatistics,
    Tensor,
    TensorMetadata,
    Value,
)

_DATATYPES: Final = {datatype.value: datatype for datatype in Datatype}

_FIELDS: Final = {
    Datatype.BOOL: "bool_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
"""Where the elements of a datatype stand in a tensor's contents; FP16 and BF16 come raw only."""


def request_of(message: pb.ModelInferRequest) -> InferenceRequest:
    """What a message asks.

    Raises
    ------
    InvalidInput
        A tensor's contents do not fit its shape or datatype, or come both raw and not; an output is wanted in a form
        that is not offered.
    """
    if max(len(message.inputs), len(message.outputs), len(message.parameters)) > MOST_TENSORS:
        raise InvalidInput(f"there are more than {MOST_TENSORS} inputs, outputs or parameters; leave some out")
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(f"{len(message.inputs)} inputs, but {len(raw)} raw contents; send all inputs raw, or none")
    if raw:
        inputs = tuple([_raw_tensor(tensor, content) for tensor, content in zip(message.inputs, raw, strict=True)])
    else:
        inputs = tuple([_tensor(tensor) for tensor in message.inputs])
    return InferenceRequest(
        model=message.model_name,
        version=message.model_version or None,
        id=message.id or None,
        inputs=inputs,
        outputs=tuple([_wanted(output) for output in message.outputs]) if message.outputs else None,
        parameters=_parameters(message.parameters) if message.parameters else {},
    )


def response_of(response: InferenceResponse) -> pb.ModelInferResponse:
    """The message that answers, its tensors raw, as clients of every make read them."""
    message = pb.ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id or "",
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape
            )
            for tensor in response.outputs
        ],
        raw_output_contents=[raw_bytes(tensor) for tensor in response.outputs],
    )
    for name, value in response.parameters.items():
        _set_parameter(message.parameters[name], value)
    return message


def rows_of(answer: Message | None) -> int | None:
    """How many rows a message answers; None of one that is no prediction."""
    if not isinstance(answer, pb.ModelInferResponse):
        return None
    return answer.outputs[0].shape[0] if answer.outputs else 0


def metadata_of(metadata: ModelMetadata) -> pb.ModelMetadataResponse:
    """The message that tells what a model takes and gives."""
    return pb.ModelMetadataResponse(
        name=metadata.name,
        versions=metadata.versions,
        platform=metadata.platform,
        inputs=_described(metadata.inputs),
        outputs=_described(metadata.outputs),
    )


def statistics_of(statistics: Sequence[ModelStatistics]) -> pb.ModelStatisticsResponse:
    """The message that tells what models were asked."""
    return pb.ModelStatisticsResponse(model_stats=[_statistics(one) for one in statistics])


def _statistics(one: ModelStatistics) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=one.name,
        version=one.version,
        last_inference=one.last_request_at_ms,
        inference_count=one.rows,
        execution_count=one.batches,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=one.requests, ns=one.request_ns),
            fail=pb.StatisticDuration(count=one.failures, ns=one.failure_ns),
            queue=pb.StatisticDuration(count=one.requests, ns=one.queue_ns),
            compute_input=pb.StatisticDuration(count=one.requests, ns=one.input_ns),
            compute_infer=pb.StatisticDuration(count=one.batches, ns=one.compute_ns),
            compute_output=pb.StatisticDuration(count=one.requests, ns=one.output_ns),
            cache_hit=pb.StatisticDuration(count=one.cache_hits),
            cache_miss=pb.StatisticDuration(count=one.cache_misses),
        ),
    )


def _described(tensors: Sequence[TensorMetadata]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=one.name, datatype=one.datatype.value, shape=one.shape)
        for one in tensors
    ]


def _wanted(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> str:
    """The name of an output; it is sent raw, whatever else is asked for."""
    asked = _parameters(output.parameters)
    require_plain_output(
        output.name,
        classification=asked.get("classification"),
        shared_memory_region=asked.get("shared_memory_region"),
    )
    return output.name


def _raw_tensor(tensor: pb.ModelInferRequest.InferInputTensor, content: bytes) -> Tensor:
    if tensor.HasField("contents"):
        raise InvalidInput(f"input {tensor.name!r} has contents beside raw ones; send one of the two")
    datatype, shape = _datatype(tensor), tuple(tensor.shape)
    count = element_count(tensor.name, shape)
    return Tensor(
        name=tensor.name, datatype=datatype, shape=shape, data=elements(tensor.name, datatype, count, content)
    )


def _tensor(tensor: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    name, datatype, shape = tensor.name, _datatype(tensor), tuple(tensor.shape)
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidInput(f"input {name!r}: {datatype} has to be sent raw, in raw_input_contents")
    values: list[bool | int | float | bytes] = list(getattr(tensor.contents, field))
    if tensor.parameters and "shared_memory_region" in tensor.parameters:
        raise no_shared_memory(name)
    if len(values) != element_count(name, shape):
        raise InvalidInput(
            f"input {name!r} has shape {list(shape)}, but {len(values)} elements in {field}; make them fit"
        )
    # Single precision stays what it was on the wire, long enough to be read like any other array of it.
    data: Data = np.array(values, dtype=np.float32) if datatype is Datatype.FP32 else values
    return Tensor(name=name, datatype=datatype, shape=shape, data=data)


def _datatype(tensor: pb.ModelInferRequest.InferInputTensor) -> Datatype:
    datatype = _DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidInput(
            f"input {tensor.name!r} has the datatype {tensor.datatype!r}; it has to be one of {', '.join(_DATATYPES)}"
        )
    return datatype


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Value]:
    chosen = {name: (value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}
    return {name: getattr(value, field) for name, (value, field) in chosen.items() if field is not None}


def _set_parameter(target: pb.InferParameter, value: Value) -> None:
    if isinstance(value, bool):
        target.bool_param = value
    elif isinstance(value, int):
        target.int64_param = value
    elif isinstance(value, float):
        target.double_param = value
    else:
        target.string_param = value
