"""Types that values are read as, safe for threads."""

import threading
from typing import TypeVar

import msgspec

Kind = TypeVar("Kind")

_one_at_a_time = threading.Lock()
_whole: set[object] = set()


def decodable(kind: type[Kind]) -> type[Kind]:
    """The type itself, from now on safe to decode or convert to in any thread.

    msgspec works out what a struct or dataclass consists of when it is first read, and lets others see that before it
    is whole: of two threads that are the first, one reads through a null pointer, and the process is gone. So whatever
    is first read within a function goes through here. Decoders that are made while their module is imported need not.

    Parameters
    ----------
    kind : type
        What :mod:`msgspec` can decode.
    """
    if kind not in _whole:
        with _one_at_a_time:
            msgspec.json.Decoder(kind)
        _whole.add(kind)
    return kind
