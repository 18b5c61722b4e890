"""Requests that were answered, made with real fleets and no server."""

import time

import polars as pl

from shoal.serving.inputs import InputSchema
from shoal.serving.logged import LoggedRequest, LogSchema
from shoal.serving.outputs import OutputSchema
from shoal.serving.scoring import Scoring
from tests.unit.serving.fleets import request_of


class Asked:
    """A fleet that answers, and what is to be logged of it."""

    def __init__(self, fleet, *, version=1, **given):
        self.fleet = fleet
        self.inputs = InputSchema(fleet.keys, fleet.features)
        self.outputs = OutputSchema(fleet.table, version)
        self.schema = LogSchema(fleet.name, version, self.inputs, self.outputs, **given)
        self._scoring = Scoring(fleet.table, self.inputs)

    def logged(self, frames, *, at_s=None, first=0):
        """One request per frame, all answered by one call."""
        requests = [request_of(frame, self.fleet.name) for frame in frames]
        rows = [self.inputs.rows(request.inputs) for request in requests]
        return [
            LoggedRequest(
                schema=self.schema,
                request_id=f"r{first + number}",
                principal="ada",
                model=self.fleet.name,
                rows=rows[number],
                parts=[part],
                at_s=time.time() if at_s is None else at_s,
                latency_ms=0.5 + number,
            )
            for number, part in enumerate(self._scoring(rows))
        ]


def pieces(frame: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    return [frame[start : start + size] for start in range(0, frame.height, size)]
