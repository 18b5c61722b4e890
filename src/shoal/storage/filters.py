"""What listings are asked with, wherever that is done: words, times and limits mean the same and are refused alike."""

import datetime as dt
import enum
from typing import Final, TypeVar

from shoal.errors import InvalidInput
from shoal.times import utc_time

MOST: Final = 10_000
"""Most that one answer over the network lists."""

_ANY: Final = 2**63 - 1
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


def moment(what: str, value: dt.date | str) -> dt.datetime:
    """A point of time, in UTC.

    Parameters
    ----------
    what : str
        What happened then, for the message.
    value : datetime, date or str
        An aware time, a day, or a text as :func:`~shoal.times.utc_time` reads it.

    Raises
    ------
    InvalidInput
        It is none of them, or so far away that UTC has no year for it.
    """
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        raise InvalidInput(f"{what} {value} has no time zone; give it one, as datetime.now(UTC) has")
    if not isinstance(value, dt.date | str):
        raise InvalidInput(f"{what} has to be a time such as 2026-01-31T12:00:00Z, not {_shown(value)}")
    return utc_time(value if isinstance(value, str) else value.isoformat(), what=what)


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
