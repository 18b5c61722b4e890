"""The serving definition that a job applies: pinned when its run is planned, the same for every row and every resume.

Checks, threshold, rules and lookup are those of :mod:`shoal.requests`, which requests go through too. What is about
requests only (caches, log, store, sink, limits) is left out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import msgspec
import numpy as np
import polars as pl

from shoal.batch.lookups import Completed, ShardLookup
from shoal.batch.source import LINE
from shoal.batch.spec import PINNED, ScoreSpec
from shoal.errors import InputChanged, InvalidSpec
from shoal.fleet import Fleet
from shoal.requests.evaluation import Evaluation
from shoal.requests.loading import load
from shoal.requests.outputs import Columns
from shoal.requests.readers import FindSource
from shoal.requests.sources import Source, document
from shoal.requests.spec import FEATURE_DTYPES, FleetSchema, ServingSpec, schema_of
from shoal.requests.violations import Violations, first_reasons
from shoal.scoring.outcomes import Scored
from shoal.storage.columns import json_text
from shoal.storage.decoding import decodable
from shoal.table.texts import read_numbers
from shoal.types import FeatureKind, Json, Reason

NOTE_BYTES = 100.0
"""What a row may take beside its columns, for each copy that budgets count: a key to look up, a reason in words."""


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """What a run pins of its definition; the ledger keeps it beside the job.

    Attributes
    ----------
    spec : mapping
        The serving spec, without what is about requests only.
    source : str or None
        Digest of the lookup's source as it was defined. Definitions hold addresses and are for the person at the
        machine, so they are not kept here.
    brought : tuple of str
        The features that the input lacked, and the lookup brings.
    """

    spec: dict[str, object]
    source: str | None = None
    brought: tuple[str, ...] = ()

    def document(self) -> dict[str, Json]:
        """As the ledger keeps it; :func:`pinned_in` reads it back."""
        return cast("dict[str, Json]", msgspec.to_builtins(self))

    @classmethod
    def of(cls, spec: ServingSpec, columns: Sequence[frozenset[str]], find_source: FindSource) -> Self:
        """Pin a serving spec for a run.

        Parameters
        ----------
        spec : ServingSpec
            What to apply.
        columns : sequence of frozenset
            The columns of each file of the input.
        find_source : callable
            Finds a source by name.

        Raises
        ------
        InvalidSpec
            Some files have a feature that the lookup brings, and others do not.
        NotFound
            There is no such source.
        """
        deciding = spec.deciding
        lookup = deciding.lookup
        if lookup is None:
            return cls(spec=dict(deciding.document()))
        some = frozenset().union(*columns) if columns else frozenset()
        lacked = [name for name in lookup.features if not all(name in file for file in columns)]
        mixed = [name for name in lacked if name in some]
        if mixed:
            raise InvalidSpec(
                f"some input files have the column {mixed[0]!r}, which the lookup brings, and others do not; score "
                "them in two jobs, or rename the column"
            )
        return cls(spec=dict(deciding.document()), source=_digest(find_source(lookup.source)), brought=tuple(lacked))


def pinned_in(run: Mapping[str, Json]) -> Pinned | None:
    """What a run pinned, from what the ledger says that it was told; None where its job says nothing of serving."""
    return None if PINNED not in run else msgspec.convert(run[PINNED], decodable(Pinned))


def _same_source(find_source: FindSource, name: str, pinned: Pinned) -> Source:
    source = find_source(name)
    if _digest(source) != pinned.source:
        raise InputChanged(f"the source {name!r} is not what the run pinned; set it as it was, or start a new run")
    return source


def _digest(source: Source) -> str:
    return hashlib.sha256(json_text(document(source)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """What became of rows, as the output has it.

    Attributes
    ----------
    scored : Scored
        Outcomes, models, levels.
    outputs : sequence of polars.Series
        The task's output columns.
    added : sequence of polars.Series
        Those that rules add.
    reasons : polars.Series
        Why a row has no answer, or what there is to say of one that has.
    """

    scored: Scored
    outputs: Sequence[pl.Series]
    added: Sequence[pl.Series] = ()
    reasons: pl.Series

    @classmethod
    def plain(cls, scored: Scored) -> "Answered":
        """What scoring found, and nothing else."""
        return cls(scored=scored, outputs=scored.predictions, reasons=scored.reason_texts())


class Definition:
    """What a run does with rows beside scoring them; safe to use from several threads.

    Parameters
    ----------
    pinned : Pinned or None
        What the run has pinned; None where its job says nothing of serving.
    fleet : Fleet
        The pinned snapshot.
    spec : ScoreSpec
        The job.
    find_source : callable
        Finds a source by name.
    cache : Path
        Private folder for files that are mapped.

    Raises
    ------
    InvalidSpec
        It does not fit the fleet or the job.
    InputChanged
        The lookup's source is not what the run began with.
    NotFound
        There is no such source any more.
    """

    def __init__(
        self, pinned: Pinned | None, fleet: Fleet, spec: ScoreSpec, *, find_source: FindSource, cache: Path
    ) -> None:
        serving = ServingSpec() if pinned is None else load(pinned.spec)
        self._schema = schema_of(fleet)
        self._evaluation = None if serving == ServingSpec() else Evaluation(serving, self._schema)
        self._lookup: ShardLookup | None = None
        if serving.lookup is None and spec.time is not None:
            raise InvalidSpec("field 'time' is about the lookup of a serving spec, and this one has none: leave it out")
        if pinned is not None and serving.lookup is not None and pinned.brought:
            self._lookup = ShardLookup(
                serving.lookup,
                self._schema,
                _same_source(find_source, serving.lookup.source, pinned),
                cache=cache,
                time=spec.time,
                brought=pinned.brought,
                limit_bytes=spec.memory_bytes,
            )
        self.added = () if self._evaluation is None else tuple(self._evaluation.rules.added)
        taken = [name for name in self.added if name in spec.carry]
        if taken:
            raise InvalidSpec(f"field 'carry': {taken[0]!r} is an output that a rule adds; rename the input's column")

    @property
    def brought(self) -> Mapping[str, pl.DataType]:
        """Features that the input need not have, and their types."""
        return {} if self._lookup is None else self._lookup.brought

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the input has to have beside keys and features, to look the others up by."""
        return () if self._lookup is None else self._lookup.columns

    @property
    def row_bytes(self) -> float:
        """What a row takes beside its columns, for each copy that budgets count."""
        return 0.0 if self._evaluation is None else NOTE_BYTES + 16 * (len(self.added) + len(self.brought))

    def prepare(self, types: Mapping[str, pl.DataType]) -> None:
        """Refuse input that cannot be looked up by, and make what all shards need.

        Parameters
        ----------
        types : mapping of str to polars.DataType
            The input's columns.

        Raises
        ------
        InvalidInput
            A column is of a type that it cannot be of.
        InvalidSpec
            The source cannot be opened, or indexing it takes more memory than the job may.
        """
        if self._lookup is not None:
            self._lookup.require_types(types)
            self._lookup.require_openable()
            self._lookup.index()

    def complete(self, rows: pl.DataFrame) -> Completed:
        """Give rows the features that they lack; raises as :meth:`ShardLookup.complete` does."""
        return Completed(rows=rows) if self._lookup is None else self._lookup.complete(rows)

    def without(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with nothing where features would be looked up."""
        return rows if self._lookup is None else self._lookup.without(rows)

    def answered(self, completed: Completed, scored: Scored) -> Answered:
        """What became of rows that were scored, after checks, threshold and rules.

        Parameters
        ----------
        completed : Completed
            The rows.
        scored : Scored
            What scoring found for them; outcomes are changed in it.
        """
        rows = completed.rows
        if self._evaluation is None:
            return Answered.plain(scored)
        incomplete = {} if completed.incomplete is None else completed.incomplete.reasons
        refused = first_reasons([_unreadable(rows), _of_wrong_type(rows, scored, self._schema), incomplete])
        found = self._evaluation.evaluate(
            _seen(rows, scored, self._schema, self._evaluation.inputs), scored, Violations.of(refused, rows.height)
        )
        if completed.defaulted is not None:
            found.note(completed.defaulted)
        return Answered(
            scored=scored,
            outputs=[found.columns[name] for name in self._schema.outputs],
            added=[found.columns[name] for name in self.added],
            reasons=pl.Series("reason", found.reasons(), dtype=pl.String),
        )


def _seen(rows: pl.DataFrame, scored: Scored, schema: FleetSchema, names: Sequence[str]) -> Columns:
    """Key columns and features in the types in which requests bring them."""
    keys, kinds = scored.resolved.keys, {feature.name: FEATURE_DTYPES[feature.kind] for feature in schema.features}
    return {name: keys[name] if name in keys.columns else _typed(rows[name], kinds[name]) for name in names}


def _typed(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String and dtype == pl.Float64:
        return read_numbers(column)
    return column.cast(dtype, strict=False)


def _unreadable(rows: pl.DataFrame) -> dict[int, str]:
    """Rows that stand for lines that could not be read."""
    if LINE not in rows.columns:
        return {}
    return dict.fromkeys(rows[LINE].is_not_null().arg_true(), Reason.UNREADABLE_LINE.words)


def _of_wrong_type(rows: pl.DataFrame, scored: Scored, schema: FleetSchema) -> dict[int, str]:
    """Rows that no request could bring: a text where a number or a key of another type belongs.

    Rules must not see them as rows with nothing there, so they are refused also where the model would not look.
    """
    found: dict[int, str] = {}
    wrong_keys = scored.resolved.wrong_keys
    if wrong_keys is not None:
        for row in np.flatnonzero(wrong_keys >= 0).tolist():
            found[row] = f"{Reason.WRONG_KEY_TYPE.words} in {schema.keys[wrong_keys[row]].name!r}"
    for feature in schema.features:
        column = rows[feature.name]
        if feature.kind is FeatureKind.NUMERIC and column.dtype in (pl.String, pl.Categorical, pl.Enum):
            wrong = column.is_not_null() & _typed(column, pl.Float64()).is_null()
            found = {**dict.fromkeys(wrong.arg_true(), f"{Reason.WRONG_TYPE.words} in {feature.name!r}"), **found}
    return found
