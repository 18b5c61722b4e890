"""The key of a model as people type it, ``origin=JFK,dest=LAX``, and as the registry knows it, ``JFK:LAX``."""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from shoal.errors import InvalidInput
from shoal.table.keys import coerce, key_text
from shoal.types import KeyColumn, KeyValue

_ANY = "*"


def model_address(columns: Sequence[KeyColumn], typed: str) -> str:
    """The registry's text of a key.

    Parameters
    ----------
    columns : sequence of KeyColumn
        The fleet's key columns.
    typed : str
        ``NAME=VALUE,...``; a left-out column, or ``*`` for a value, addresses a fallback model that does not look at
        it.

    Raises
    ------
    InvalidInput
        No such key column, or a value that is not of its type.

    Examples
    --------
    >>> from shoal.types import KeyType
    >>> model_address([KeyColumn(name=n, type=KeyType.STRING) for n in ("origin", "dest")], "dest=LAX")
    '*:LAX'
    """
    given = _pairs(columns, typed)
    named = [column for column in columns if given.get(column.name, _ANY) != _ANY]
    key = tuple(_value(column, given[column.name]) for column in named)
    return key_text(columns, tuple(column.name for column in named), key)


def _pairs(columns: Sequence[KeyColumn], typed: str) -> Mapping[str, str]:
    """Names and values; a comma only ends a value when a name follows, for values may hold commas."""
    names = [column.name for column in columns]
    following = "|".join(map(re.escape, names))
    pairs = [part.partition("=") for part in re.split(rf",(?=(?:{following})=)", typed)]
    unknown = [name for name, _, _ in pairs if name not in names]
    if unknown:
        raise InvalidInput(f"the fleet has no key column {unknown[0]!r}; its key is {', '.join(names) or 'empty'}")
    return {name: value for name, _, value in pairs}


def _value(column: KeyColumn, text: str) -> KeyValue:
    value: KeyValue = coerce(pl.Series(column.name, [text]), column)[0].item()
    if value is None:
        raise InvalidInput(f"key column {column.name!r} is {column.type}, which {text!r} is not")
    return value
