"""From what scoring found to a response's tensors: computed once per kernel call, cut per request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.scoring.outcomes import Scored
from shoal.serving.messages import Datatype, Tensor, TensorMetadata
from shoal.table.keys import level_name
from shoal.table.models import ModelTable
from shoal.types import Label, Outcome, Task

Values: TypeAlias = list[str | bytes | int | float | bool | None]

LABEL_DATATYPES: Final = {str: Datatype.BYTES, int: Datatype.INT64, bool: Datatype.BOOL}
DATATYPES: Final[dict[type[pl.DataType], Datatype]] = {
    pl.Float64: Datatype.FP64,
    pl.Int64: Datatype.INT64,
    pl.Boolean: Datatype.BOOL,
    pl.String: Datatype.BYTES,
}
WORDS: Final = [outcome.word for outcome in Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One output of a fleet.

    Attributes
    ----------
    name : str
        Its name.
    datatype : Datatype
        Type of its elements.
    width : int
        Elements per row; 0 for a tensor of one dimension.
    values : callable
        All rows' elements of what one call found, None where there is no answer.
    usual : bool
        Whether it is given unless told otherwise.
    """

    name: str
    datatype: Datatype
    values: Callable[["ScoredBatch"], Values]
    width: int = 0
    usual: bool = True

    def tensor(self, values: Values) -> Tensor:
        """A tensor of these elements."""
        shape = (len(values) // self.width, self.width) if self.width else (len(values),)
        return Tensor(name=self.name, datatype=self.datatype, shape=shape, data=values)


class Batch(Protocol):
    """What was found for the rows of many requests.

    Attributes
    ----------
    levels : ndarray of int8, shape (rows,)
        Position of the level that answered each row, -1 where none.
    """

    @property
    def levels(self) -> NDArray[np.int8]:
        """Position of the level that answered each row."""
        ...

    def values(self, output: Output, start: int, stop: int) -> Values:
        """Some rows' elements of an output."""
        ...


class OutputSchema:
    """The outputs of a fleet.

    Parameters
    ----------
    table : ModelTable
        The models.
    version : int
        The snapshot.
    ruled : mapping of str to polars.DataType, optional
        The output columns after the fleet's rules, where it has any: the task's, then those that rules add.
    """

    def __init__(self, table: ModelTable, version: int, ruled: Mapping[str, pl.DataType] | None = None) -> None:
        answers = _answers(table) if ruled is None else _ruled(table, ruled)
        extra = [
            Output(name="outcome", datatype=Datatype.BYTES, values=_outcomes),
            *answers[len(_answers(table)) :],
            Output(name="reason", datatype=Datatype.BYTES, values=lambda batch: batch.reasons(), usual=False),
            Output(name="model_level", datatype=Datatype.BYTES, values=_levels(table), usual=False),
            Output(
                name="snapshot",
                datatype=Datatype.INT64,
                values=lambda batch: [version] * len(batch.scored.outcomes),
                usual=False,
            ),
        ]
        self.outputs = (*answers[: len(_answers(table))], *extra)
        self.usual = tuple(one for one in self.outputs if one.usual)
        self._named = {one.name: one for one in self.outputs}

    def metadata(self) -> tuple[TensorMetadata, ...]:
        """The outputs as clients see them, the usual ones first."""
        return tuple(
            TensorMetadata(name=one.name, datatype=one.datatype, shape=(-1, one.width) if one.width else (-1,))
            for one in self.outputs
        )

    def wanted(self, names: Sequence[str] | None) -> Sequence[Output]:
        """The outputs of these names, or the usual ones.

        Raises
        ------
        InvalidInput
            There is no such output.
        """
        if names is None:
            return self.usual
        for name in names:
            if name not in self._named:
                raise InvalidInput(f"there is no output {name!r}; there are {list(self._named)}")
        return [self._named[name] for name in names]


class ScoredBatch:
    """What one call found, with each output computed when first asked for.

    Parameters
    ----------
    scored : Scored
        What scoring found.

    Attributes
    ----------
    scored : Scored
        What scoring found.
    levels : ndarray of int8, shape (rows,)
        Position of the level that answered each row, -1 where none.
    """

    __slots__ = ("_values", "levels", "scored")

    def __init__(self, scored: Scored) -> None:
        self.scored = scored
        self.levels: NDArray[np.int8] = scored.levels
        self._values: dict[str, Values] = {}

    def values(self, output: Output, start: int, stop: int) -> Values:
        """Some rows' elements of an output."""
        values = self._values.get(output.name)
        if values is None:
            values = self._values[output.name] = output.values(self)
        width = output.width or 1
        return values[start * width : stop * width]

    def column(self, name: str) -> pl.Series:
        """An output of the task, as scoring gave it."""
        return {series.name: series for series in self.scored.predictions}[name]

    def reasons(self) -> Values:
        """Why each row has no answer."""
        if not self.scored.reasons.any():
            return [None] * len(self.scored.reasons)
        return self.scored.reason_texts().to_list()


def _answers(table: ModelTable) -> Sequence[Output]:
    if table.task is Task.REGRESSION:
        return [Output(name="prediction", datatype=Datatype.FP64, values=_numbers)]
    if table.task is Task.ANOMALY:
        flags = Output(name="is_anomaly", datatype=Datatype.BOOL, values=_flags)
        return [Output(name="score", datatype=Datatype.FP64, values=_numbers), flags]
    labels = table.labels
    datatype = LABEL_DATATYPES[type(labels[0])] if labels else Datatype.BYTES
    found = Output(name="prediction", datatype=datatype, values=lambda batch: _labels(batch, labels))
    if not labels:
        return [found]
    return [found, Output(name="probability", datatype=Datatype.FP64, values=_probabilities, width=len(labels))]


def _ruled(table: ModelTable, ruled: Mapping[str, pl.DataType]) -> Sequence[Output]:
    """The outputs that rules may change or add, read from the columns that they made."""
    known = {output.name: output for output in _answers(table)}
    return [
        Output(
            name=name,
            datatype=known[name].datatype if name in known else DATATYPES[type(dtype)],
            width=known[name].width if name in known else 0,
            values=_column(name, known[name].width if name in known else 0),
        )
        for name, dtype in ruled.items()
    ]


def _column(name: str, width: int) -> Callable[[ScoredBatch], Values]:
    def values(batch: ScoredBatch) -> Values:
        rows = batch.column(name).to_list()
        if not width:
            return rows
        return [value for row in rows for value in (row if row is not None else [None] * width)]

    return values


def _silent(batch: ScoredBatch) -> list[int]:
    """Rows without an answer."""
    silent: list[int] = np.flatnonzero(batch.scored.outcomes > Outcome.FALLBACK).tolist()
    return silent


def _numbers(batch: ScoredBatch) -> Values:
    values: Values = batch.scored.answers.values.tolist()
    for row in _silent(batch):
        values[row] = None
    return values


def _flags(batch: ScoredBatch) -> Values:
    flags: Values = (batch.scored.answers.values < 0).tolist()
    for row in _silent(batch):
        flags[row] = None
    return flags


def _labels(batch: ScoredBatch, labels: Sequence[Label]) -> Values:
    known: list[Label | None] = [*labels, None]  # position -1: no label
    values: Values = [known[position] for position in batch.scored.answers.labels.tolist()]
    for row in _silent(batch):
        values[row] = None
    return values


def _probabilities(batch: ScoredBatch) -> Values:
    matrix = batch.scored.answers.probabilities
    silent = batch.scored.outcomes > Outcome.FALLBACK
    unknown = np.isnan(matrix) | silent[:, None]
    values: Values = list(matrix.reshape(-1).tolist())
    for element in np.flatnonzero(unknown.reshape(-1)).tolist():
        values[element] = None
    return values


def _outcomes(batch: ScoredBatch) -> Values:
    return [WORDS[outcome] for outcome in batch.scored.outcomes.tolist()]


def _levels(table: ModelTable) -> Callable[[ScoredBatch], Values]:
    # The log wants them of every call, of one row often, where a series would cost more than the model.
    names = [*[level_name(level) for level in table.levels], None]  # position -1: no level
    return lambda batch: [names[level] for level in batch.scored.levels.tolist()]
