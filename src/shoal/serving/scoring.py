"""One call for many requests: merge their rows, score them, and say which part of the answer is whose."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from shoal.engines.threads import shared_threads
from shoal.scoring.columns import RowColumns
from shoal.scoring.outcomes import Scored
from shoal.scoring.score import score
from shoal.serving.addressed import SingleModel
from shoal.serving.inputs import InputSchema
from shoal.serving.messages import Tensor
from shoal.serving.outputs import Batch, Output, ScoredBatch, Values
from shoal.serving.rows import Rows
from shoal.table.models import ModelTable
from shoal.types import Outcome

Part: TypeAlias = tuple[Batch, int, int]
"""Rows ``start`` to ``stop`` of what one call found."""

_FALLBACK: Final = Outcome.FALLBACK.word
_SCORED: Final = Outcome.SCORED.word


class Scoring:
    """What a batcher runs; may be called in any thread.

    Parameters
    ----------
    table : ModelTable
        The models.
    inputs : InputSchema
        Their inputs.
    """

    def __init__(self, table: ModelTable, inputs: InputSchema) -> None:
        self.table = table
        self.inputs = inputs
        self._threads = shared_threads()

    def __call__(self, requests: Sequence[Rows]) -> Sequence[Part | Exception]:
        """Score the rows of many requests in one call.

        Raises
        ------
        InvalidInput
            The rows of one of them cannot be converted.
        """
        return parts_of(ScoredBatch(self.score(self.inputs.columns(requests))), requests)

    def score(self, rows: RowColumns) -> Scored:
        """Score rows."""
        return score(self.table, rows, threads=self._threads)


def parts_of(batch: Batch, requests: Sequence[Rows]) -> list[Part]:
    """Which rows of a batch are whose."""
    parts, start = [], 0
    for request in requests:
        parts.append((batch, start, start + request.rows))
        start += request.rows
    return parts


def values_of(parts: Sequence[Part], output: Output, *, is_own: bool) -> Values:
    """An output's elements for the rows of a request.

    Parameters
    ----------
    parts : sequence of Part
        All of the request's.
    output : Output
        Which output.
    is_own : bool
        Whether the model that answered was asked for by its own address: a coarse one is nobody's fallback then.
    """
    if len(parts) == 1:
        batch, start, stop = parts[0]
        values = batch.values(output, start, stop)
    else:
        values = [value for batch, start, stop in parts for value in batch.values(output, start, stop)]
    if is_own and output.name == "outcome":
        return [_SCORED if value == _FALLBACK else value for value in values]
    return values


def tensors_of(parts: Sequence[Part], wanted: Sequence[Output], single: SingleModel | None) -> tuple[Tensor, ...]:
    """The outputs of a request, from all of its parts.

    Raises
    ------
    NotFound
        A single model was asked for by its own address, and another answered in its place.
    """
    if single is not None:
        batch, start, stop = parts[0]
        single.require_own(batch.levels[start:stop])
    is_own = single is not None
    return tuple([output.tensor(values_of(parts, output, is_own=is_own)) for output in wanted])
