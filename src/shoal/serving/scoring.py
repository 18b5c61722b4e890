"""One call for many requests: merge their rows, score them, and say which part of the answer is whose."""

from collections.abc import Sequence
from typing import TypeAlias

import polars as pl

from shoal.engines.threads import shared_threads
from shoal.scoring.outcomes import Scored
from shoal.scoring.score import score
from shoal.serving.outputs import Batch, ScoredBatch
from shoal.serving.tensors import InputSchema, Rows
from shoal.table.models import ModelTable

Part: TypeAlias = tuple[Batch, int, int]
"""Rows ``start`` to ``stop`` of what one call found."""


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
        return parts_of(ScoredBatch(self.score(self.inputs.frame(requests))), requests)

    def score(self, frame: pl.DataFrame) -> Scored:
        """Score the rows of a frame."""
        return score(self.table, frame, threads=self._threads)


def parts_of(batch: Batch, requests: Sequence[Rows]) -> list[Part]:
    """Which rows of a batch are whose."""
    parts, start = [], 0
    for request in requests:
        parts.append((batch, start, start + request.rows))
        start += request.rows
    return parts
