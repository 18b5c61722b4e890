"""The one path from rows and a table of models to predictions and outcomes.

Everything that scores ends here: a batch of millions of rows and a request of one. A row's answer does not depend on
the rows beside it, on the number of threads, or on how the work is cut; so batch and real time give the same bits.
"""

import numpy as np
import polars as pl

from shoal.engines.threads import SMALL, Threads, shared_threads
from shoal.families import family
from shoal.families.contract import Answers, Batch
from shoal.scoring import grouping
from shoal.scoring.columns import FeatureColumns, RowColumns
from shoal.scoring.grouping import Groups, gather, scatter, scatter_labels, scatter_rows
from shoal.scoring.outcomes import Scored
from shoal.scoring.resolve import Resolved, resolve
from shoal.scoring.tallying import settle
from shoal.table.models import ModelTable
from shoal.types import FeatureKind, Floats, Integers, Reason, Task

#: Rows gathered, scored and scattered at a time by one thread: what fits its cache.
SLICE_ROWS = 16_384


def score(
    table: ModelTable, rows: pl.DataFrame | RowColumns, *, threads: Threads | None = None, fallback: bool = True
) -> Scored:
    """Score every row with its own model.

    Parameters
    ----------
    table : ModelTable
        The models.
    rows : polars.DataFrame or RowColumns
        Hold the key and feature columns; others are ignored.
    threads : Threads, optional
        Where kernels run; the process's shared pool unless told.
    fallback : bool
        False: a row whose finest level has no model gets none.

    Returns
    -------
    Scored
        Row by row, in the order of the rows given.

    Raises
    ------
    InvalidInput
        A key or feature column is missing or of an impossible type. A bad *row* is an outcome, not an error.
    """
    threads = threads or shared_threads()
    if isinstance(rows, pl.DataFrame):
        rows = RowColumns.of(rows)
    columns = FeatureColumns(rows, table.features)
    resolved = resolve(table, rows, threads, fallback=fallback)
    answers = _empty_answers(rows.height, len(table.labels))
    groups = grouping.group(resolved.models, int(table.starts[-1]))
    ends = np.searchsorted(groups.models, table.starts).tolist()
    for number in range(len(table.blocks)):
        if ends[number] < ends[number + 1]:
            _BlockPass(table, number, groups, ends[number], ends[number + 1], columns).run(answers, threads)
    return _scored(table, resolved, answers)


def _empty_answers(rows: int, labels: int) -> Answers:
    """Room for answers. Values are not filled: those of rows that no model answers, or that are marked, are not read.

    Whatever is left out here is also left to the threads that write first, and large arrays are mostly page faults.
    Reasons are filled, not taken as zeros from the system: kernels store to them under a mask, and in memory that was
    never written such a store traps though it stores nothing; ten times slower.
    """
    return Answers(
        values=np.empty(rows),
        labels=np.full(rows, -1, dtype=np.int32) if labels else np.empty(rows, dtype=np.int32),
        probabilities=np.full((rows, labels), np.nan),
        reasons=np.full(rows, 0, dtype=np.uint8),
        culprits=np.full(rows, -1, dtype=np.int16),
    )


class _BlockPass:
    """The rows of one block: gathered, scored by its family's kernel, scattered back."""

    def __init__(
        self, table: ModelTable, number: int, groups: Groups, first: int, last: int, columns: FeatureColumns
    ) -> None:
        self.block = table.arrays[number]
        layout = self.block.layout
        self.task = table.task
        self.family = family(layout.family)
        self.order = groups.order
        self.base = int(groups.starts[first])
        self.rows = int(groups.starts[last]) - self.base
        self.units = grouping.units_of(groups, first, last, int(table.starts[number]))
        self.fleet_features = table.feature_positions[number]
        self.sources: list[Floats] = []
        self.wrong: list[tuple[int, np.ndarray[tuple[int], np.dtype[np.bool_]]]] = []
        categories = table.blocks[number].header.categories
        for i, feature in enumerate(layout.features):
            if feature.kind is FeatureKind.CATEGORY:
                self.sources.append(columns.codes(feature.name, categories[i]))
                continue
            values, wrong = columns.numbers(feature.name)
            self.sources.append(values)
            if wrong is not None:
                self.wrong.append((i, wrong))

    def run(self, answers: Answers, threads: Threads) -> None:
        """Score all units; ranges of rows run side by side."""
        if self.rows <= SMALL:
            self._slice(answers, self.units)
            return
        starts = self.units[:, 1]

        def work(lo: int, hi: int) -> None:
            for row in range(lo, hi, SLICE_ROWS):
                units = np.searchsorted(starts, [row, min(row + SLICE_ROWS, hi)])
                if units[0] < units[1]:
                    self._slice(answers, self.units[units[0] : units[1]])

        threads.over(self.rows, work)

    def _slice(self, answers: Answers, units: Integers) -> None:
        """Gather, score and scatter a few units, whose rows are neighbours, in memory that fits a core's cache."""
        lo, hi = int(units[0, 1]), int(units[-1, 2])
        rows = self.order[self.base + lo : self.base + hi]
        batch = Batch(X=np.empty((len(self.sources), hi - lo)), units=units - np.array([0, lo, lo]) if lo else units)
        own = _empty_answers(hi - lo, answers.probabilities.shape[1])
        for i, source in enumerate(self.sources):
            gather(source, rows, batch.X[i])
        self.family.score(self.block, batch, own, 0, len(units))
        if self.task is Task.CLASSIFICATION:
            scatter_labels(own.labels, rows, answers.labels)
            scatter_rows(own.probabilities, rows, answers.probabilities)
        else:
            scatter(own.values, rows, answers.values)
        self._mark(own, answers, rows)

    def _mark(self, own: Answers, answers: Answers, rows: Integers) -> None:
        """Carry the reasons over; a value of the wrong type reached the kernel as a missing one."""
        for i, wrong in self.wrong:
            bad = wrong[rows]
            own.reasons[bad] = Reason.WRONG_TYPE
            own.culprits[bad] = i
        marked = own.reasons.nonzero()[0]
        if len(marked):
            answers.reasons[rows[marked]] = own.reasons[marked]
            answers.culprits[rows[marked]] = self.fleet_features[own.culprits[marked]]


def _scored(table: ModelTable, resolved: Resolved, answers: Answers) -> Scored:
    """Turn answers and reasons into outcomes."""
    if resolved.wrong_keys is not None:
        bad = resolved.wrong_keys >= 0
        answers.reasons[bad] = Reason.WRONG_KEY_TYPE
        answers.culprits[bad] = resolved.wrong_keys[bad]
    outcomes = np.empty(len(resolved.levels), dtype=np.uint8)
    values = answers.values[:0] if table.task is Task.CLASSIFICATION else answers.values
    settle(resolved.levels, values, answers.reasons, outcomes)
    return Scored(table=table, resolved=resolved, answers=answers, outcomes=outcomes)
