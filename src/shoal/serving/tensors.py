"""From a tensor's elements to a column: every element is what the tensor's datatype and the input say, or missing."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.serving.messages import Data, Datatype, Tensor
from shoal.serving.rows import Column
from shoal.types import Floats

NUMPY: Final[dict[Datatype, np.dtype[np.generic]]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.BF16: np.dtype(np.float32),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
}
"""The arrays that elements of each datatype come in; texts come in lists or arrays of objects."""

_NONE = type(None)
_FLOATS = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
_WHOLE = frozenset(d for d in NUMPY if d not in _FLOATS and d is not Datatype.BOOL)
_RANGES: Final[dict[Datatype, tuple[int, int]]] = {
    datatype: (int(np.iinfo(str(NUMPY[datatype])).min), int(np.iinfo(str(NUMPY[datatype])).max)) for datatype in _WHOLE
}
_FLOAT_KINDS: Final[tuple[set[type], ...]] = (
    {float},
    {int},
    {float, int},
    {float, _NONE},
    {int, _NONE},
    {float, int, _NONE},
    {_NONE},
    set(),
)


def read_numbers(tensor: Tensor) -> Column:
    """Numbers as float64, or as they came where a list already holds nothing else; raises :class:`InvalidInput`."""
    data, datatype = tensor.data, tensor.datatype
    if datatype == "FP64" and type(data) is not np.ndarray:
        if len(data) == 1:
            kind = type(data[0])
            if kind is float or data[0] is None or kind is int:
                return data
        elif set(map(type, data)) in _FLOAT_KINDS:
            return data if len(data) < 256 else _floats(data)
        raise _odd_elements(tensor, "numbers")
    if type(data) is np.ndarray:
        return _array(tensor).astype(np.float64)
    if datatype == "BF16":
        raise InvalidInput(f"input {tensor.name!r}: BF16 has to be sent raw, as binary data; as numbers, send FP32")
    if datatype in _FLOATS:
        if set(map(type, data)) not in _FLOAT_KINDS:
            raise _odd_elements(tensor, "numbers")
        with np.errstate(over="ignore"):
            return _floats(data).astype(NUMPY[datatype]).astype(np.float64)
    return _floats(read_booleans(tensor) if datatype == "BOOL" else _whole_numbers(tensor))


def _floats(values: Column) -> Floats:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise InvalidInput(f"a number is too large for double precision ({error})") from error


def read_integers(tensor: Tensor) -> Column:
    """Integers of any datatype but ``UINT64``; raises :class:`InvalidInput` for anything else."""
    if tensor.datatype not in _WHOLE:
        raise _wrong_datatype(tensor, "an integer: INT64, or another integer datatype")
    return _array(tensor).astype(np.int64) if type(tensor.data) is np.ndarray else _whole_numbers(tensor)


def read_unsigned(tensor: Tensor) -> pl.Series:
    """Integers of ``UINT64``, which 64 bits with a sign may not hold; raises :class:`InvalidInput` for others."""
    values = _array(tensor) if type(tensor.data) is np.ndarray else _whole_numbers(tensor)
    return pl.Series(tensor.name, values, dtype=pl.UInt64)


def _whole_numbers(tensor: Tensor) -> Sequence[int | None]:
    """A list's elements if they are integers of the tensor's datatype, or missing."""
    data = tensor.data
    if not set(map(type, data)) <= {int, _NONE}:
        raise _odd_elements(tensor, "whole numbers")
    least, most = _RANGES[tensor.datatype]
    present = data if None not in data else [value for value in data if value is not None]
    if present and not (least <= min(present) and max(present) <= most):
        raise _out_of_range(tensor)
    return data  # type: ignore[return-value]


def read_booleans(tensor: Tensor) -> Column:
    """Booleans; raises :class:`InvalidInput` for anything else."""
    if tensor.datatype != "BOOL":
        raise _wrong_datatype(tensor, "true or false: BOOL")
    if type(tensor.data) is np.ndarray:
        return _array(tensor)
    if not set(map(type, tensor.data)) <= {bool, _NONE}:
        raise _odd_elements(tensor, "true or false")
    return tensor.data


def read_texts(tensor: Tensor) -> Column:
    """Texts, decoded where they came as bytes; raises :class:`InvalidInput` for what is no Unicode."""
    if tensor.datatype != "BYTES":
        raise _wrong_datatype(tensor, "a text: BYTES")
    data = tensor.data
    if len(data) == 1 and type(data[0]) is str and data[0].isascii():
        return data
    if type(data) is np.ndarray:
        data = data.reshape(-1).tolist()
    kinds = set(map(type, data))
    if bytes in kinds:
        data, kinds = _decoded(tensor.name, data), (kinds - {bytes}) | {str}
    if not kinds <= {str, _NONE}:
        raise _odd_elements(tensor, "texts")
    try:
        "".join([text for text in data if text is not None]).encode()  # type: ignore[misc]
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {tensor.name!r} has a text that is no Unicode ({error.reason})") from error
    return data


def _decoded(name: str, data: Data) -> list[str | bytes | int | float | None]:
    try:
        return [value.decode() if type(value) is bytes else value for value in data]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input {name!r} has a text that is no UTF-8 ({error.reason})") from error


def _array(tensor: Tensor) -> NDArray[np.generic]:
    """A tensor's array if it is of its datatype."""
    array = tensor.data
    assert isinstance(array, np.ndarray)
    expected = NUMPY[tensor.datatype]
    if array.dtype.newbyteorder("=") != expected:
        raise InvalidInput(f"input {tensor.name!r} says {tensor.datatype}, but its elements are {array.dtype}")
    return array.reshape(-1)


def _odd_elements(tensor: Tensor, wanted: str) -> InvalidInput:
    return InvalidInput(
        f"input {tensor.name!r} says {tensor.datatype}, but not all of its elements are {wanted} (or null)"
    )


def _wrong_datatype(tensor: Tensor, wanted: str) -> InvalidInput:
    return InvalidInput(f"input {tensor.name!r} is {tensor.datatype}, but it has to be {wanted}")


def _out_of_range(tensor: Tensor) -> InvalidInput:
    return InvalidInput(f"input {tensor.name!r} has a number that is out of range for it as {tensor.datatype}")
