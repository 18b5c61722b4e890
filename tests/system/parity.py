"""The same rows through a server's data plane and through a job, with one serving spec."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from shoal import Workspace
from shoal.batch.summary import ScoreSummary
from shoal.errors import InvalidInput
from shoal.serving.messages import InferenceResponse
from shoal.serving.options import ServingOptions
from tests.unit.serving.fleets import CONTEXT, request_of

SHARD_ROWS = 50
Answers = dict[str, list[object]]


def bits(values: Sequence[object]) -> list[object]:
    """Values that are equal if they are so to the bit; minus zero is not zero."""
    return [np.float64(v).tobytes() if isinstance(v, float) else v for v in values]


def served(
    workspace: Workspace, fleet: str, frame: pl.DataFrame, leave_out: Sequence[str] = (), *, one_by_one: bool = False
) -> Answers:
    """All outputs of the fleet for the rows: in one request, or in one each, where a refused row has its refusal."""

    async def work() -> Answers:
        plane = workspace.data_plane([fleet], options=ServingOptions(poll_s=0.05))
        await plane.start()
        outputs = tuple(one.name for one in plane.model_metadata(fleet).outputs)
        chunks = [frame] if not one_by_one else [frame[i] for i in range(frame.height)]
        asked = [plane.infer(request_of(c, fleet, outputs=outputs, leave_out=leave_out), CONTEXT) for c in chunks]
        try:
            responses = await asyncio.gather(*asked, return_exceptions=one_by_one)
        finally:
            await plane.drain(1)
        return _answers(outputs, responses)

    return asyncio.run(work())


def _answers(names: Sequence[str], responses: Sequence[InferenceResponse | BaseException]) -> Answers:
    answers: Answers = {name: [] for name in names}
    for response in responses:
        if isinstance(response, InferenceResponse):
            for output in response.outputs:
                answers[output.name] += list(output.data)
            continue
        assert isinstance(response, InvalidInput), response
        for name in names:
            answers[name].append("invalid" if name == "outcome" else None)
        answers["reason"][-1] = str(response).removeprefix("row 1: ")
    return answers


def scored(
    workspace: Workspace, fleet: str, frame: pl.DataFrame, folder: Path, **job: object
) -> tuple[Answers, ScoreSummary]:
    """All outputs of a job over the rows, which lie in several files and shards."""
    source, output = folder / "in", folder / "out"
    source.mkdir(parents=True)
    cut = frame.height * 2 // 3
    for number, part in enumerate((frame[:cut], frame[cut:])):
        part.write_parquet(source / f"{number}.parquet")
    told = {"fleet": fleet, "input": str(source), "output": str(output), "shard_rows": SHARD_ROWS, **job}
    summary = workspace.score(told)  # type: ignore[arg-type]
    found = pl.concat(pl.read_parquet(path) for path in sorted(output.glob("part-*.parquet")))
    assert summary.ledger.balanced
    counted = dict(found["outcome"].cast(pl.String).value_counts().iter_rows())
    counts = summary.ledger.totals.counts
    assert {name: getattr(counts, name) for name in counted} == counted
    assert counts.rows == found.height == frame.height
    listed = summary.errors.read_text().count("\n") if summary.errors else 0
    assert listed == counts.invalid + counts.failed
    return answers_of(found), summary


def answers_of(found: pl.DataFrame) -> Answers:
    """An output's columns as a response has them."""
    answers: Answers = {}
    for column in found:
        values = column.cast(pl.String).to_list() if column.dtype == pl.Enum else column.to_list()
        if isinstance(column.dtype, pl.Array):
            width = column.dtype.size
            values = [v for row in values for v in (row if row is not None else [None] * width)]
        answers[column.name] = values
    return answers


def require_same(job: Answers, server: Answers, fields: Mapping[str, object] | None = None) -> None:
    """Every output of the server is a column of the job, to the bit and in the same order."""
    assert [name for name in job if name in server] == list(server)
    for name, values in server.items():
        assert len(values) == len(job[name]), name
        differing = [i for i, (a, b) in enumerate(zip(bits(job[name]), bits(values), strict=True)) if a != b]
        assert not differing, (name, fields, [(i, job[name][i], values[i]) for i in differing[:3]])
