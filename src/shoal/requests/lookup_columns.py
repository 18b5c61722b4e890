"""The columns of a lookup: what it goes by, what it brings, and what a source's value means to a model."""

import decimal
import math
from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np

from shoal.errors import InvalidInput, InvalidSpec
from shoal.requests.spec import FleetSchema, LookupSpec
from shoal.storage.lookup_reader import Wanted
from shoal.table.keys import key_type
from shoal.table.texts import date_of
from shoal.types import FeatureKind, Key, KeyColumn, KeyType, KeyValue

Feature: TypeAlias = float | str | None
"""A value of a feature; None where it is missing."""


def key_columns(spec: LookupSpec, schema: FleetSchema) -> tuple[KeyColumn, ...]:
    """The columns that a lookup goes by, with their types.

    Raises
    ------
    InvalidSpec
        One is a number that is no key or no column of the fleet and has no type, or ``key_types`` contradicts the
        fleet.
    """
    types = {column.name: column.type for column in schema.keys}
    for feature in schema.features:
        if feature.kind is FeatureKind.CATEGORY:
            types.setdefault(feature.name, KeyType.STRING)
        elif feature.name in spec.keys and feature.name not in types:
            raise InvalidSpec(f"field 'lookup.keys': {feature.name!r} is a numeric feature; look up by texts and keys")
    for name, kind in spec.key_types.items():
        if types.setdefault(name, kind) is not kind:
            raise InvalidSpec(f"field 'lookup.key_types': {name!r} is {types[name]} in this fleet; leave it out")
    for name in spec.keys:
        if name not in types:
            raise InvalidSpec(
                f"field 'lookup.keys': the fleet has no column {name!r}; if requests are to bring it besides, say its "
                f"type: key_types: {{{name}: string}}"
            )
    return tuple(KeyColumn(name=name, type=types[name]) for name in spec.keys)


def feature_kinds(spec: LookupSpec, schema: FleetSchema) -> list[FeatureKind]:
    """The kinds of the features that a lookup brings.

    Raises
    ------
    InvalidSpec
        The fleet has no such feature, or a default is not of its kind.
    """
    kinds = {feature.name: feature.kind for feature in schema.features}
    for name in spec.features:
        if name not in kinds:
            raise InvalidSpec(f"field 'lookup.features': the fleet has no feature {name!r}; it has {', '.join(kinds)}")
        default = spec.defaults.get(name)
        if default is not None and isinstance(default, str) != (kinds[name] is FeatureKind.CATEGORY):
            raise InvalidSpec(f"field 'lookup.defaults.{name}': {default!r} is not what this feature is: {kinds[name]}")
    return [kinds[name] for name in spec.features]


def wanted(spec: LookupSpec, keys: Sequence[KeyColumn]) -> Wanted:
    """What a lookup reads of its source."""
    types = {spec.keys[column.name]: column.type for column in keys}
    return Wanted(keys=types, values=tuple(spec.features.values()), as_of=spec.as_of)


def typed(key: tuple[object, ...], columns: Sequence[KeyColumn]) -> Key | None:
    """The key in its types; None where a part is missing or cannot be of its type."""
    values = [_part(value, column.type) for value, column in zip(key, columns, strict=True)]
    return None if any(value is None for value in values) else tuple(values)


def _part(value: object, kind: KeyType) -> KeyValue | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if kind is KeyType.DATE and isinstance(value, str):
        return date_of(value)
    return cast("KeyValue", value) if key_type(value) is kind else None


def read_as(value: object, kind: FeatureKind) -> Feature:
    """A source's value as the feature that a model sees; None where it is missing.

    Raises
    ------
    InvalidInput
        It cannot be one.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if kind is FeatureKind.CATEGORY:
        if isinstance(value, str):
            return value
        raise InvalidInput(f"{value!r} is no text")
    if isinstance(value, str | int | float | decimal.Decimal):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise InvalidInput(f"{value!r} is no number") from None
        return None if math.isnan(number) else number
    raise InvalidInput(f"{value!r} is no number")
