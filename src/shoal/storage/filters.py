"""What listings are asked with, wherever that is done: words, times and limits mean the same and are refused alike."""

import datetime as dt
import enum
from typing import Annotated, Final, TypeVar

import msgspec

from shoal.errors import InvalidInput

MOST: Final = 10_000
"""Most that one answer over the network lists."""

_ANY: Final = 2**63 - 1
_AWARE: Final = Annotated[dt.datetime, msgspec.Meta(tz=True)]
_LONGEST: Final = 60

Word = TypeVar("Word", bound=enum.StrEnum)


def word(what: str, words: type[Word], value: Word | str | None) -> Word | None:
    """One of several words; None where none is asked for.

    Parameters
    ----------
    what : str
        What is asked by it, for the message.
    words : type
        Those that there are.
    value : word or str or None
        What was said.

    Raises
    ------
    InvalidInput
        It is none of them.
    """
    if value is None:
        return None
    try:
        return words(value)
    except ValueError as error:
        raise InvalidInput(f"{what} is one of {', '.join(words)}, not {_shown(value)}") from error


def moment(what: str, value: dt.datetime | str) -> dt.datetime:
    """A point of time, in UTC.

    Parameters
    ----------
    what : str
        What happened then, for the message.
    value : datetime or str
        Aware, or a text of ISO 8601 with its zone.

    Raises
    ------
    InvalidInput
        It is neither, or so far away that UTC has no year for it.
    """
    try:
        found: dt.datetime = msgspec.convert(value, type=_AWARE)
        return found.astimezone(dt.UTC)
    except (msgspec.ValidationError, OverflowError) as error:
        said = value.isoformat() if isinstance(value, dt.date) else value
        raise InvalidInput(
            f"{what} has to be a time with a time zone such as 2026-01-31T12:00:00Z, in Python an aware datetime, not "
            f"{_shown(said)}"
        ) from error


def limit(value: int | str, *, most: int = _ANY) -> int:
    """How many are listed at most.

    Parameters
    ----------
    value : int or str
        What was said.
    most : int
        How many may be.

    Raises
    ------
    InvalidInput
        It is no whole number from 1 to that.
    """
    number: object = value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        number = int(value[:_LONGEST])
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InvalidInput(f"limit has to be a whole number of 1 or more, not {str(value)[:_LONGEST]}")
    if number > most:
        raise InvalidInput(f"limit may be {most} here at most, not {str(value)[:_LONGEST]}; narrow down what is listed")
    return number


def _shown(value: object) -> str:
    return repr(value[:_LONGEST] if isinstance(value, str) else value)[: _LONGEST + 2]
