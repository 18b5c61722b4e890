"""Bodies of requests and answers: read whole, unpacked within limits, packed for those who like that."""

import asyncio
import zlib
from collections.abc import Mapping
from typing import Final

from starlette.types import Receive

from shoal.errors import InvalidInput, TooLarge
from shoal.server.errors import WrongContent

#: Smaller answers are not worth packing.
_WORTH_PACKING_BYTES: Final = 4096
#: Larger ones are packed and unpacked in a thread; zlib lets others run meanwhile.
_HEAVY_BYTES: Final = 65_536
_FASTEST: Final = 1
#: What zlib is told to read or write: a header of gzip, or one of its own, which is what HTTP calls deflate.
_WINDOWS: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], most_bytes: int) -> bytes:
    """Read the whole of a request's body, and unpack it.

    Parameters
    ----------
    receive : callable
        ASGI's.
    headers : mapping of bytes to bytes
        The request's.
    most_bytes : int
        How much it may be, unpacked.

    Raises
    ------
    InvalidInput
        It ended early, or cannot be unpacked.
    TooLarge
        It is too large.
    WrongContent
        It is packed in a way that is not known here.
    """
    message = await receive()
    if message.get("more_body"):
        body = await _rest(receive, message.get("body", b""), most_bytes)
    elif message["type"] == "http.request":
        body = message.get("body", b"")
    else:
        raise InvalidInput("the connection ended before the request did")
    coding = headers.get(b"content-encoding")
    if coding is None or coding == b"identity":
        return body
    if len(body) < _HEAVY_BYTES:
        return unpacked(body, coding, most_bytes)
    return await asyncio.to_thread(unpacked, body, coding, most_bytes)


async def _rest(receive: Receive, first: bytes, most_bytes: int) -> bytes:
    pieces, size_bytes, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidInput("the connection ended before the request did")
        pieces.append(message.get("body", b""))
        size_bytes += len(pieces[-1])
        if size_bytes > most_bytes:
            raise _too_large(most_bytes)
        more = message.get("more_body", False)
    return b"".join(pieces)


def unpacked(body: bytes, coding: bytes, most_bytes: int) -> bytes:
    """Unpack a body; stops as soon as it grows too large, whatever its last bytes claim.

    Raises
    ------
    InvalidInput, TooLarge, WrongContent
        As :func:`read_body`.
    """
    window = _WINDOWS.get(coding.strip().lower())
    if window is None:
        raise WrongContent("content-encoding may be gzip or deflate, or left out")
    unpacker = zlib.decompressobj(window)
    try:
        whole = unpacker.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body cannot be unpacked: {error}") from error
    if len(whole) > most_bytes:
        raise _too_large(most_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidInput("the body cannot be unpacked: it ends too early, or something follows it")
    return whole


async def packed(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes | None]:
    """Pack an answer if that is worth it and the caller takes it.

    Parameters
    ----------
    body : bytes
        The answer.
    accepted : bytes or None
        The request's header ``Accept-Encoding``.

    Returns
    -------
    body : bytes
        Packed, or as it was.
    coding : bytes or None
        How it is packed.
    """
    coding = None if accepted is None or len(body) < _WORTH_PACKING_BYTES else _coding(accepted)
    if coding is None:
        return body, None
    if len(body) < _HEAVY_BYTES:
        return _pack(body, coding), coding
    return await asyncio.to_thread(_pack, body, coding), coding


def _pack(body: bytes, coding: bytes) -> bytes:
    packer = zlib.compressobj(_FASTEST, wbits=_WINDOWS[coding])
    return packer.compress(body) + packer.flush()


def _coding(accepted: bytes) -> bytes | None:
    """What to pack with: gzip if it is taken, else deflate if that is."""
    taken = set()
    for one in accepted.lower().split(b","):
        name, _, weight = one.partition(b";")
        if weight.replace(b" ", b"").rstrip(b"0.") != b"q=":
            taken.add(name.strip())
    return next((coding for coding in (b"gzip", b"deflate") if coding in taken), None)


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"a request may have {most_bytes} bytes at most; split it, or score files with `shoal score`")
