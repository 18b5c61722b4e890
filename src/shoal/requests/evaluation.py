"""What a serving spec makes of scored rows, for requests and for jobs alike: check, apply the rules, check again."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.requests.checks import Checks
from shoal.requests.outputs import Columns, without
from shoal.requests.rules import Rules
from shoal.requests.spec import FleetSchema, ServingSpec
from shoal.requests.violations import Violations
from shoal.scoring.outcomes import Scored
from shoal.types import Outcome, Reason


class Evaluation:
    """The checks, threshold and rules of one fleet, compiled once; safe to use from several threads.

    Parameters
    ----------
    spec : ServingSpec
        What there is of them.
    schema : FleetSchema
        The fleet's columns.

    Attributes
    ----------
    rules : Rules
        The threshold and rules.
    checks : Checks
        The checks.
    inputs : tuple of str
        The key columns and features that either looks at.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet.
    """

    def __init__(self, spec: ServingSpec, schema: FleetSchema) -> None:
        self.rules = Rules(spec, schema)
        self.checks = Checks(spec.checks, schema, self.rules.outputs)
        seen = self.rules.columns
        self.inputs = tuple(name for name in schema.inputs if name in seen | self.checks.columns)
        self._sees_outcome = "outcome" in seen

    def evaluate(self, seen: Columns, scored: Scored, incomplete: Violations | None) -> "Evaluated":
        """Check the inputs of rows, apply the rules to their answers, and check what came of it.

        A row with a bad input becomes ``invalid``, unless that is only to be reported; who is to refuse a whole request
        for it asks :meth:`Evaluated.refusals`.

        Parameters
        ----------
        seen : Columns
            The columns of :attr:`inputs`, in the types of :class:`FleetSchema`.
        scored : Scored
            What scoring found for the same rows; outcomes are changed in it.
        incomplete : Violations or None
            Rows that could not be completed, and why; they become ``invalid``.
        """
        found = Evaluated(scored)
        if incomplete is not None:
            found.refuse(incomplete, Outcome.INVALID, Reason.MISSING_VALUE)
        found.broken = broken = self.checks.inputs(seen)
        if broken is not None:
            if self.checks.on_input == "report":
                found.note(broken)
            else:
                found.refuse(broken, Outcome.INVALID, Reason.WRONG_TYPE)
        columns = {**seen, **{column.name: column for column in scored.predictions}}
        if self._sees_outcome:
            columns["outcome"] = scored.outcome_column.cast(pl.String)
        applied = self.rules.apply(columns)
        found.columns = applied.columns
        if applied.failed is not None:
            found.refuse(applied.failed, Outcome.FAILED, Reason.NOT_FINITE_ANSWER)
        odd = self.checks.outputs(applied.columns)
        if odd is not None and self.checks.on_output == "failed":
            found.refuse(odd, Outcome.FAILED, Reason.NOT_FINITE_ANSWER)
            silenced = {name: without(applied.columns[name], odd.rows) for name in self.rules.outputs}
            found.columns = {**applied.columns, **silenced}
        elif odd is not None:
            found.note(odd)
        return found


class Evaluated:
    """What came of rows.

    Attributes
    ----------
    scored : Scored
        What scoring found, with the outcomes that rows have now. Its answers may be those before the rules: they are
        in ``columns``.
    levels : ndarray of int8, shape (rows,)
        Position of the level that answered each row, also of those whose answer was taken away; -1 where none did.
    columns : Columns
        The outputs after the rules, among others.
    broken : Violations or None
        Rows with a bad input.
    """

    __slots__ = ("_notes", "broken", "columns", "levels", "scored")

    def __init__(self, scored: Scored) -> None:
        self.scored = scored
        self.levels: NDArray[np.int8] = scored.levels.copy()
        self.columns: Columns = {}
        self.broken: Violations | None = None
        self._notes: dict[int, str] = {}

    def refuse(self, violations: Violations, outcome: Outcome, reason: Reason) -> None:
        """Take rows' answers away, and say why."""
        self.scored.refuse(violations.rows, reason)
        self.scored.outcomes[violations.rows] = outcome
        self.note(violations)

    def note(self, violations: Violations) -> None:
        """Say something of rows; what was said of them first stays."""
        self._notes = {**violations.reasons, **self._notes}

    def reasons(self) -> list[str | None]:
        """Why each row has no answer, or what there is to say of one that has."""
        texts: list[str | None] = [None] * len(self.scored.reasons)
        if self.scored.reasons.any():
            texts = self.scored.reason_texts().to_list()
        for row, note in self._notes.items():
            texts[row] = note
        return texts

    def refusals(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """The rows of a range that have a bad input, counted from its beginning, and what is wrong with each."""
        if self.broken is not None:
            for row in np.flatnonzero(self.broken.rows[start:stop]).tolist():
                yield row, self.broken.reasons[start + row]
