"""Long arrays of JSON, read piece by piece, so that nobody else waits for them.

A decoder keeps the interpreter to itself from the first byte to the last, in a thread no less than in the event loop: a
body of 40 MB would hold up every other request for a third of a second. So an array is cut between its elements into
pieces that take less than a millisecond each, and others have their turn between them.
"""

import re
import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from shoal.errors import InvalidInput

LARGE_BYTES: Final = 2**20
"""Smaller bodies are not worth it: they are decoded in one go."""

PIECE_BYTES: Final = 2**16

_PAUSE_S: Final = 1e-5

# A text is matched as a whole, so that no comma in it is taken for one between elements. Elements are numbers, words,
# texts, and lists and mappings of these. Where nothing but numbers and words stands, the last comma is found at once.
_TEXT: Final = rb'"(?:[^"\\]++|\\.)*+"'
_ELEMENTS: Final = re.compile(
    rb'(?:[^"\[\]{}]*,|(?:[^",\[\]{}]++|%b|\[(?:[^"\[\]]++|%b)*+\]|\{(?:[^"{}]++|%b)*+\})*+,)++' % ((_TEXT,) * 3),
    re.DOTALL,
)

Element = TypeVar("Element")


def read_list(
    raw: bytes,
    decoder: "msgspec.json.Decoder[list[Element]]",
    *,
    most: int | None = None,
    each: Callable[[list[Element]], list[Element]] | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> list[Element]:
    """Read an array that is known to be sound JSON.

    Parameters
    ----------
    raw : bytes
        The array, or something else, which the decoder is going to refuse.
    decoder : msgspec.json.Decoder
        Reads a list of such elements.
    most : int, optional
        How many elements there may be.
    each : callable, optional
        What becomes of each piece. Millions of small lists would keep the garbage collector busy, and all waiting.
    piece_bytes : int
        How much is decoded in one go; a single element may be larger.

    Raises
    ------
    InvalidInput
        There are more elements.
    msgspec.ValidationError
        They are not of the decoder's form.
    """
    if not raw.startswith(b"[") or len(raw) <= piece_bytes:
        found = decoder.decode(raw)
        return _few(found if each is None else each(found), most)
    found, start, end, size_bytes = [], 1, len(raw) - 1, piece_bytes
    while start < end:
        stop = end
        if end - start > size_bytes:
            elements = _ELEMENTS.match(raw, start, start + size_bytes)
            if elements is None:  # an element is larger than the piece
                size_bytes *= 2
                continue
            stop = elements.end() - 1
        piece = decoder.decode(b"[%b]" % raw[start:stop])
        found += piece if each is None else each(piece)
        _few(found, most)
        start, size_bytes = stop + 1, piece_bytes
        time.sleep(_PAUSE_S)
    return found


def _few(found: list[Element], most: int | None) -> list[Element]:
    if most is not None and len(found) > most:
        raise InvalidInput(f"there are more elements than the {most} that the shape says; make them fit")
    return found
