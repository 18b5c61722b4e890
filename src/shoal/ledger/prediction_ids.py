"""Ids of predictions: a number, by which they are found, and what nobody can guess."""

import re

from shoal.errors import NotFound

_ID = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16})")


def id_of(number: int, tag: str) -> str:
    """A prediction's id: its number, and what nobody can guess."""
    return f"{number}-{tag}"


def parsed_id(text: str) -> tuple[int, str]:
    """Number and tag of an id.

    Raises
    ------
    NotFound
        No prediction has such an id.
    """
    found = _ID.fullmatch(text)
    if found is None:
        raise unknown(text)
    return int(found[1]), found[2]


def unknown(text: str) -> NotFound:
    """What to raise where there is no prediction of an id."""
    return NotFound(
        f"there is no prediction {text[:60]!r}; results are forgotten after a while, see `shoal predictions list`"
    )
