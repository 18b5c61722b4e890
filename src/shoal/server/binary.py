"""Tensors as bytes: little-endian elements in row-major order, as the protocol's binary extension and gRPC have them.

A text is its length as an unsigned 32-bit number and its bytes. There is no byte for a missing value: numbers become
NaN or 0, texts empty, and the output ``outcome`` tells which rows have an answer.
"""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.serving.messages import Data, Datatype, Tensor

_DTYPES: Final = {
    Datatype.BOOL: np.dtype("?"),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.BF16: np.dtype("<u2"),  # the upper half of a single
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
}
_FLOATS: Final = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})
_DOUBLE: Final = _DTYPES[Datatype.FP64]
_PACKED_DOUBLE: Final = struct.Struct("<d").pack
_LENGTH: Final = struct.Struct("<I")


def elements(name: str, datatype: Datatype, count: int, raw: bytes | memoryview) -> Data:
    """Read a tensor's elements.

    Parameters
    ----------
    name : str
        The tensor's, for messages.
    datatype : Datatype
        Type of the elements.
    count : int
        How many there have to be.
    raw : bytes or memoryview
        The elements.

    Returns
    -------
    list of bytes, or ndarray of the datatype's dtype, shape (count,)
        An array is a view of ``raw``, but for BOOL, and for BF16, whose elements become singles.

    Raises
    ------
    InvalidInput
        The bytes are not those of so many elements.
    """
    if datatype is Datatype.BYTES:
        return _texts(name, count, bytes(raw))
    dtype = _DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            f"input {name!r}: {count} elements of {datatype} are {count * dtype.itemsize} bytes, not {len(raw)}"
        )
    if datatype is Datatype.BOOL:  # any byte but 0 is true; as a view, other bytes would be no booleans
        flags: NDArray[np.bool_] = np.frombuffer(raw, dtype=np.uint8) != 0
        return flags
    array: NDArray[np.generic] = np.frombuffer(raw, dtype=dtype)
    return (array.astype("<u4") << 16).view(np.float32) if datatype is Datatype.BF16 else array


def itemsize(datatype: Datatype) -> int:
    """Bytes of one element of a datatype other than ``BYTES``."""
    return _DTYPES[datatype].itemsize


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor's elements as bytes."""
    if tensor.datatype is Datatype.BYTES:
        return b"".join([_text(element) for element in tensor.data])
    dtype = _DTYPES[tensor.datatype]
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype(dtype, copy=False).tobytes()
    data = tensor.data
    if len(data) == 1 and dtype is _DOUBLE and data[0] is not None:  # an answer to one row, at a third of the cost
        return _PACKED_DOUBLE(data[0])
    if None in data:
        missing = float("nan") if tensor.datatype in _FLOATS else 0
        data = [missing if element is None else element for element in data]
    return np.array(data, dtype=dtype).tobytes()


def _text(element: object) -> bytes:
    text = element if isinstance(element, bytes) else "" if element is None else str(element)
    raw = text if isinstance(text, bytes) else text.encode()
    return _LENGTH.pack(len(raw)) + raw


def _texts(name: str, count: int, raw: bytes) -> list[bytes]:
    texts: list[bytes] = []
    at, end = 0, len(raw)
    while at < end and len(texts) < count:
        if at + _LENGTH.size > end:
            break
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if at + length > end:
            raise InvalidInput(f"input {name!r}: text {len(texts) + 1} says {length} bytes, but {end - at} are left")
        texts.append(raw[at : at + length])
        at += length
    if len(texts) != count or at != end:
        raise InvalidInput(f"input {name!r}: {end} bytes hold {len(texts)} texts or more, not exactly {count}")
    return texts
