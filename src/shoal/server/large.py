"""Large requests: what the decoder of small ones makes of a body, without keeping everybody else waiting.

The outline is decoded first, with what is long of it left as it was sent, and then each input in pieces. It is meant
for a thread.
"""

import functools
import re
import threading
from math import prod
from typing import Final

import msgspec

from shoal.errors import InvalidInput, TooLarge
from shoal.server.decoding import decode
from shoal.server.parameters import MOST_TENSORS
from shoal.server.pieces import read_list
from shoal.server.wire import Elements, Input, InputParameters, Output, Request, strung
from shoal.serving.messages import Datatype, Value
from shoal.storage.decoding import decodable

#: More bytes than this are no shape, names or parameters, but an attempt to keep us busy.
_MOST_BYTES: Final = 2**20

_NESTED: Final = re.compile(rb"\[\s*\[")


class _Count(threading.local):
    """How many inputs this thread has met in the request that it reads."""

    inputs = 0


class _InputOutline(msgspec.Struct, frozen=True, kw_only=True):
    """An input. That something of ours runs for each of them also gives others their turn."""

    name: str
    datatype: Datatype
    shape: msgspec.Raw
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: InputParameters | None = None

    def __post_init__(self) -> None:
        _count.inputs += 1
        if _count.inputs > MOST_TENSORS:
            raise ValueError(f"there are more than {MOST_TENSORS} inputs")


class _Outline(msgspec.Struct, frozen=True, kw_only=True):
    inputs: tuple[_InputOutline, ...]
    id: str | None = None
    outputs: msgspec.Raw = msgspec.Raw(b"null")
    parameters: msgspec.Raw = msgspec.Raw(b"null")


class _Counting:
    """Reads an outline and counts its inputs, from none each time: what has NaN in it is read twice."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(decodable(_Outline))

    def decode(self, raw: bytes) -> _Outline:
        _count.inputs = 0
        return self._decoder.decode(raw)


_counting: Final = _Counting()
_shape_decoder: Final = msgspec.json.Decoder(tuple[int, ...])
_data_decoder: Final = msgspec.json.Decoder(Elements)
_outputs_decoder: Final = msgspec.json.Decoder(tuple[Output, ...] | None)
_parameters_decoder: Final = msgspec.json.Decoder(dict[str, Value] | None)
_count: Final = _Count()


def large_request(body: bytes, most_rows: int) -> Request:
    """Read a large request.

    Parameters
    ----------
    body : bytes
        JSON.
    most_rows : int
        A request with more is not read any further.

    Raises
    ------
    InvalidInput
        It is not what the protocol says, or has more inputs, outputs or parameters than anything takes.
    TooLarge
        It has more rows.
    """
    outline = decode(_counting, body)
    return Request(
        inputs=tuple([_input(one, most_rows) for one in outline.inputs]),
        id=outline.id,
        outputs=decode(_outputs_decoder, _short(outline.outputs, "outputs")),
        parameters=decode(_parameters_decoder, _short(outline.parameters, "parameters")),
    )


def _input(outline: _InputOutline, most_rows: int) -> Input:
    name, raw = outline.name, bytes(outline.data)
    shape = decode(_shape_decoder, _short(outline.shape, "shape"))
    if shape and shape[0] > most_rows:
        raise TooLarge(f"{shape[0]} rows in one request; send at most {most_rows} at a time")
    each = functools.partial(strung, name=name, shape=shape) if _NESTED.match(raw) else None
    try:
        data = read_list(raw, _data_decoder, most=max(1, prod(shape)), each=each) if raw else ()
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the data of input {name!r} is not of the form that is taken here: {error}") from error
    return Input(name=name, datatype=outline.datatype, shape=shape, data=data, parameters=outline.parameters)  # type: ignore[arg-type]


def _short(raw: msgspec.Raw, what: str) -> bytes:
    short = bytes(raw)
    if len(short) > _MOST_BYTES:
        raise InvalidInput(
            f"the {what} of a request may have {_MOST_BYTES} bytes at most; leave out what is not needed"
        )
    return short
