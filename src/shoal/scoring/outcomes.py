"""What scoring found, row by row, and how users see it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shoal.families.contract import Answers
from shoal.scoring.resolve import Resolved
from shoal.table.keys import level_name
from shoal.table.models import ModelTable
from shoal.types import Bytes, Counts, Integers, Outcome, Reason, Task

_WORDS = [outcome.word for outcome in Outcome]
OUTCOME_WORDS = pl.Series("outcome", _WORDS, dtype=pl.Enum(_WORDS))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Predictions and outcomes, in the order of the input.

    Attributes
    ----------
    table : ModelTable
        The models that answered.
    resolved : Resolved
        Which model answered each row.
    answers : Answers
        What the kernels wrote.
    outcomes : ndarray of uint8, shape (rows,)
        An :class:`~shoal.types.Outcome` each.
    """

    table: ModelTable
    resolved: Resolved
    answers: Answers
    outcomes: Bytes

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The key columns, then the task's output columns; null where there is no answer."""
        keys = self.resolved.keys
        return keys.hstack(self.predictions) if keys.width else pl.DataFrame(self.predictions)

    @cached_property
    def predictions(self) -> list[pl.Series]:
        """The task's output columns."""
        silent = self.outcomes > Outcome.FALLBACK
        if self.table.task is Task.CLASSIFICATION:
            return [self._labels(silent), self._probabilities(silent)]
        if self.table.task is Task.REGRESSION:
            return [_masked("prediction", self.answers.values, silent)]
        values = self.answers.values
        return [_masked("score", values, silent), _masked("is_anomaly", values < 0, silent)]

    def _labels(self, silent: NDArray[np.bool_]) -> pl.Series:
        positions = pl.Series(_arrow(self.answers.labels, silent | (self.answers.labels < 0)))
        return pl.Series("labels", self.table.labels).gather(positions).alias("prediction")

    def _probabilities(self, silent: NDArray[np.bool_]) -> pl.Series:
        """A list of the union's size for each row; null as a whole where the model gives no probabilities."""
        matrix = self.answers.probabilities
        unknown = np.isnan(matrix)
        inner = _arrow(matrix.reshape(-1), unknown.reshape(-1))
        none = silent | unknown.all(axis=1)
        lists = pa.FixedSizeListArray.from_arrays(inner, matrix.shape[1], mask=_arrow(none))
        return pl.Series("probability", lists)

    @property
    def reasons(self) -> Bytes:
        """Why a row is invalid or failed: a :class:`~shoal.types.Reason` each, 0 where it is neither."""
        return self.answers.reasons

    @property
    def culprits(self) -> NDArray[np.int16]:
        """Position of the feature (or key column) that the reason is about, -1 where none is."""
        return self.answers.culprits

    @property
    def levels(self) -> NDArray[np.int8]:
        """Position of the answering level, -1 where none."""
        return self.resolved.levels

    @cached_property
    def models(self) -> Integers:
        """Row of the answering model in the table's frame of live models, -1 where none; int64."""
        numbers = self.resolved.models
        if self.table.live.all():
            return numbers
        positions = np.cumsum(self.table.live) - 1
        return np.where(numbers >= 0, positions[np.maximum(numbers, 0)] if len(positions) else -1, -1)

    @property
    def outcome_column(self) -> pl.Series:
        """The outcomes as words."""
        return OUTCOME_WORDS.gather(self.outcomes)

    @property
    def level_column(self) -> pl.Series:
        """The answering level: its key columns joined by ``+``, ``global`` for none; null where no model answered."""
        names = [level_name(level) for level in self.table.levels]
        if len(self.levels) and self.levels[0] >= 0 and (self.levels == self.levels[0]).all():
            same = pl.Series([names[self.levels[0]]], dtype=pl.Enum(names))
            return same.new_from_index(0, len(self.levels)).alias("model_level")
        positions = pl.Series(_arrow(self.levels, self.levels < 0))
        return pl.Series("names", names, dtype=pl.Enum(names)).gather(positions).alias("model_level")

    def reason_texts(self) -> pl.Series:
        """Why a row is invalid or failed, e.g. ``missing value in 'temp'``; null where it is neither."""
        if not self.reasons.any():
            return pl.repeat(None, len(self.reasons), dtype=pl.String, eager=True).alias("reason")
        kinds = self.reasons.astype(np.int32) << 16 | (self.culprits.astype(np.int32) + 1)
        met, positions = np.unique(kinds[self.reasons != 0], return_inverse=True)
        texts = pl.Series([self._text(Reason(int(k) >> 16), (int(k) & 0xFFFF) - 1) for k in met], dtype=pl.String)
        chosen = np.zeros(len(kinds), dtype=np.int32)
        chosen[self.reasons != 0] = positions
        return texts.gather(pl.Series(_arrow(chosen, self.reasons == 0))).alias("reason")

    def _text(self, reason: Reason, culprit: int) -> str:
        if culprit < 0:
            return reason.words
        if reason is Reason.WRONG_KEY_TYPE:
            return f"{reason.words} in {self.table.keys[culprit].name!r}"
        return f"{reason.words} in {self.table.features[culprit].name!r}"

    def refuse(self, rows: NDArray[np.bool_], reason: Reason) -> None:
        """Make rows invalid whatever they would have got; before anything of :attr:`frame` was asked for."""
        self.outcomes[rows] = Outcome.INVALID
        self.answers.reasons[rows] = reason
        self.answers.culprits[rows] = -1
        self.resolved.levels[rows] = -1

    def counts(self) -> Counts:
        """Rows per outcome."""
        tally = {outcome.word: int(np.count_nonzero(self.outcomes == outcome)) for outcome in Outcome}
        return Counts(rows=len(self.outcomes), **tally)


def _masked(name: str, values: NDArray[np.float64] | NDArray[np.bool_], silent: NDArray[np.bool_]) -> pl.Series:
    return pl.Series(name, _arrow(values, silent) if silent.any() else values)


def _arrow(values: NDArray[np.generic], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Values where they lie, and which are missing. ``pa.array`` would import pandas where that is installed."""
    is_bits = values.dtype == np.bool_
    data = np.packbits(values.view(np.bool_), bitorder="little") if is_bits else np.ascontiguousarray(values)
    valid = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, pa.py_buffer(data)])
