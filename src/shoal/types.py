"""The words of Shoal as values: tasks, outcomes, reasons, keys and features."""

import datetime as dt
import enum
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

KeyValue: TypeAlias = str | int | bool | dt.date | None
"""One part of a segment key; None only where a fallback level leaves the column out."""

Key: TypeAlias = tuple[KeyValue, ...]
"""A segment key: one value per key column of the fleet, in their order."""

Level: TypeAlias = tuple[str, ...]
"""The key columns that a level of models is keyed by; ``()`` is the global level."""

Label: TypeAlias = str | int | bool
"""A class label of a classification fleet."""

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Indices: TypeAlias = NDArray[np.int32]
Bytes: TypeAlias = NDArray[np.uint8]


class Task(enum.StrEnum):
    """What a fleet predicts; it fixes the output columns."""

    REGRESSION = "regression"
    CLASSIFICATION = "classification"
    ANOMALY = "anomaly"


class KeyType(enum.StrEnum):
    """The type of one key column."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATE = "date"


class FeatureKind(enum.StrEnum):
    """How a feature's values reach the kernels."""

    NUMERIC = "numeric"
    CATEGORY = "category"


class Outcome(enum.IntEnum):
    """What became of one row. The numbers are part of the formats on disk."""

    SCORED = 0
    FALLBACK = 1
    NO_MODEL = 2
    INVALID = 3
    FAILED = 4

    @property
    def word(self) -> str:
        """The outcome's name as users see it, e.g. ``no_model``."""
        return self.name.lower()


class Reason(enum.IntEnum):
    """Why a row is ``invalid`` or ``failed``; kernels write these numbers."""

    NONE = 0
    MISSING_VALUE = 1
    INFINITE_VALUE = 2
    UNKNOWN_CATEGORY = 3
    TOO_LARGE_FOR_FLOAT32 = 4
    WRONG_TYPE = 5
    WRONG_KEY_TYPE = 6
    NOT_FINITE_ANSWER = 7

    @property
    def words(self) -> str:
        """The reason in plain words, e.g. ``missing value``."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyColumn:
    """A key column of a fleet.

    Attributes
    ----------
    name : str
        The column's name in every frame.
    type : KeyType
        The type every value of the column has.
    """

    name: str
    type: KeyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """An input column of a model.

    Attributes
    ----------
    name : str
        The column's name in every frame.
    kind : FeatureKind
        ``numeric`` (float64, integers and booleans are cast) or ``category`` (text).
    """

    name: str
    kind: FeatureKind
