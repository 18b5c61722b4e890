"""What a request asks and what answers it, in the words of the open inference protocol, without any transport.

Doors translate their wire formats into these values and back; the data plane knows nothing else. They are msgspec
structs rather than dataclasses, for one of each is made per request.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from shoal.ledger.prediction_records import NewPrediction

Value: TypeAlias = str | int | float | bool
"""A value of a parameter."""

Data: TypeAlias = "Sequence[str | bytes | int | float | bool | None] | NDArray[np.generic]"
"""A tensor's elements in row-major order: a flat list or a flat array. None is a missing value."""


class Datatype(enum.StrEnum):
    """The protocol's types of a tensor's elements."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A named array.

    Attributes
    ----------
    name : str
        An input's or output's name.
    datatype : Datatype
        Type of the elements; texts are ``BYTES``.
    shape : tuple of int
        The first dimension counts rows.
    data : sequence or ndarray
        The elements, flat.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: Data


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes
    ----------
    model : str
        ``fleet``, or ``fleet:key1:key2`` for a single model, its parts percent-encoded.
    version : str or None
        Digits: a snapshot; None: what is served by that name now.
    id : str or None
        The caller's, echoed in the response.
    inputs : tuple of Tensor
        One per key column and feature, of shape ``[rows]`` or ``[rows, 1]``; or all features in one, of shape
        ``[rows, features]`` and of any name.
    outputs : tuple of str or None
        Names of the outputs wanted; None: the usual ones.
    parameters : mapping of str to value
        The request's parameters.
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str | None = None
    id: str | None = None
    outputs: tuple[str, ...] | None = None
    parameters: Mapping[str, Value] = {}


class InferenceResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What answers a request; all of it comes from one snapshot.

    Attributes
    ----------
    model_name : str
        As the request named it.
    model_version : str
        The snapshot that answered.
    id : str or None
        The request's.
    parameters : mapping of str to value
        What there is to say about the answer.
    outputs : tuple of Tensor
        The outputs.
    """

    model_name: str
    model_version: str
    outputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: Mapping[str, Value] = {}


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a door knows of a request beside its content.

    Attributes
    ----------
    request_id : str
        Names the request in logs, traces and the prediction log.
    principal : str
        Who asks.
    deadline_s : float or None
        Point of ``time.monotonic()`` after which nobody wants the answer, in seconds.
    keep : callable or None
        Takes the result that is to be durable from the data plane, which commits it itself unless told.
    one_by_one : bool
        Whether the door hands over requests one by one, though more may have come to it.
    id_replaced : bool
        Whether the caller gave another request id, which could not be taken.
    """

    request_id: str
    principal: str
    deadline_s: float | None = None
    keep: Callable[[NewPrediction], None] | None = None
    one_by_one: bool = False
    id_replaced: bool = False


class TensorMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an input or output before any request.

    Attributes
    ----------
    name : str
        Its name.
    datatype : Datatype
        Type of its elements.
    shape : tuple of int
        -1 where a dimension varies.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet or a single model takes and gives.

    Attributes
    ----------
    name : str
        The model's address.
    versions : tuple of str
        Snapshots that are served under it.
    platform : str
        ``shoal``.
    inputs, outputs : tuple of TensorMetadata
        Inputs: key columns (not of a single model), then features. Outputs: the usual ones, then those on request.
    properties : mapping of str to value
        What else there is to say, e.g. the family of a single model.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    platform: str = "shoal"
    properties: Mapping[str, Value] = {}


class ServerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is.

    Attributes
    ----------
    name, version : str
        ``shoal`` and its version.
    extensions : tuple of str
        Parts of the protocol beyond its core that the server speaks.
    """

    name: str
    version: str
    extensions: tuple[str, ...]


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet in the repository's index.

    Attributes
    ----------
    name : str
        The fleet.
    version : str
        The snapshot that is served, else the one that would be; empty where there is none.
    state : str
        ``READY``, ``LOADING``, ``UNAVAILABLE``.
    reason : str
        Why it is unavailable.
    """

    name: str
    version: str
    state: str
    reason: str


class ModelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was asked since the server began to serve it.

    Attributes
    ----------
    name, version : str
        The fleet and snapshot.
    requests, failures, rows, batches : int
        Answered requests, refused or failed ones, rows scored, and kernel calls they took.
    cache_hits, cache_misses : int
        Rows that the prediction cache answered, and rows that it did not, where there is one.
    queue_ns, compute_ns, request_ns : int
        Time that requests waited, that kernel calls took, and that requests took in all, summed, in nanoseconds.
    failure_ns : int
        Time that refused or failed requests took in all, summed, in nanoseconds.
    input_ns, output_ns : int
        Of what answered requests took: from their tensors to columns, and from what was found to tensors.
    last_request_at_ms : int
        When the last one came, in milliseconds since 1970, UTC; 0 for never.
    """

    name: str
    version: str
    requests: int = 0
    failures: int = 0
    rows: int = 0
    batches: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    request_ns: int = 0
    failure_ns: int = 0
    input_ns: int = 0
    output_ns: int = 0
    last_request_at_ms: int = 0
