"""The words of Shoal as values: tasks, outcomes, reasons, keys and features."""

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

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
    UNREADABLE_LINE = 8

    @property
    def words(self) -> str:
        """The reason in plain words, e.g. ``missing value``."""
        return self.name.lower().replace("_", " ")


RESERVED_COLUMNS: Final = frozenset({
    "_file", "_row", "prediction", "probability", "score", "is_anomaly", "outcome", "reason", "model_level", "snapshot",
})  # fmt: skip
"""Columns that Shoal itself writes beside the keys; no input column can be carried under such a name."""

LISTED_COLUMNS: Final = frozenset({
    "level", "family", "rows", "trained_at", "window_start", "window_stop", "metrics", "libraries", "run", "change",
    "_number",
})  # fmt: skip
"""Columns of a listing of models beside the keys. No key column may be called like one of either kind."""


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


Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
"""A value that JSON can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many rows met each outcome; counts of shards add up to those of their run.

    Attributes
    ----------
    rows : int
        Rows after preprocessing.
    scored, fallback, no_model, invalid, failed : int
        Rows per :class:`Outcome`.
    """

    rows: int = 0
    scored: int = 0
    fallback: int = 0
    no_model: int = 0
    invalid: int = 0
    failed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            rows=self.rows + other.rows,
            scored=self.scored + other.scored,
            fallback=self.fallback + other.fallback,
            no_model=self.no_model + other.no_model,
            invalid=self.invalid + other.invalid,
            failed=self.failed + other.failed,
        )

    @property
    def outcomes(self) -> int:
        """Rows that met any outcome at all."""
        return self.scored + self.fallback + self.no_model + self.invalid + self.failed

    @property
    def reconciles(self) -> bool:
        """Whether every row met exactly one outcome."""
        return self.rows == self.outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """A file that a run or a snapshot was made from, pinned by its content.

    Attributes
    ----------
    path : str
        Where it was read from.
    size_bytes : int
        Its length.
    sha256 : str
        Digest of its content, 64 hexadecimal digits.
    rows : int or None
        Rows it holds; None where nobody counted them.
    """

    path: str
    size_bytes: int
    sha256: str
    rows: int | None = None
