"""What the parameters of requests and outputs mean, whichever door they come through."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from shoal.errors import InvalidInput
from shoal.serving.messages import Value

#: More inputs than this are no request but an attempt to keep us busy; a body below a mebibyte has no room for so many.
MOST_TENSORS: Final = 2**15

#: More elements than this are no request but an attempt to make us allocate.
MOST_ELEMENTS: Final = 2**31

_MICROSECOND_S: Final = 1e-6
_LONGEST_TIMEOUT: Final = 10**13

Deadline = TypeVar("Deadline", float, float | None)


def timeout_s(parameters: Mapping[str, Value]) -> float | None:
    """How long a request wants to be worked on at most, by its parameter ``timeout``; None where it does not say.

    Parameters
    ----------
    parameters : mapping of str to value
        The request's. ``timeout`` is in microseconds, and 0 is none, as in Triton's extension of the protocol.

    Returns
    -------
    float or None
        In seconds; None as well where it is a hundred days or more, which is longer than anything here lasts.

    Raises
    ------
    InvalidInput
        ``timeout`` is no time.
    """
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise InvalidInput(
            "the parameter timeout has to be a whole number of microseconds, e.g. 250000; 0, or leaving it out, is none"
        )
    return timeout * _MICROSECOND_S if 0 < timeout < _LONGEST_TIMEOUT else None


def sooner(deadline_s: Deadline, parameters: Mapping[str, Value]) -> Deadline | float:
    """The deadline of a request that may ask for an earlier one; raises as :func:`timeout_s` does.

    Parameters
    ----------
    deadline_s : float or None
        Point of ``time.monotonic()`` at which its time is over anyway, in seconds; None where it never is.
    parameters : mapping of str to value
        The request's.
    """
    asked_s = timeout_s(parameters)
    if asked_s is None:
        return deadline_s
    until_s = time.monotonic() + asked_s
    return until_s if deadline_s is None else min(deadline_s, until_s)


def require_known(asked: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a parameter of a query that is not known; what was misspelt would be ignored.

    Parameters
    ----------
    asked : iterable of str
        The names that the query has.
    known : sequence of str
        Those that there are.

    Raises
    ------
    InvalidInput
        There is one that is none of them.
    """
    unknown = sorted(set(asked) - set(known))
    if unknown:
        there = f"there is {', '.join(known)}" if known else "there are no parameters"
        raise InvalidInput(f"{unknown[0][:60]!r} is not known here; {there}")


def element_count(name: str, shape: Sequence[int]) -> int:
    """How many elements an input of this name and shape has.

    Raises
    ------
    InvalidInput
        It is no shape, or one of more elements than anything has.
    """
    if len(shape) == 1 and 0 <= shape[0] <= MOST_ELEMENTS:  # as nearly all are
        return shape[0]
    count = math.prod(shape)
    if count > MOST_ELEMENTS or (shape and min(shape) < 0):
        raise InvalidInput(f"input {name!r} has the shape {list(shape)[:8]}; give the numbers of its elements")
    return count


def no_shared_memory(name: str) -> InvalidInput:
    """The refusal of an input that is said to lie in shared memory."""
    return InvalidInput(f"input {name!r}: shared memory is not offered here; send the data itself")


def require_plain_output(name: str, *, classification: object, shared_memory_region: object) -> None:
    """Refuse an output in a form that is not offered.

    Raises
    ------
    InvalidInput
        Its classes are to be ranked, or it is to be put into shared memory.
    """
    if classification or shared_memory_region is not None:
        raise InvalidInput(f"output {name!r}: neither classification nor shared memory is offered here")
