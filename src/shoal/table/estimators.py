"""Fitted estimators laid out as a table of models."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from shoal.errors import InvalidInput, UnsupportedEstimator
from shoal.families import pack
from shoal.families.contract import PackedModel
from shoal.table.assembly import Entry, from_packed
from shoal.table.facts import ModelFacts
from shoal.table.keys import key_type
from shoal.table.models import ModelTable
from shoal.types import Key, KeyColumn, Level, Task


def from_estimators(
    *,
    keys: Sequence[str],
    models: Mapping[Key, object],
    features: Sequence[str],
    task: str | Task,
    fallbacks: Mapping[Level, Mapping[Key, object]],
    facts: Mapping[tuple[Level, Key], ModelFacts],
) -> ModelTable:
    """Lay fitted estimators out as a table.

    Parameters
    ----------
    keys : sequence of str
        Names of the key columns; none for a single model, whose key is ``()``.
    models : mapping of tuple to estimator
        A fitted scikit-learn estimator or pipeline per segment key.
    features : sequence of str
        The columns the estimators were fitted on, in their order.
    task : {"regression", "classification", "anomaly"}
        What they predict.
    fallbacks : mapping of level to mapping of tuple to estimator
        Coarser models, by level.
    facts : mapping of (level, key) to ModelFacts
        What is known of each model; of others, that they were trained now.

    Raises
    ------
    UnsupportedEstimator
        An estimator cannot be laid out; names the key and the part that stopped it.
    InvalidInput
        Keys, task or features do not fit each other.
    """
    if isinstance(keys, str) or isinstance(features, str):
        raise InvalidInput("keys and features are lists of column names; write ['name'] for one")
    leaf: Level = tuple(keys)
    levels = {leaf: models, **fallbacks}
    now = dt.datetime.now(dt.UTC)

    def entries() -> Iterable[Entry]:
        for level, group in levels.items():
            for key, estimator in group.items():
                fact = facts.get((level, key)) or ModelFacts(trained_at=now)
                yield level, _plain(key), _pack(estimator, features, level, key), fact

    return from_packed(
        keys=_key_columns(keys, levels), levels=list(levels), features=[], task=_task(task), models=entries()
    )


def _pack(estimator: object, features: Sequence[str], level: Level, key: Key) -> PackedModel:
    try:
        return pack(estimator, features)
    except UnsupportedEstimator as error:
        raise UnsupportedEstimator(f"model {key!r} of level {level!r}: {error.part}", error.reason) from error


def _plain(key: Key) -> Key:
    """NumPy's scalars as Python's, as keys read from arrays have them."""
    if not isinstance(key, tuple):
        raise InvalidInput(f"key {key!r} must be a tuple with one value per key column, such as ({key!r},)")
    return tuple(value.item() if isinstance(value, np.generic) else value for value in key)


def _key_columns(names: Sequence[str], levels: Mapping[Level, Mapping[Key, object]]) -> list[KeyColumn]:
    """Key columns with the type of the values that the models' keys have."""
    columns = []
    for name in names:
        level, group = next(((lv, g) for lv, g in levels.items() if name in lv and g), ((), {}))
        if not group:
            raise InvalidInput(f"no model has a value for the key column {name!r}; pass at least one model")
        present = [n for n in names if n in level]
        key = _plain(next(iter(group)))
        if len(key) != len(present):
            raise InvalidInput(f"key {key!r} must be a tuple of {len(present)} value(s), for {present}")
        value = key[present.index(name)]
        kind = key_type(value)
        if kind is None:
            raise InvalidInput(f"key column {name!r}: {value!r} is no string, integer, boolean or date")
        columns.append(KeyColumn(name=name, type=kind))
    return columns


def _task(task: str | Task) -> Task:
    try:
        return Task(task)
    except ValueError:
        raise InvalidInput(f"task {task!r} is none of {[str(t) for t in Task]}") from None
