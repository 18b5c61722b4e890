"""The protocol's JSON, with binary tensors behind it or not: requests in, responses out.

One typed decoder reads a request straight into the values that the data plane takes. Anything else costs more than
the model does.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from shoal.errors import InvalidInput
from shoal.server.binary import elements, itemsize, raw_bytes
from shoal.server.decoding import decode
from shoal.server.parameters import element_count, no_shared_memory, require_plain_output
from shoal.serving.messages import Data, Datatype, InferenceRequest, InferenceResponse, Tensor, TensorMetadata, Value

_Scalar: TypeAlias = bool | int | float | str | None
Elements: TypeAlias = list[_Scalar | list[_Scalar]]

_NO_TAIL: Final = memoryview(b"")


class InputParameters(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is said of an input beside its elements."""

    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class Input(Tensor, frozen=True, kw_only=True):
    """A tensor as it comes: its elements may be nested, or stand behind the JSON."""

    data: Elements = ()  # type: ignore[assignment]
    parameters: InputParameters | None = None


class OutputParameters(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How an output is wanted."""

    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it comes."""

    inputs: tuple[Input, ...]
    id: str | None = None
    outputs: tuple[Output, ...] | None = None
    parameters: dict[str, Value] | None = None


class _Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: "Sequence[Tensor | _BinaryTensor]"
    id: str | None = None
    parameters: Mapping[str, Value] = {}


class _BinaryTensor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    parameters: Mapping[str, int]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """Which outputs a caller wants as bytes.

    Attributes
    ----------
    binary : bool
        Whether those that were not named.
    named : mapping of str to bool
        Whether those that were.
    """

    binary: bool = False
    named: Mapping[str, bool] = {}


JSON: Final = Form()
"""No output as bytes."""

_decoder: Final = msgspec.json.Decoder(Request)
_encoder: Final = msgspec.json.Encoder(enc_hook=lambda array: array.tolist())


def read_request(
    body: bytes,
    header_bytes: int | None,
    *,
    model: str,
    version: str | None,
    read: "Callable[[bytes], Request] | None" = None,
) -> tuple[InferenceRequest, Form]:
    """Read a request.

    Parameters
    ----------
    body : bytes
        All of it.
    header_bytes : int or None
        How much of it is JSON, in bytes; None for all.
    model : str
        The address that the path names.
    version : str or None
        The snapshot that it names.
    read : callable, optional
        Reads the JSON; in one go unless told.

    Raises
    ------
    InvalidInput
        It is not what the protocol says.
    """
    tail = _NO_TAIL
    if header_bytes is not None:
        body, tail = body[:header_bytes], memoryview(body)[header_bytes:]
    wire = decode(_decoder, body) if read is None else read(body)
    parameters, form, names = wire.parameters or {}, JSON, None
    if wire.outputs:
        names = tuple([output.name for output in wire.outputs])
    if parameters or wire.outputs:
        form = _form(wire.outputs or (), parameters)
    request = InferenceRequest(
        model=model,
        version=version,
        id=wire.id,
        inputs=_tensors(wire.inputs, tail),
        outputs=names,
        parameters=parameters,
    )
    return request, form


def read_raw(
    body: bytes, inputs: Sequence[TensorMetadata], *, model: str, version: str | None
) -> tuple[InferenceRequest, Form]:
    """Read a request that is nothing but the bytes of the model's only input.

    Raises
    ------
    InvalidInput
        The model has more inputs, or the bytes are not those of whole elements.
    """
    if len(inputs) != 1:
        raise InvalidInput(
            f"only a model with one input takes bytes without JSON; {model!r} has {len(inputs)}: "
            "put the JSON first and its length in Inference-Header-Content-Length"
        )
    name, datatype = inputs[0].name, inputs[0].datatype
    if datatype is Datatype.BYTES:
        tensor = Tensor(name=name, datatype=datatype, shape=(1,), data=[body])
    else:
        count = len(body) // itemsize(datatype)
        data = elements(name, datatype, count, body)
        tensor = Tensor(name=name, datatype=datatype, shape=(count,), data=data)
    return InferenceRequest(model=model, version=version, inputs=(tensor,)), Form(binary=True)


def write_response(response: InferenceResponse, form: Form) -> tuple[bytes, int | None]:
    """Write a response.

    Returns
    -------
    body : bytes
        JSON, and binary tensors behind it.
    header_bytes : int or None
        How much of it is JSON, in bytes; None for all.
    """
    if form is JSON:
        return encode(_answer(response, response.outputs)), None
    outputs: list[Tensor | _BinaryTensor] = []
    contents: list[bytes] = []
    for tensor in response.outputs:
        if form.named.get(tensor.name, form.binary):
            contents.append(raw_bytes(tensor))
            outputs.append(_described(tensor, len(contents[-1])))
        else:
            outputs.append(tensor)
    header = encode(_answer(response, outputs))
    return b"".join([header, *contents]), len(header) if contents else None


def encode(value: object) -> bytes:
    """A value as JSON; numbers that are none, such as NaN, become null."""
    return _encoder.encode(value)


def _form(outputs: Sequence[Output], parameters: Mapping[str, Value]) -> Form:
    usual = parameters.get("binary_data_output") is True
    named = {}
    for output in outputs:
        named[output.name] = usual
        asked = output.parameters
        if asked is None:
            continue
        require_plain_output(
            output.name, classification=asked.classification, shared_memory_region=asked.shared_memory_region
        )
        if asked.binary_data is not None:
            named[output.name] = asked.binary_data
    return Form(binary=usual, named=named) if usual or any(named.values()) else JSON


def _tensors(inputs: tuple[Input, ...], tail: memoryview) -> tuple[Tensor, ...]:
    if not tail:
        for wire in inputs:
            if wire.parameters is not None or (wire.data and type(wire.data[0]) is list):
                break
        else:
            return inputs
    tensors: list[Tensor] = []
    at = 0
    for wire in inputs:
        asked = wire.parameters
        if asked is None or (asked.binary_data_size is None and asked.shared_memory_region is None):
            data = wire.data
            tensors.append(_flat(wire) if data and type(data[0]) is list else wire)
            continue
        size_bytes = _size_bytes(wire, asked, len(tail) - at)
        content = tail[at : at + size_bytes]
        tensors.append(
            _replaced(wire, elements(wire.name, wire.datatype, element_count(wire.name, wire.shape), content))
        )
        at += size_bytes
    if at != len(tail):
        raise InvalidInput(f"{len(tail)} bytes follow the JSON, but the inputs take {at}; see binary_data_size")
    return tuple(tensors)


def _size_bytes(wire: Input, asked: InputParameters, left_bytes: int) -> int:
    """How many of the bytes behind the JSON are this input's."""
    if asked.shared_memory_region is not None:
        raise no_shared_memory(wire.name)
    if wire.data:
        raise InvalidInput(f"input {wire.name!r} has data, and binary_data_size as well; send one of the two")
    size_bytes = asked.binary_data_size
    if size_bytes is None or not 0 <= size_bytes <= left_bytes:
        raise InvalidInput(f"input {wire.name!r}: binary_data_size is {size_bytes}, but {left_bytes} bytes are left")
    return size_bytes


def _flat(wire: Input) -> Tensor:
    return _replaced(wire, strung(wire.data, wire.name, wire.shape))  # type: ignore[arg-type]  # scalars are left


def strung(rows: Elements, name: str, shape: Sequence[int]) -> Elements:
    """A tensor's rows, which have to be lists, strung together.

    Raises
    ------
    InvalidInput
        They are not nested as the shape says.
    """
    if len(shape) != 2 or set(map(type, rows)) != {list} or set(map(len, rows)) != {shape[1]}:  # type: ignore[arg-type]
        raise InvalidInput(
            f"the data of input {name!r} is nested, but not as its shape {list(shape)[:8]} says; "
            "nest it [rows, 1], or make it one flat list"
        )
    return list(chain.from_iterable(rows))  # type: ignore[arg-type]


def _replaced(wire: Input, data: Data) -> Tensor:
    return Tensor(name=wire.name, datatype=wire.datatype, shape=wire.shape, data=data)


def _answer(response: InferenceResponse, outputs: Sequence[Tensor | _BinaryTensor]) -> _Answer:
    return _Answer(
        model_name=response.model_name,
        model_version=response.model_version,
        outputs=outputs,
        id=response.id,
        parameters=response.parameters,
    )


def _described(tensor: Tensor, size_bytes: int) -> _BinaryTensor:
    size = {"binary_data_size": size_bytes}
    return _BinaryTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, parameters=size)
