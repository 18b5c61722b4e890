"""Requests and responses as bytes, as the ledger keeps them: MessagePack, small and quick to write and read.

Layout 1: ``[1, model, version, id, outputs, parameters, tensors]`` of a request, ``[1, model, version, id, parameters,
tensors]`` of a response, a tensor being ``[name, datatype, shape, data]``; ``data`` is a list, or the bytes of the
elements in little-endian order. For the next layout: write 2, and keep reading 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import numpy as np

from shoal.errors import InvalidArtifact
from shoal.serving.messages import Data, Datatype, InferenceRequest, InferenceResponse, Tensor, Value
from shoal.serving.tensors import NUMPY

LAYOUT: Final = 1

# Texts and bytes in one list: msgspec has no type for that, though MessagePack tells them apart.
_List: TypeAlias = list[Any]
Kept = TypeVar("Kept")


class _Tensor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: bytes | _List


class _Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    layout: int
    model: str
    version: str | None
    id: str | None
    outputs: tuple[str, ...] | None
    parameters: Mapping[str, Value]
    inputs: tuple[_Tensor, ...]


class _Response(msgspec.Struct, frozen=True, array_like=True, gc=False):
    layout: int
    model: str
    version: str
    id: str | None
    parameters: Mapping[str, Value]
    outputs: tuple[_Tensor, ...]


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_requests: Final = msgspec.msgpack.Decoder(_Request)
_responses: Final = msgspec.msgpack.Decoder(_Response)


def encode_request(request: InferenceRequest) -> bytes:
    """A request as bytes; the same request always gives the same."""
    return _encoder.encode(
        _Request(
            LAYOUT,
            request.model,
            request.version,
            request.id,
            request.outputs,
            request.parameters,
            tuple([_written(tensor) for tensor in request.inputs]),
        )
    )


def decode_request(kept: bytes) -> InferenceRequest:
    """Read a request.

    Raises
    ------
    InvalidArtifact
        The bytes are damaged.
    """
    read = _decoded(_requests, kept)
    return InferenceRequest(
        model=read.model,
        version=read.version,
        id=read.id,
        outputs=read.outputs,
        parameters=read.parameters,
        inputs=_read(read.inputs),
    )


def encode_response(response: InferenceResponse) -> bytes:
    """A response as bytes."""
    outputs = tuple([_written(tensor) for tensor in response.outputs])
    return _encoder.encode(
        _Response(LAYOUT, response.model_name, response.model_version, response.id, response.parameters, outputs)
    )


def decode_response(kept: bytes) -> InferenceResponse:
    """Read a response.

    Raises
    ------
    InvalidArtifact
        The bytes are damaged.
    """
    read = _decoded(_responses, kept)
    return InferenceResponse(
        model_name=read.model,
        model_version=read.version,
        id=read.id,
        parameters=read.parameters,
        outputs=_read(read.outputs),
    )


def _decoded(decoder: "msgspec.msgpack.Decoder[Kept]", kept: bytes) -> Kept:
    try:
        return decoder.decode(kept)
    except msgspec.DecodeError as error:
        raise InvalidArtifact(
            f"a kept prediction cannot be read: {error}; restore the database from a backup"
        ) from error


def _written(tensor: Tensor) -> _Tensor:
    return _Tensor(tensor.name, tensor.datatype, tensor.shape, _plain(tensor.data))


def _plain(data: Data) -> "bytes | _List":
    if isinstance(data, np.ndarray):
        if data.dtype.hasobject or data.dtype.kind in "SU":
            return list(data.tolist())
        return np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<"), copy=False).tobytes()
    return data if type(data) is list else list(data)


def _read(tensors: Sequence[_Tensor]) -> tuple[Tensor, ...]:
    return tuple([Tensor(name=t.name, datatype=t.datatype, shape=t.shape, data=_elements(t)) for t in tensors])


def _elements(tensor: _Tensor) -> Data:
    data = tensor.data
    if not isinstance(data, bytes):
        return data
    dtype = NUMPY.get(tensor.datatype)
    if dtype is None or len(data) % dtype.itemsize:
        raise InvalidArtifact("a kept prediction has a tensor that is no tensor; restore the database from a backup")
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False)
