"""From what scoring found to a response's tensors: computed once per kernel call, cut per request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from shoal.errors import InvalidInput
from shoal.scoring.outcomes import Scored
from shoal.serving.messages import Datatype, Tensor, TensorMetadata
from shoal.table.models import ModelTable
from shoal.types import Label, Outcome, Task

Values: TypeAlias = "list[str | bytes | int | float | bool | None]"

LABEL_DATATYPES: Final = {str: Datatype.BYTES, int: Datatype.INT64, bool: Datatype.BOOL}
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
        All rows' elements of what scoring found, None where there is no answer.
    usual : bool
        Whether it is given unless told otherwise.
    """

    name: str
    datatype: Datatype
    values: Callable[[Scored], Values]
    width: int = 0
    usual: bool = True

    def tensor(self, values: Values) -> Tensor:
        """A tensor of these elements."""
        shape = (len(values) // self.width, self.width) if self.width else (len(values),)
        return Tensor(name=self.name, datatype=self.datatype, shape=shape, data=values)


class OutputSchema:
    """The outputs of a fleet.

    Parameters
    ----------
    table : ModelTable
        The models.
    version : int
        The snapshot.
    """

    def __init__(self, table: ModelTable, version: int) -> None:
        extra = [
            Output(name="outcome", datatype=Datatype.BYTES, values=_outcomes),
            Output(name="reason", datatype=Datatype.BYTES, values=_reasons, usual=False),
            Output(name="model_level", datatype=Datatype.BYTES, values=_levels, usual=False),
            Output(
                name="snapshot",
                datatype=Datatype.INT64,
                values=lambda scored: [version] * len(scored.outcomes),
                usual=False,
            ),
        ]
        self.outputs = (*_answers(table), *extra)
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
    """What one kernel call found, with each output computed when first asked for.

    Parameters
    ----------
    scored : Scored
        What scoring found.
    """

    __slots__ = ("_values", "scored")

    def __init__(self, scored: Scored) -> None:
        self.scored = scored
        self._values: dict[str, Values] = {}

    def values(self, output: Output, start: int, stop: int) -> Values:
        """Some rows' elements of an output."""
        values = self._values.get(output.name)
        if values is None:
            values = self._values[output.name] = output.values(self.scored)
        width = output.width or 1
        return values[start * width : stop * width]


def _answers(table: ModelTable) -> Sequence[Output]:
    if table.task is Task.REGRESSION:
        return [Output(name="prediction", datatype=Datatype.FP64, values=_numbers)]
    if table.task is Task.ANOMALY:
        flags = Output(name="is_anomaly", datatype=Datatype.BOOL, values=_flags)
        return [Output(name="score", datatype=Datatype.FP64, values=_numbers), flags]
    labels = table.labels
    datatype = LABEL_DATATYPES[type(labels[0])] if labels else Datatype.BYTES
    found = Output(name="prediction", datatype=datatype, values=lambda scored: _labels(scored, labels))
    if not labels:
        return [found]
    return [found, Output(name="probability", datatype=Datatype.FP64, values=_probabilities, width=len(labels))]


def _silent(scored: Scored) -> list[int]:
    """Rows without an answer."""
    silent: list[int] = np.flatnonzero(scored.outcomes > Outcome.FALLBACK).tolist()
    return silent


def _numbers(scored: Scored) -> Values:
    values: Values = scored.answers.values.tolist()
    for row in _silent(scored):
        values[row] = None
    return values


def _flags(scored: Scored) -> Values:
    flags: Values = (scored.answers.values < 0).tolist()
    for row in _silent(scored):
        flags[row] = None
    return flags


def _labels(scored: Scored, labels: Sequence[Label]) -> Values:
    known: list[Label | None] = [*labels, None]  # position -1: no label
    values: Values = [known[position] for position in scored.answers.labels.tolist()]
    for row in _silent(scored):
        values[row] = None
    return values


def _probabilities(scored: Scored) -> Values:
    matrix = scored.answers.probabilities
    silent = scored.outcomes > Outcome.FALLBACK
    unknown = np.isnan(matrix) | silent[:, None]
    values: Values = list(matrix.reshape(-1).tolist())
    for element in np.flatnonzero(unknown.reshape(-1)).tolist():
        values[element] = None
    return values


def _outcomes(scored: Scored) -> Values:
    return [WORDS[outcome] for outcome in scored.outcomes.tolist()]


def _reasons(scored: Scored) -> Values:
    return scored.reason_texts().to_list()


def _levels(scored: Scored) -> Values:
    return scored.level_column.to_list()
