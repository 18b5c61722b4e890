"""What a worker leaves of a shard: the staged part of the output, its bad rows, and the outcomes per model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from polars.exceptions import ComputeError

from shoal.batch.definition import Answered
from shoal.batch.publishing import Destination
from shoal.batch.source import FILE, LINE, ROW
from shoal.batch.spec import ScoreSpec
from shoal.errors import StorageError
from shoal.fleet import Fleet
from shoal.scoring.outcomes import Scored
from shoal.scoring.tallying import tally
from shoal.storage.files import storage_errors, sync_file
from shoal.types import Outcome, Task

#: Of Zstandard. On scores and row numbers level 1 makes smaller files than Polars' default of 3, in less time.
COMPRESSION_LEVEL = 1


class StagedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A staged file: where it lies in the staging folder, what it will be called, its rows and sha256."""

    staged: str
    name: str
    rows: int
    sha256: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker left of a shard.

    Attributes
    ----------
    files : tuple of StagedFile
        Parts of the output; one, or one per partition.
    errors : str or None
        The file of bad rows in the run's folder.
    models : str or None
        The file of outcomes per model in the run's folder.
    left : bool
        The shard failed and its rows are left to the next run of the job.
    reason : str or None
        Why they were left.
    """

    files: tuple[StagedFile, ...] = ()
    errors: str | None = None
    models: str | None = None
    left: bool = False
    reason: str | None = None


def output_frame(spec: ScoreSpec, fleet: Fleet, rows: pl.DataFrame, answered: Answered) -> pl.DataFrame:
    """The rows of the output: row id, keys, predictions, what became of each, and the columns carried along."""
    scored = answered.scored
    columns = [rows[FILE], rows[ROW], *scored.resolved.keys.get_columns(), *answered.outputs]
    columns += [scored.outcome_column, *answered.added, answered.reasons, scored.level_column]
    columns.append(pl.repeat(fleet.version, rows.height, dtype=pl.Int32, eager=True).alias("snapshot"))
    taken = {column.name for column in columns}
    columns += [rows[name] for name in spec.carry if name not in taken]
    return pl.DataFrame(columns)


def write_part(
    spec: ScoreSpec,
    fleet: Fleet,
    frame: pl.DataFrame,
    destination: Destination,
    shard: int,
    attempt: int,
    fields: Sequence[str],
) -> tuple[StagedFile, ...]:
    """Write a shard's output under names that no other attempt uses, durably.

    Parameters
    ----------
    fields : sequence of str
        Columns that the template of partitions needs; those not asked to be carried are not written.
    """
    template = spec.template
    parts = [("", frame)] if template is None else template.split(frame)
    files = []
    for folder, rows in parts:
        written = rows.drop([name for name in fields if name in rows.columns])
        name = f"part-{shard:05d}.{spec.written_as}"
        staged = Path(folder) / f"part-{shard:05d}-{attempt}.{spec.written_as}"
        path = destination.staging / staged
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_table(written, path, spec, fleet, run=destination.run)
            except ComputeError as error:  # what the Parquet writer makes of a full disk
                raise StorageError(f"{path}: cannot be written: {error}") from error
            sync_file(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(StagedFile(staged=str(staged), name=str(Path(folder) / name), rows=rows.height, sha256=digest))
    return tuple(files)


def write_table(frame: pl.DataFrame, path: Path, spec: ScoreSpec, fleet: Fleet, *, run: str) -> None:
    """Write one file; CSV has no header where parts will be put together."""
    if spec.written_as == "parquet":
        frame.write_parquet(path, compression_level=COMPRESSION_LEVEL, metadata=metadata_of(fleet, run))
    elif spec.written_as == "csv":
        flat_probabilities(frame, fleet).write_csv(path, include_header=not spec.single_file)
    else:
        frame.write_ndjson(path)


def metadata_of(fleet: Fleet, run: str) -> dict[str, str]:
    """What a Parquet file of the output says of its origin."""
    return {"shoal.run": run, "shoal.snapshot": f"{fleet.name}:{fleet.version}"}


def flat_probabilities(frame: pl.DataFrame, fleet: Fleet) -> pl.DataFrame:
    """CSV has no lists: one column ``probability_LABEL`` per class."""
    if fleet.task is not Task.CLASSIFICATION:
        return frame
    at = frame.columns.index("probability")
    flat = [frame["probability"].arr.get(i).alias(f"probability_{label}") for i, label in enumerate(fleet.labels)]
    columns = frame.get_columns()
    return pl.DataFrame([*columns[:at], *flat, *columns[at + 1 :]])


def write_errors(fleet: Fleet, rows: pl.DataFrame, answered: Answered, path: Path) -> bool:
    """List the rows that are invalid or failed, with what was in them; whether there were any."""
    bad = np.flatnonzero(answered.scored.reasons)
    if not len(bad):
        return False
    shown = [c.name for c in fleet.keys] + [f.name for f in fleet.features]
    shown += [name for name in (LINE,) if name in rows.columns]
    listed = rows[bad].select(FILE, ROW, *(_readable(name, rows.schema[name]) for name in dict.fromkeys(shown)))
    columns = [answered.scored.outcome_column[bad].cast(pl.String), answered.reasons[bad]]
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        listed.with_columns(columns).write_ndjson(path)
        sync_file(path)
    return True


def _readable(name: str, dtype: pl.DataType) -> pl.Expr:
    """Numbers as texts, as JSON has neither NaN nor infinity: what is infinite differs from what is missing."""
    return pl.col(name).cast(pl.String) if dtype.is_float() else pl.col(name)


def write_model_outcomes(scored: Scored, path: Path) -> None:
    """Rows per model and outcome; ``model`` counts in ``fleet.models``, -1 where none answered."""
    models, outcomes, rows = tally(scored.models, scored.outcomes, len(scored.table))
    frame = pl.DataFrame({"model": models, "outcome": outcomes, "rows": rows})
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        sync_file(path)


def read_model_outcomes(fleet: Fleet, paths: Sequence[Path]) -> pl.DataFrame:
    """Add up what :func:`write_model_outcomes` wrote: key columns, ``level``, and rows per outcome."""
    schema = {"model": pl.Int64, "outcome": pl.UInt8, "rows": pl.Int64}
    parts = [pl.read_parquet(path).cast(schema) for path in paths]  # type: ignore[arg-type]
    per_outcome = [pl.col("rows").filter(pl.col("outcome") == o).sum().alias(o.word) for o in Outcome]
    counts = pl.concat([pl.DataFrame(schema=schema), *parts]).group_by("model").agg(per_outcome).sort("model")
    named = fleet.models.select(*(c.name for c in fleet.keys), "level").with_row_index("model")
    return named.with_columns(pl.col("model").cast(pl.Int64)).join(counts, on="model", how="right").drop("model")
