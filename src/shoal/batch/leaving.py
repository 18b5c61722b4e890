"""Rows that a run could not read or write, and left to the next run of its job: the policy ``leave``.

What is left, taken on and dropped is defined in ``docs/decisions/0012-rows-that-are-left-are-taken-on-once.md``.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import polars as pl

from shoal.batch.source import FILE, ROW, read_rows, require_unchanged, slices_of
from shoal.batch.spec import KIND, ScoreSpec
from shoal.errors import InputChanged
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, RunRecord, ShardRecord
from shoal.types import InputFile, Json

LEFT_BY, LEFT_SINCE, DROPPED = "left_by", "left_since", "dropped"
"""What the source of a shard says that was taken on: run and shard that left it, since when, why it was not read."""

WINDOW, READ_AGAIN = "window", "read_again"
"""Likewise: the range of dates it was left from, and which of its files the run that took it on reads itself."""

_TUNING = ("memory", "shard_rows", "threads", "max_errors", "expires")
_OF_THE_DAY = ("from", "until")
_NEVER_ENDED_WELL = (RunState.CANCELLED, RunState.EXPIRED)
_ALL = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenOn:
    """What a new run owes to earlier ones.

    Attributes
    ----------
    sources : list of mapping
        A shard's source each.
    files : list of InputFile
        The files they are from, to be pinned beside the run's own; ``rows`` counts those taken on.
    """

    sources: list[dict[str, Json]]
    files: list[InputFile]


def take_on(ledger: Ledger, spec: ScoreSpec, own: Sequence[InputFile]) -> TakenOn:
    """Find what earlier runs of a job have left and nobody has taken on.

    Parameters
    ----------
    ledger : Ledger
        Knows the earlier runs.
    spec : ScoreSpec
        The job.
    own : sequence of InputFile
        What the new run reads anyway.
    """
    if spec.failure_policy != "leave":
        return TakenOn(sources=[], files=[])
    runs = [run for run in ledger.runs(kind=KIND, limit=_ALL) if _same_job(run, spec)]
    shards = [shard for run in runs for shard in ledger.shards(run.id)]
    by_id = {run.id: run for run in runs}
    sources: list[dict[str, Json]] = []
    files: dict[str, InputFile] = {}
    for shard in sorted(waiting_shards(shards), key=lambda shard: (shard.run_id, shard.number)):
        run = by_id[shard.run_id]
        if run.state is RunState.SUCCEEDED:
            source, read = _taken(run, shard, _files_of(shard, ledger.inputs(run.id)), spec, own)
            sources.append(source)
            for file in read:
                known = files.get(file.path)
                rows = None if known is None or known.rows is None or file.rows is None else known.rows + file.rows
                files[file.path] = file if known is None else dataclasses.replace(file, rows=rows)
    return TakenOn(sources=sources, files=list(files.values()))


def waiting_shards(shards: Sequence[ShardRecord]) -> list[ShardRecord]:
    """Shards whose rows were left and that none of the others has taken on."""
    taken = {tuple(cast("list[Json]", shard.source[LEFT_BY])) for shard in shards if LEFT_BY in shard.source}
    return [s for s in shards if s.part and s.part.get("left") and (s.run_id, s.number) not in taken]


def _same_job(run: RunRecord, spec: ScoreSpec) -> bool:
    document = spec.document()
    same = all(run.spec.get(name) == value for name, value in document.items() if name not in (*_TUNING, *_OF_THE_DAY))
    return same and run.state not in _NEVER_ENDED_WELL


def _files_of(shard: ShardRecord, inputs: Sequence[InputFile]) -> list[InputFile]:
    """The input that a shard is from; of prepared rows it is not known which file each is from."""
    if shard.source.get("prepared"):
        return [dataclasses.replace(file, rows=None) for file in inputs]
    rows: dict[str, int] = {}
    for piece in slices_of(shard.source):
        rows[piece.path] = rows.get(piece.path, 0) + piece.rows
    return [dataclasses.replace(file, rows=rows[file.path]) for file in inputs if file.path in rows]


def _taken(
    run: RunRecord, shard: ShardRecord, files: Sequence[InputFile], spec: ScoreSpec, own: Sequence[InputFile]
) -> tuple[dict[str, Json], list[InputFile]]:
    """The source of the shard that takes another on, and the files that it is to read besides the run's own."""
    since = str(shard.source.get(LEFT_SINCE) or (run.ended_at or run.created_at).isoformat())
    window = shard.source.get(WINDOW) or [run.spec.get(name) for name in _OF_THE_DAY]
    source: dict[str, Json] = {
        **shard.source, LEFT_BY: [shard.run_id, shard.number], LEFT_SINCE: since, WINDOW: window,
    }  # fmt: skip
    reads = {(file.path, file.sha256) for file in own}
    again = sorted(file.path for file in files if (file.path, file.sha256) in reads)
    others = [file for file in files if file.path not in again]
    dropped = _why_dropped(others, dt.datetime.fromisoformat(since), spec)
    if not others and window == [spec.from_, spec.until]:
        dropped = "the run reads these rows itself"
    if dropped:
        return {**source, "slices": [], "source_rows": 0, DROPPED: dropped}, []
    return {**source, READ_AGAIN: again}, others


def _why_dropped(files: Sequence[InputFile], since: dt.datetime, spec: ScoreSpec) -> str | None:
    if spec.expires_after is not None and dt.datetime.now(dt.UTC) > since + spec.expires_after:
        return f"left since {since:%Y-%m-%d %H:%M} UTC, longer than {spec.expires}"
    lost = [Path(file.path).name for file in files if not _is_unchanged(file)]
    return f"no longer what was left: {', '.join(lost)}" if lost else None


def _is_unchanged(file: InputFile) -> bool:
    try:
        require_unchanged([file])
    except InputChanged:
        return False
    return True


def read_shard(spec: ScoreSpec, source: Mapping[str, Json], columns: Sequence[str]) -> pl.DataFrame:
    """Read the rows of a shard; of one that was taken on those of its own range of dates that the run lacks.

    Raises
    ------
    InvalidInput, StorageError
        As :func:`~shoal.batch.source.read_rows`.
    """
    slices, prepared = slices_of(source), bool(source.get("prepared"))
    if WINDOW not in source:
        return read_rows(spec, slices, columns, prepared=prepared)
    start, until = cast("tuple[str | None, str | None]", source[WINDOW])
    rows = read_rows(msgspec.structs.replace(spec, from_=start, until=until), slices, columns, prepared=prepared)
    again = cast("list[str]", source[READ_AGAIN])
    if not again or spec.preprocess is not None:
        return rows
    own = read_rows(spec, slices, (), prepared=prepared).filter(pl.col(FILE).is_in(again))
    return rows.join(own, on=(FILE, ROW), how="anti", maintain_order="left")
