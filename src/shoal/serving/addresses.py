"""Addresses of models: ``fleet``, or ``fleet:key1:key2`` for a single one, its parts percent-encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import polars as pl

from shoal.errors import NotFound
from shoal.table.keys import ANY, coerce, key_text
from shoal.types import Key, KeyColumn, Level

LONGEST_ADDRESS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAddress:
    """A single model of a fleet.

    Attributes
    ----------
    text : str
        Its key as the registry writes it, e.g. ``JFK:LAX`` or ``*:LAX``.
    level : Level
        The key columns that it is keyed by.
    key : Key
        Their values.
    """

    text: str
    level: Level
    key: Key


def split(address: str) -> tuple[str, str | None]:
    """The fleet's name, and what follows the first colon: a key, still encoded, or None."""
    fleet, colon, rest = address.partition(":")
    return fleet, rest if colon else None


def parse_key(fleet: str, keys: Sequence[KeyColumn], text: str) -> ModelAddress:
    """Read the key of an address.

    Parameters
    ----------
    fleet : str
        For messages.
    keys : sequence of KeyColumn
        The fleet's.
    text : str
        One part per key column, percent-encoded, joined by colons; ``*`` for one that the model does not look at.

    Raises
    ------
    NotFound
        No model can have that key: too many or too few parts, or one that is not of its column's type.
    """
    if not keys:
        raise NotFound(f"{fleet!r} has one model and no key: write {fleet}")
    parts = text.split(":") if len(text) <= LONGEST_ADDRESS else []
    if len(parts) != len(keys):
        shape = ":".join([fleet, *(column.name.upper() for column in keys)])
        raise NotFound(f"{fleet}:{text[:100]} names no model: addresses of {fleet!r} are like {shape}")
    present = [(column, part) for column, part in zip(keys, parts, strict=True) if part != ANY]
    key = tuple([_value(fleet, column, part) for column, part in present])
    level = tuple([column.name for column, _ in present])
    return ModelAddress(text=key_text(keys, level, key), level=level, key=key)


def no_version(text: str) -> NotFound:
    """The refusal of what is asked for as a version and is none."""
    return NotFound(f"{text[:100]!r} is no version; versions are numbers, such as 3")


def _value(fleet: str, column: KeyColumn, part: str) -> str | int | bool:
    try:
        text = unquote(part, errors="strict")
        value = coerce(pl.Series(column.name, [text]), column)[0].item()
    except UnicodeError:
        value = None
    if value is None:
        raise NotFound(f"{fleet!r} has no model {part!r}: {column.name!r} is {column.type}, which that is not")
    return value  # type: ignore[no-any-return]
