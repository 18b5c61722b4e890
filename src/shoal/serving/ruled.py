"""One call for many requests of a fleet with checks or rules: check, score, apply the rules, check again."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.requests.checks import Checks
from shoal.requests.rules import Rules
from shoal.requests.spec import FleetSchema, ServingSpec
from shoal.requests.violations import Violations
from shoal.scoring.outcomes import Scored
from shoal.serving.outputs import ScoredBatch, Values
from shoal.serving.scoring import Part, Scoring, parts_of
from shoal.serving.tensors import InputSchema, Rows
from shoal.table.keys import coerce
from shoal.table.models import ModelTable
from shoal.types import KeyType, Outcome, Reason


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
        self.rules = Rules(spec, schema)
        self.checks = Checks(spec.checks, schema, self.rules.outputs)
        self._dates = [column for column in table.keys if column.type is KeyType.DATE]

    def __call__(self, requests: Sequence[Rows]) -> Sequence[Part | Exception]:
        """Score the rows of many requests in one call; a request that a check refuses gets the refusal.

        Raises
        ------
        InvalidInput
            The rows of one of them cannot be converted.
        """
        frame = self.inputs.frame(requests)
        seen = self._seen(frame)
        broken = self.checks.inputs(seen)
        scored = self.score(frame)
        batch = self._batch(seen, scored, broken, _notes(requests, frame.height))
        parts = parts_of(batch, requests)
        if broken is None or self.checks.on_input != "reject":
            return parts
        return [_refusal(broken, *part[1:]) or part for part in parts]

    def require(self, rows: Rows) -> None:
        """Refuse a request that a check refuses, without scoring it.

        Raises
        ------
        InvalidInput
            Says which row, and why.
        """
        if self.checks.on_input != "reject":
            return
        broken = self.checks.inputs(self._seen(self.inputs.frame([rows])))
        refusal = None if broken is None else _refusal(broken, 0, rows.rows)
        if refusal is not None:
            raise refusal

    def _seen(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows as checks and rules see them."""
        return frame.with_columns([coerce(frame[column.name], column)[0] for column in self._dates])

    def _batch(
        self, seen: pl.DataFrame, scored: Scored, broken: Violations | None, incomplete: Violations | None
    ) -> "RuledBatch":
        batch = RuledBatch(scored)
        if incomplete is not None:
            batch.refuse(incomplete.rows, Outcome.INVALID, Reason.MISSING_VALUE)
            batch.note(incomplete)
        if broken is not None:
            if self.checks.on_input == "invalid":
                batch.refuse(broken.rows, Outcome.INVALID, Reason.WRONG_TYPE)
            batch.note(broken)
        outcome = scored.outcome_column.cast(pl.String)
        applied = self.rules.apply(seen.with_columns(*scored.predictions, outcome))
        batch.frame = applied.frame
        if applied.failed is not None:
            batch.refuse(applied.failed.rows, Outcome.FAILED, Reason.NOT_FINITE_ANSWER)
            batch.note(applied.failed)
        odd = self.checks.outputs(applied.frame)
        if odd is not None:
            batch.note(odd)
            if self.checks.on_output == "failed":
                batch.refuse(odd.rows, Outcome.FAILED, Reason.NOT_FINITE_ANSWER)
                batch.frame = applied.frame.with_columns(
                    [_without(applied.frame[name], odd.rows) for name in self.rules.outputs]
                )
        return batch


class RuledBatch(ScoredBatch):
    """What one call found, and what rules made of it.

    Attributes
    ----------
    frame : polars.DataFrame
        The outputs after the rules.
    notes : dict of int to str
        What checks and rules have to say, by row.
    """

    __slots__ = ("frame", "notes")

    def __init__(self, scored: Scored) -> None:
        super().__init__(scored)
        self.levels = scored.levels.copy()
        self.frame = pl.DataFrame()
        self.notes: dict[int, str] = {}

    def refuse(self, rows: NDArray[np.bool_], outcome: Outcome, reason: Reason) -> None:
        """Take rows' answers away."""
        self.scored.refuse(rows, reason)
        self.scored.outcomes[rows] = outcome

    def note(self, violations: Violations) -> None:
        """Remember what there is to say of rows."""
        self.notes = {**violations.reasons, **self.notes}

    def column(self, name: str) -> pl.Series:
        """An output after the rules."""
        return self.frame[name]

    def reasons(self) -> Values:
        """Why each row has no answer, or what a check has against one that has."""
        texts = super().reasons()
        for row, note in self.notes.items():
            texts[row] = note
        return texts


def _notes(requests: Sequence[Rows], height: int) -> Violations | None:
    """Rows that could not be completed."""
    notes: dict[int, str] = {}
    start = 0
    for request in requests:
        notes |= {start + row: note for row, note in request.notes.items()}
        start += request.rows
    return Violations.of(notes, height)


def _refusal(broken: Violations, start: int, stop: int) -> InvalidInput | None:
    """The refusal of a request that has a row which a check does not allow."""
    rows = np.flatnonzero(broken.rows[start:stop])
    if not len(rows):
        return None
    return InvalidInput(f"row {rows[0] + 1}: {broken.reasons[start + int(rows[0])]}")


def _without(column: pl.Series, rows: NDArray[np.bool_]) -> pl.Series:
    positions = pl.Series(np.flatnonzero(rows))
    return column.scatter(positions, None) if len(positions) else column
