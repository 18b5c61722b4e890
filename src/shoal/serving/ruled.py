"""One call for many requests of a fleet with checks or rules: check, score, apply the rules, check again."""

from collections.abc import Mapping, Sequence

import polars as pl

from shoal.errors import InvalidInput
from shoal.requests.evaluation import Evaluated, Evaluation
from shoal.requests.outputs import Columns
from shoal.requests.spec import FleetSchema, ServingSpec
from shoal.requests.violations import Violations
from shoal.scoring.columns import RowColumns
from shoal.serving.inputs import InputSchema
from shoal.serving.outputs import ScoredBatch, Values
from shoal.serving.rows import Rows
from shoal.serving.scoring import Part, Scoring, parts_of
from shoal.table.keys import coerce
from shoal.table.models import ModelTable
from shoal.types import KeyType


class RuledScoring(Scoring):
    """What a batcher runs for a fleet with checks or rules; may be called in any thread.

    Parameters
    ----------
    table : ModelTable
        The models.
    inputs : InputSchema
        Their inputs.
    spec : ServingSpec
        Its checks, threshold and rules.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet.
    """

    def __init__(self, table: ModelTable, inputs: InputSchema, spec: ServingSpec) -> None:
        super().__init__(table, inputs)
        schema = FleetSchema(keys=table.keys, features=table.features, task=table.task, labels=table.labels)
        self._evaluation = Evaluation(spec, schema)
        self.rules = self._evaluation.rules
        self._rejects = spec.checks.on_input == "reject"
        self._dates = [
            column for column in table.keys if column.type is KeyType.DATE and column.name in self._evaluation.inputs
        ]

    def __call__(self, requests: Sequence[Rows]) -> Sequence[Part | Exception]:
        """Score the rows of many requests in one call; a request that a check refuses gets the refusal.

        Raises
        ------
        InvalidInput
            The rows of one of them cannot be converted.
        """
        columns = self.inputs.columns(requests)
        incomplete = _noted([request.notes for request in requests], requests, columns.height)
        found = self._evaluation.evaluate(self._seen(columns), self.score(columns), incomplete)
        defaulted = _noted([request.defaulted for request in requests], requests, columns.height)
        if defaulted is not None:
            found.note(defaulted)
        parts = parts_of(RuledBatch(found), requests)
        if not self._rejects:
            return parts
        return [_refusal(found, part) or part for part in parts]

    def require(self, rows: Rows) -> None:
        """Refuse a request that a check refuses, without scoring it.

        Raises
        ------
        InvalidInput
            Says which row, and why.
        """
        if not self._rejects:
            return
        broken = self._evaluation.checks.inputs(self._seen(self.inputs.columns([rows])))
        if broken is not None and broken.rows.any():
            row = int(broken.rows.argmax())
            raise _refused(row, broken.reasons[row])

    def _seen(self, rows: RowColumns) -> Columns:
        """What checks and rules see of rows."""
        seen = {name: rows.series(name) for name in self._evaluation.inputs}
        return {**seen, **{column.name: coerce(seen[column.name], column)[0] for column in self._dates}}


def scoring_of(table: ModelTable, inputs: InputSchema, spec: ServingSpec) -> Scoring:
    """What runs for each call of a fleet: nothing but the models where no check or rule is set.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet.
    """
    if spec.rules or spec.threshold or spec.checks.inputs or spec.checks.outputs or spec.lookup:
        return RuledScoring(table, inputs, spec)
    return Scoring(table, inputs)


class RuledBatch(ScoredBatch):
    """What one call found, and what rules made of it.

    Parameters
    ----------
    evaluated : Evaluated
        What came of the rows.
    """

    __slots__ = ("_evaluated",)

    def __init__(self, evaluated: Evaluated) -> None:
        super().__init__(evaluated.scored)
        self.levels = evaluated.levels
        self._evaluated = evaluated

    def column(self, name: str) -> pl.Series:
        """An output after the rules."""
        return self._evaluated.columns[name]

    def reasons(self) -> Values:
        """Why each row has no answer, or what a check has against one that has."""
        return [*self._evaluated.reasons()]


def _noted(notes: Sequence[Mapping[int, str]], requests: Sequence[Rows], height: int) -> Violations | None:
    """What is noted of rows of each request, by their position among the rows of all."""
    found: dict[int, str] = {}
    start = 0
    for noted, request in zip(notes, requests, strict=True):
        if noted:
            found |= {start + row: note for row, note in noted.items()}
        start += request.rows
    return Violations.of(found, height)


def _refusal(found: Evaluated, part: Part) -> InvalidInput | None:
    """The refusal of a request that has a row which a check does not allow."""
    row, reason = next(found.refusals(*part[1:]), (-1, ""))
    return None if row < 0 else _refused(row, reason)


def _refused(row: int, reason: str) -> InvalidInput:
    return InvalidInput(f"row {row + 1}: {reason}")
