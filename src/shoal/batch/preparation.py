"""Input that cannot be read by ranges of rows is brought into Parquet once: CSV, JSON lines, preprocessed rows.

The file lies in the run's own folder; a run that was killed while preparing begins again, for nobody has seen
anything of it yet. Text that is a key stays text, so ``007`` is not 7, and a key that is an integer is read from its
own text, whatever its neighbours are. How text files are read is told in :mod:`shoal.batch.text`.

All of it goes piece by piece, of a size that fits the job's bound of memory. A ``preprocess`` whose rows need each
other cannot be cut: it runs in a program of its own that is ended at the bound, see :mod:`shoal.batch.apart`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from shoal.batch.apart import Preprocessing, number_rows, preprocess_apart
from shoal.batch.memory import PieceBudget, plan_pieces, release
from shoal.batch.origin import Origin, Origins
from shoal.batch.pieces import ParquetPieces, ahead
from shoal.batch.source import filtered
from shoal.batch.spec import ScoreSpec
from shoal.batch.text import copy_text
from shoal.errors import InvalidInput
from shoal.storage.files import storage_errors, sync_file
from shoal.storage.query import apply_preprocess, looks_at_single_rows
from shoal.storage.tables import table_format
from shoal.types import InputFile

#: Row groups that Polars' streaming engine holds at once, and their copies.
STREAMED_GROUPS = 24


def needed(spec: ScoreSpec, files: Sequence[InputFile]) -> bool:
    """Whether the input has to be prepared."""
    return spec.preprocess is not None or any(table_format(Path(f.path), spec.format) != "parquet" for f in files)


def prepare(spec: ScoreSpec, files: Sequence[InputFile], declared: Mapping[str, str], target: Path) -> int:
    """Write the rows of all files into one Parquet file, with their row ids.

    Parameters
    ----------
    spec : ScoreSpec
        The job.
    files : sequence of InputFile
        The pinned input.
    declared : mapping of str to str
        What the fleet says of the input's columns, by their names before renaming; see
        :class:`shoal.batch.columns.TypeSearch`.
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
    InvalidSpec
        ``memory`` is too small for it.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    budget = plan_pieces(spec.memory_bytes)
    copies = target.parent
    each = [
        origin
        for number, file in enumerate(files)
        for origin in _opened(file, spec, declared, copies / f"text-{number}.parquet", budget)
    ]
    origins = Origins(each=each, declared=declared)
    with storage_errors(target):
        try:
            _write(spec, origins, target, budget)
        except (PolarsError, pa.ArrowException) as error:
            names = ", ".join(file.path for file in files)
            raise InvalidInput(f"{names}: cannot be read as the job says: {error}") from error
        sync_file(target)
        for copy in copies.glob("text-*.parquet"):
            copy.unlink()
    release()
    return sum(origin.rows for origin in each)


def _opened(
    file: InputFile, spec: ScoreSpec, declared: Mapping[str, str], copy: Path, budget: PieceBudget
) -> Sequence[Origin]:
    path = Path(file.path)
    form = table_format(path, spec.format)
    if form != "parquet":
        return copy_text(path, form, declared, copy, budget) if path.stat().st_size else ()
    return (Origin(path=file.path, name=file.path, rows=pq.read_metadata(path).num_rows),)


def _write(spec: ScoreSpec, origins: Origins, target: Path, budget: PieceBudget) -> None:
    if spec.preprocess is None:
        _write_pieces(origins.pieces(budget.piece_bytes), target, budget)
    elif looks_at_single_rows(spec.preprocess, filtered(spec, origins.frame())):
        _write_pieces(_numbered(_preprocessed(spec, spec.preprocess, origins, budget)), target, budget)
    else:
        each = [
            _streamable(one, target.with_name(f"text-groups-{number}.parquet"), budget)
            for number, one in enumerate(origins.each)
        ]
        work = Preprocessing(spec=spec, origins=Origins(each=each, declared=origins.declared), target=str(target))
        preprocess_apart(work, budget)


def _preprocessed(spec: ScoreSpec, sql: str, origins: Origins, budget: PieceBudget) -> Iterator[pl.LazyFrame]:
    return (apply_preprocess(sql, filtered(spec, piece.lazy())) for piece in origins.pieces(budget.piece_bytes))


def _streamable(origin: Origin, copy: Path, budget: PieceBudget) -> Origin:
    """The same rows in row groups of which the streaming engine can hold some."""
    metadata = pq.read_metadata(origin.path)
    largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
    if largest * STREAMED_GROUPS <= budget.room_bytes():
        return origin
    _write_pieces(origin.raw_pieces(budget.piece_bytes), copy, budget)
    return replace(origin, path=str(copy))


def _numbered(pieces: Iterable[pl.LazyFrame]) -> Iterator[pl.DataFrame]:
    rows = 0
    for piece in pieces:
        frame = number_rows(piece, rows).collect()
        rows += frame.height
        yield frame


def _write_pieces(pieces: Iterator[pl.DataFrame], target: Path, budget: PieceBudget) -> None:
    with ParquetPieces(target) as written:
        for piece in ahead(pieces):
            written.write(piece)
            budget.require_room()
