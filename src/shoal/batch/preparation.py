"""Input that cannot be read by ranges of rows is brought into Parquet once: CSV, JSON lines, preprocessed rows.

The file lies in the run's own folder; a run that was killed while preparing begins again, for nobody has seen
anything of it yet. Text that is a key stays text, so ``007`` is not 7.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from shoal.batch.source import FILE, ROW, filtered
from shoal.batch.spec import ScoreSpec
from shoal.errors import InvalidInput
from shoal.storage.files import storage_errors, sync_file
from shoal.storage.query import apply_preprocess
from shoal.storage.tables import scan_table, table_format
from shoal.types import InputFile

PREPROCESSED = "preprocessed"


def needed(spec: ScoreSpec, files: Sequence[InputFile]) -> bool:
    """Whether the input has to be prepared."""
    return spec.preprocess is not None or any(table_format(Path(f.path), spec.format) != "parquet" for f in files)


def prepare(spec: ScoreSpec, files: Sequence[InputFile], texts: Collection[str], target: Path) -> int:
    """Write the rows of all files into one Parquet file, with their row ids.

    Parameters
    ----------
    spec : ScoreSpec
        The job.
    files : sequence of InputFile
        The pinned input.
    texts : collection of str
        Columns (before renaming) that are text whatever they look like.
    target : Path
        The file to write.

    Returns
    -------
    int
        Rows in the input files.

    Raises
    ------
    InvalidInput
        A file cannot be read; names it, and where the reader tells, the line.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    frames = [_scan(Path(file.path), spec, texts) for file in files]
    if spec.preprocess is None:
        _sink(pl.concat(frames, how="diagonal_relaxed"), target, files)
        return int(pq.read_metadata(target).num_rows)
    rows = sum(_count(frame, file) for frame, file in zip(frames, files, strict=True))
    made = apply_preprocess(spec.preprocess, filtered(spec, pl.concat(frames, how="diagonal_relaxed")))
    _sink(_with_row_ids(made), target, files)
    return rows


def _scan(path: Path, spec: ScoreSpec, texts: Collection[str]) -> pl.LazyFrame:
    try:
        frame = scan_table(path, spec.format)
        present = set(frame.collect_schema())
        if table_format(path, spec.format) == "csv" and present & set(texts):
            overrides = {name: pl.String() for name in texts if name in present}
            frame = pl.scan_csv(
                path, glob=False, infer_schema_length=None, try_parse_dates=True, schema_overrides=overrides
            )
    except (PolarsError, OSError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from error
    indexed = frame.with_row_index(ROW).with_columns(pl.lit(str(path)).alias(FILE), pl.col(ROW).cast(pl.Int64))
    return indexed.select(FILE, ROW, pl.exclude(FILE, ROW))


def _with_row_ids(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Rows that a preprocess made anew are numbered as they came out of it."""
    schema = frame.collect_schema()
    if FILE in schema and ROW in schema:
        return frame
    frame = frame.drop([name for name in (FILE, ROW) if name in schema])
    numbered = frame.with_row_index(ROW).with_columns(pl.lit(PREPROCESSED).alias(FILE), pl.col(ROW).cast(pl.Int64))
    return numbered.select(FILE, ROW, pl.exclude(FILE, ROW))


def _count(frame: pl.LazyFrame, file: InputFile) -> int:
    if file.rows is not None:
        return file.rows
    try:
        return int(frame.select(pl.len()).collect(engine="streaming").item())
    except (PolarsError, OSError) as error:
        raise InvalidInput(f"{file.path}: cannot be read: {error}") from error


def _sink(frame: pl.LazyFrame, target: Path, files: Sequence[InputFile]) -> None:
    with storage_errors(target):
        try:
            frame.sink_parquet(target, row_group_size=100_000, maintain_order=True)
        except PolarsError as error:
            names = ", ".join(file.path for file in files)
            raise InvalidInput(f"{names}: cannot be read as the job says: {error}") from error
        sync_file(target)
