"""JSON as it comes: read by a typed decoder, or refused in words that help."""

import re
from typing import Final, Protocol, TypeVar

import msgspec

from shoal.errors import InvalidInput
from shoal.serving.messages import Datatype

Wire = TypeVar("Wire")
Wire_co = TypeVar("Wire_co", covariant=True)

# A text is matched as a whole, so that nothing in it is taken for a number; one without an end as far as it goes, or
# every quote in it would be tried as the beginning of another.
_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_TEXTS: Final = re.compile(rb'(?:[^"]++|%b)*+' % _TEXT.pattern, re.DOTALL)

_DATATYPES: Final = f"; there are {', '.join(Datatype)}"
_INFINITY: Final = "; JSON has no Infinity: send null instead, or leave the row out"
_MISSING: Final = "; a missing number is null"

_BOM: Final = b"\xef\xbb\xbf"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_PLACE: Final = re.compile(r"\(byte (\d+)\)")
_NO_NUMBER: Final = re.compile(rb"[:\[,]\s*(?:[-+]?(?:nan|n/?a|none|inf|undefined)\b|,)", re.IGNORECASE)
_NEAR: Final = 16
"""So many bytes before and behind the place that the decoder names, what it stumbled over begins."""


class Decoder(Protocol[Wire_co]):
    """What reads JSON, as msgspec's decoders do."""

    def decode(self, buf: bytes, /) -> Wire_co:
        """Read it; raises msgspec's errors."""


def decode(decoder: Decoder[Wire], raw: bytes) -> Wire:
    """Read JSON.

    Raises
    ------
    InvalidInput
        It is none, or not of the decoder's form.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        hint = _DATATYPES if "datatype`" in str(error) else ""
        raise InvalidInput(f"the request is not of the form that is taken here: {error}{hint}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the request is no UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise InvalidInput("the request is nested too deeply") from error
    except msgspec.DecodeError as error:
        without = _without_nan(raw.removeprefix(_BOM))
        if without != raw:
            return decode(decoder, without)
        raise InvalidInput(_no_json(raw, str(error))) from error


def _no_json(raw: bytes, error: str) -> str:
    """What to say of a text that is no JSON; hints only where they may help."""
    if not raw.strip():
        return "the body is empty; send the request as JSON"
    if raw.startswith(_UTF_16):
        return "the request is UTF-16; send JSON as UTF-8"
    if b"Infinity" in raw:
        return f"the request is no JSON: {error}{_INFINITY}"
    found = _PLACE.search(error)
    place = len(raw) if found is None else int(found[1])
    is_number = _NO_NUMBER.search(raw, max(0, place - _NEAR), place + _NEAR)
    return f"the request is no JSON: {error}{_MISSING if is_number else ''}"


def _without_nan(raw: bytes) -> bytes:
    """JSON has no NaN, but some clients write it all the same; here it means what null means."""
    pieces, start = [], 0
    while (found := raw.find(b"NaN", start)) >= 0:
        before = _TEXTS.match(raw, start, found)
        assert before is not None  # it matches nothing as well
        if before.end() == found:
            pieces += [raw[start:found], b"null"]
            start = found + 3
            continue
        text = _TEXT.match(raw, before.end())  # which the word is part of
        if text is None:
            break
        pieces.append(raw[start : text.end()])
        start = text.end()
    return b"".join([*pieces, raw[start:]])
