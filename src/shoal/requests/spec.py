"""What a fleet is served with, beside its models: the fields of a YAML file and of a Python call alike."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import msgspec
import polars as pl

from shoal.fleet import Fleet
from shoal.storage.columns import json_text
from shoal.table.keys import DTYPES
from shoal.types import Feature, FeatureKind, Json, KeyColumn, KeyType, Label, Task

Value: TypeAlias = str | int | float | bool
MEBIBYTE = 1 << 20


class ColumnCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the values of one input or output have to be. A missing value passes everything but ``not_null``.

    Attributes
    ----------
    type : {"number", "integer", "text"}, optional
        ``integer``: a number without a fraction.
    not_null : bool
        Whether a value must be there; NaN counts as missing.
    min, max : float, optional
        Smallest and largest number allowed.
    one_of : tuple of str, number or bool, optional
        The values allowed.
    pattern : str, optional
        Regular expression that the whole of a text must match.
    """

    type: Literal["number", "integer", "text"] | None = None
    not_null: bool = False
    min: float | None = None
    max: float | None = None
    one_of: tuple[Value, ...] | None = None
    pattern: str | None = None


class ChecksSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checks before and after the model.

    Attributes
    ----------
    inputs : mapping of str to ColumnCheck
        By key column or feature.
    outputs : mapping of str to ColumnCheck
        By output, those of rules included.
    on_input : {"invalid", "reject", "report"}
        What a row with a bad input meets: the outcome ``invalid``; the refusal of its whole request; nothing but a
        reason beside its answer.
    on_output : {"failed", "report"}
        What a row with a bad output meets: the outcome ``failed`` and no answer; nothing but a reason beside it.
    """

    inputs: dict[str, ColumnCheck] = {}
    outputs: dict[str, ColumnCheck] = {}
    on_input: Literal["invalid", "reject", "report"] = "invalid"
    on_output: Literal["failed", "report"] = "failed"


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A business rule: outputs computed after the model.

    Attributes
    ----------
    name : str
        What reasons call it.
    set : mapping of str to str, number or bool
        Outputs to compute, new ones or the task's own; a text is an SQL expression (``'late'`` in quotes is a text in
        SQL), a number or bool stands for itself.
    when : str, optional
        SQL predicate; where it does not hold an output stays as it was, null if it is new.
    rows : {"answered", "all"}
        ``answered``: only rows that a model answered.
    """

    set: dict[str, Value]
    name: str = ""
    when: str | None = None
    rows: Literal["answered", "all"] = "answered"


class Threshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an answer becomes a decision, instead of the model's own rule.

    Attributes
    ----------
    score : float, optional
        Anomaly fleets: ``is_anomaly`` is whether the score lies below it.
    label : str, int or bool, optional
        Classification fleets: the class that ``probability`` is about.
    probability : float, optional
        The prediction is ``label`` where its probability is at least so much, else the most probable other class.
    """

    score: float | None = None
    label: str | int | bool | None = None
    probability: float | None = None


PROCESS: Final = "process"
"""The store of predictions that is each process's own memory."""


class CacheSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cache of predictions.

    Attributes
    ----------
    ttl_s : float
        How long an answer may be given again, in seconds.
    size_bytes : int, optional
        Memory that answers may take in each process, 64 MiB unless told; in Redis, Redis's own ``maxmemory`` counts.
    store : str
        ``process``, or the name of a source of kind ``redis``.
    """

    ttl_s: float
    size_bytes: int | None = None
    store: str = PROCESS


class DataCacheSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cache of features that were looked up.

    Attributes
    ----------
    ttl_s : float
        How long they may be used again, in seconds.
    size_bytes : int
        Memory that they may take in each process.
    missing_ttl_s : float, optional
        How long a key that the source does not have counts as missing; ``ttl_s`` unless told.
    """

    ttl_s: float
    size_bytes: int = 16 * MEBIBYTE
    missing_ttl_s: float | None = None


class LookupSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Features by key, from a named source.

    Attributes
    ----------
    source : str
        Name of the source.
    keys : mapping of str to str
        Columns to look up by, of the request, and what the source calls each; may be given as a list.
    features : mapping of str to str
        Features to take, and what the source calls each; may be given as a list.
    key_types : mapping of str to KeyType
        Types of columns in ``keys`` that are neither key columns nor features; such a column becomes another input.
    defaults : mapping of str to str or number
        What stands in for a feature that the source does not have, or has as null.
    timeout_ms : float
        How long a request waits for the source, in milliseconds.
    on_failure : {"defaults", "invalid", "fail"}
        When the source fails or takes too long: use the defaults; make the rows ``invalid``; refuse the request as
        unavailable.
    on_missing : {"defaults", "invalid"}
        When the source does not have the key.
    as_of : str, optional
        The source's column that says from when on a row held; the newest that is not in the future counts. Training
        joins each row with what held at its own time.
    max_age_s : float, optional
        With ``as_of``: older rows count as missing, in seconds.
    cache : DataCacheSpec, optional
        Keep what was found for a while.
    """

    source: str
    keys: dict[str, str]
    features: dict[str, str]
    key_types: dict[str, KeyType] = {}
    defaults: dict[str, str | float] = {}
    timeout_ms: float = 50.0
    on_failure: Literal["defaults", "invalid", "fail"] = "defaults"
    on_missing: Literal["defaults", "invalid"] = "defaults"
    as_of: str | None = None
    max_age_s: float | None = None
    cache: DataCacheSpec | None = None


class LogSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a fleet's requests goes to the prediction log.

    Attributes
    ----------
    sample : float
        Share of the requests, 0 to 1.
    columns : tuple of str, optional
        Which inputs and outputs; all unless told.
    file_s : float
        How long a row waits at most before it is in a file, in seconds; rows that wait are lost when a server is
        killed.
    keep_days : float, optional
        How many days the rows of a day are kept after its end; for ever unless told.
    """

    sample: float = 1.0
    columns: tuple[str, ...] | None = None
    file_s: float = 60.0
    keep_days: float | None = None


class LimitsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a fleet, where they are to be narrower than the server's.

    Attributes
    ----------
    max_rows : int, optional
        Rows in one request.
    timeout_s : float, optional
        How long a request may take, in seconds; its caller may ask for less.
    """

    max_rows: int | None = None
    timeout_s: float | None = None


_DECIDING: Final = ("checks", "threshold", "rules", "lookup")
"""The fields that an answer depends on."""


class ServingSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fleet is served with.

    Attributes
    ----------
    checks : ChecksSpec
        Checks of inputs and outputs.
    threshold : Threshold, optional
        When an answer becomes a decision.
    rules : tuple of Rule
        Business rules, in order; each sees what earlier ones set. A mapping of output to expression is one rule.
    lookup : LookupSpec, optional
        Features by key.
    cache : CacheSpec, optional
        Predictions that may be given again.
    log : LogSpec, optional
        The prediction log; none unless told.
    store : {"durable"}, optional
        ``durable``: a result is committed before it is answered.
    keep_s : float, optional
        How long durable results are kept, in seconds; for ever unless told.
    sink : str, optional
        Name of the sink that durable results go to beside the database.
    limits : LimitsSpec
        Limits.
    """

    checks: ChecksSpec = ChecksSpec()
    threshold: Threshold | None = None
    rules: tuple[Rule, ...] = ()
    lookup: LookupSpec | None = None
    cache: CacheSpec | None = None
    log: LogSpec | None = None
    store: Literal["durable"] | None = None
    keep_s: float | None = None
    sink: str | None = None
    limits: LimitsSpec = LimitsSpec()

    def document(self) -> dict[str, Json]:
        """The spec as plain JSON values; :func:`shoal.requests.loading.load` reads it back."""
        return cast("dict[str, Json]", msgspec.to_builtins(self))

    @property
    def deciding(self) -> "ServingSpec":
        """Those of its fields that an answer depends on; the others are about requests."""
        lookup = None if self.lookup is None else msgspec.structs.replace(self.lookup, cache=None)
        return ServingSpec(**{name: getattr(self, name) for name in _DECIDING} | {"lookup": lookup})

    @property
    def digest(self) -> str:
        """SHA-256 over all that an answer depends on, 64 hexadecimal digits."""
        deciding = {name: self.document()[name] for name in _DECIDING}
        return hashlib.sha256(json_text(deciding).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSchema:
    """What a spec is checked against: the columns of a fleet.

    Attributes
    ----------
    keys : tuple of KeyColumn
        The key columns.
    features : tuple of Feature
        The features.
    task : Task
        Fixes the outputs.
    labels : tuple of Label
        The classes, of a classification fleet.
    """

    keys: tuple[KeyColumn, ...]
    features: tuple[Feature, ...]
    task: Task
    labels: tuple[Label, ...] = ()

    @property
    def inputs(self) -> dict[str, pl.DataType]:
        """The input columns and their types."""
        keys = {column.name: DTYPES[column.type] for column in self.keys}
        return keys | {feature.name: FEATURE_DTYPES[feature.kind] for feature in self.features}

    @property
    def outputs(self) -> dict[str, pl.DataType]:
        """The output columns of the task and their types."""
        if self.task is Task.REGRESSION:
            return {"prediction": pl.Float64()}
        if self.task is Task.ANOMALY:
            return {"score": pl.Float64(), "is_anomaly": pl.Boolean()}
        label = pl.Series(list(self.labels)).dtype if self.labels else pl.String()
        return {"prediction": label, "probability": pl.Array(pl.Float64, len(self.labels))}

    @property
    def answer(self) -> str:
        """The output that is null where no model answered."""
        return "score" if self.task is Task.ANOMALY else "prediction"


def schema_of(fleet: Fleet) -> FleetSchema:
    """The columns of a fleet."""
    table = fleet.table
    return FleetSchema(keys=table.keys, features=table.features, task=table.task, labels=table.labels)


FEATURE_DTYPES: Mapping[FeatureKind, pl.DataType] = {
    FeatureKind.NUMERIC: pl.Float64(), FeatureKind.CATEGORY: pl.String(),
}  # fmt: skip
"""Types that a request's features have before they are scored."""
