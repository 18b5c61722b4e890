"""Input that cannot be read by ranges of rows is brought into Parquet once: CSV, JSON lines, preprocessed rows.

The file lies in the run's own folder; a run that was killed while preparing begins again, for nobody has seen
anything of it yet. Text that is a key stays text, so ``007`` is not 7. How text files
are read is told in :mod:`shoal.batch.text`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from shoal.batch.source import FILE, ROW, TEXT, filtered
from shoal.batch.spec import ScoreSpec
from shoal.batch.text import scan_text
from shoal.errors import InvalidInput
from shoal.storage.files import storage_errors, sync_file
from shoal.storage.query import apply_preprocess
from shoal.storage.tables import table_format
from shoal.types import InputFile

PREPROCESSED = "preprocessed"


def needed(spec: ScoreSpec, files: Sequence[InputFile]) -> bool:
    """Whether the input has to be prepared."""
    return spec.preprocess is not None or any(table_format(Path(f.path), spec.format) != "parquet" for f in files)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnTypes:
    """What the fleet says of the input's columns, by their names before renaming.

    Attributes
    ----------
    texts : frozenset of str
        Columns that are text whatever they look like.
    numbers : frozenset of str
        Columns that are numbers, though single values may not be.
    """

    texts: frozenset[str]
    numbers: frozenset[str]


def prepare(spec: ScoreSpec, files: Sequence[InputFile], types: ColumnTypes, target: Path) -> int:
    """Write the rows of all files into one Parquet file, with their row ids.

    Parameters
    ----------
    spec : ScoreSpec
        The job.
    files : sequence of InputFile
        The pinned input.
    types : ColumnTypes
        What the fleet says of the columns.
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
    copies = target.parent
    frames = [_opened(Path(file.path), spec, types.texts, copies / f"text-{i}.parquet") for i, file in enumerate(files)]
    rows = _write(spec, files, frames, types, target)
    for copy in copies.glob("text-*.parquet"):
        copy.unlink()
    return rows


def _write(
    spec: ScoreSpec, files: Sequence[InputFile], frames: Sequence[pl.LazyFrame], types: ColumnTypes, target: Path
) -> int:
    together = _beside_their_texts(pl.concat(frames, how="diagonal_relaxed"), types.numbers)
    if spec.preprocess is None:
        _sink(together, target, files)
        return int(pq.read_metadata(target).num_rows)
    rows = sum(_count(frame, file) for frame, file in zip(frames, files, strict=True))
    _sink(_with_row_ids(apply_preprocess(spec.preprocess, filtered(spec, together))), target, files)
    return rows


def _opened(path: Path, spec: ScoreSpec, texts: Collection[str], copy: Path) -> pl.LazyFrame:
    form = table_format(path, spec.format)
    if form == "parquet":
        return _numbered(path, pl.scan_parquet(path, glob=False))
    empty = path.stat().st_size == 0
    return _numbered(path, pl.LazyFrame() if empty else scan_text(path, form, texts, copy))


def _numbered(path: Path, frame: pl.LazyFrame) -> pl.LazyFrame:
    indexed = frame.drop(FILE, ROW, strict=False).with_row_index(ROW)
    named = indexed.with_columns(pl.lit(str(path)).alias(FILE), pl.col(ROW).cast(pl.Int64))
    return named.select(FILE, ROW, pl.exclude(FILE, ROW))


def _beside_their_texts(frame: pl.LazyFrame, numbers: Collection[str]) -> pl.LazyFrame:
    """A number column in which some value is no number: numbers for ``where``, its texts for scoring to refuse."""
    schema = frame.collect_schema()
    odd = [name for name in schema if name in numbers and schema[name] == pl.String]
    texts = [pl.col(name).alias(TEXT + name) for name in odd]
    return frame.with_columns(texts).with_columns(pl.col(odd).cast(pl.Float64, strict=False)) if odd else frame


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
            frame.sink_parquet(target, row_group_size=50_000, maintain_order=True)
        except PolarsError as error:
            names = ", ".join(file.path for file in files)
            raise InvalidInput(f"{names}: cannot be read as the job says: {error}") from error
        sync_file(target)
