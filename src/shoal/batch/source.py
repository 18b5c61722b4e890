"""Where a run's rows come from: pinned files, cut into slices that are read again and again alike."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from shoal.batch.spec import ScoreSpec, parse_time
from shoal.errors import InputChanged, InvalidInput, StorageError
from shoal.storage.query import predicate
from shoal.storage.tables import find_tables, pin_table, table_format
from shoal.table.texts import INEXACT
from shoal.types import InputFile, Json

FILE, ROW = "_file", "_row"
TEXT = "_text:"
"""Prefix of the column with the original texts of a number column in which some value is no number."""
LINE = "_line"
"""Column with the text of a line that could not be read; null everywhere else."""
_INDEX = "_index_of_row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Neighbouring rows of one Parquet file.

    Attributes
    ----------
    path : str
        The file.
    offset, rows : int
        The first row, and how many.
    """

    path: str
    offset: int
    rows: int

    def document(self) -> list[Json]:
        """As the ledger keeps it."""
        return [self.path, self.offset, self.rows]


def slices_of(source: Mapping[str, Json]) -> list[Slice]:
    """The slices that a shard's source in the ledger stands for."""
    listed = cast("list[tuple[str, int, int]]", source["slices"])
    return [Slice(path=path, offset=offset, rows=rows) for path, offset, rows in listed]


def pin(spec: ScoreSpec) -> list[InputFile]:
    """Find the input's files and pin them by size and digest; several are read side by side.

    Raises
    ------
    InvalidInput
        A path means no file, or a Parquet file cannot be read.
    """
    with ThreadPoolExecutor(thread_name_prefix="shoal-digest") as pool:
        return list(pool.map(lambda path: pin_table(path, _rows(path, spec.format)), find_tables(spec.input)))


def _rows(path: Path, given: str) -> int | None:
    if table_format(path, given) != "parquet":
        return None
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: no readable Parquet file ({error}); mend it or leave it out") from error


def require_unchanged(pinned: Sequence[InputFile]) -> None:
    """Refuse to go on with input that is not what the run began with.

    Raises
    ------
    InputChanged
        A file is gone, or its size or content differs.
    """

    def check(file: InputFile) -> None:
        path = Path(file.path)
        if not path.is_file():
            raise InputChanged(f"{path}: the file is gone; put it back to resume, or start a new run")
        if path.stat().st_size != file.size_bytes or pin_table(path).sha256 != file.sha256:
            raise InputChanged(f"{path}: its content is not what the run pinned; restore it, or start a new run")

    with ThreadPoolExecutor(thread_name_prefix="shoal-digest") as pool:
        list(pool.map(check, pinned))


def cut(files: Sequence[tuple[str, int]], shard_rows: int) -> list[list[Slice]]:
    """Cut files into shards of about ``shard_rows`` rows, along row groups where those are small enough.

    Parameters
    ----------
    files : sequence of (path, rows)
        Parquet files; small ones share a shard.
    shard_rows : int
        Rows of a shard.
    """
    shards: list[list[Slice]] = []
    room = 0
    for path, rows in files:
        offset = 0
        for step in _steps(path, rows, shard_rows):
            if room < step:
                shards.append([])
                room = shard_rows
            last = shards[-1][-1] if shards[-1] else None
            if last is not None and last.path == path:
                shards[-1][-1] = Slice(path=path, offset=last.offset, rows=last.rows + step)
            else:
                shards[-1].append(Slice(path=path, offset=offset, rows=step))
            offset += step
            room -= step
    return shards


def _steps(path: str, rows: int, shard_rows: int) -> list[int]:
    """Sizes of the pieces that a file must not be cut finer than."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    pieces = [min(shard_rows, group - start) for group in groups for start in range(0, group, shard_rows)]
    return [piece for piece in pieces if piece]


def read_rows(
    spec: ScoreSpec, slices: Sequence[Slice], columns: Sequence[str] | None, *, prepared: bool
) -> pl.DataFrame:
    """Read a shard's rows, with their row ids, filtered and renamed.

    Parameters
    ----------
    spec : ScoreSpec
        The job.
    slices : sequence of Slice
        Which rows.
    columns : sequence of str or None
        Columns needed after renaming; all unless told.
    prepared : bool
        The slices are of a prepared file, which brings its row ids; see :mod:`shoal.batch.preparation`.

    Raises
    ------
    InvalidInput
        A column is missing, or the job does not fit the values.
    StorageError
        The file cannot be read.
    """
    preprocessed = prepared and spec.preprocess is not None
    try:
        frames = [select(spec, _scan(piece, prepared=prepared), preprocessed=preprocessed) for piece in slices]
        parts = [_chosen(frame, columns).collect() for frame in frames]
    except (PolarsError, OSError) as error:
        require_readable(slices)
        names = sorted({_named(spec, piece.path, prepared=prepared) for piece in slices})
        raise InvalidInput(f"{', '.join(names)}: cannot be read as the job says: {first_line(error)}") from error
    return parts[0] if len(parts) == 1 else pl.concat(_without_rounding(parts), how="diagonal_relaxed")


def _without_rounding(parts: Sequence[pl.DataFrame]) -> Sequence[pl.DataFrame]:
    """Rows of several files, as texts where one has doubles and another integers that no double holds."""
    floats = {name for part in parts for name, dtype in part.schema.items() if dtype.is_float()}
    large = {
        name
        for part in parts
        for name, dtype in part.schema.items()
        if name in floats and dtype.is_integer() and not part[name].is_between(-INEXACT, INEXACT).all()
    }
    return [part.with_columns(pl.col(name).cast(pl.String) for name in large if name in part) for part in parts]


def require_readable(slices: Sequence[Slice]) -> None:
    """Tell a file that cannot be read, now or ever, from a job that does not fit it.

    Raises
    ------
    StorageError
        Names the file.
    """
    for piece in slices:
        try:
            pl.scan_parquet(piece.path, glob=False).slice(piece.offset, piece.rows).collect()
        except (PolarsError, OSError) as error:
            raise StorageError(f"{piece.path}: cannot be read: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What is wrong; Polars adds its whole plan."""
    return str(error).partition("\n")[0]


def columns_of(spec: ScoreSpec, paths: Iterable[str], *, prepared: bool) -> list[frozenset[str]]:
    """The columns of each file, as the job calls them; raises as :func:`common_types` does."""
    return [frozenset(_schema(spec, path, prepared=prepared)) for path in dict.fromkeys(paths)]


def _schema(spec: ScoreSpec, path: str, *, prepared: bool) -> pl.Schema:
    try:
        none = _scan(Slice(path=path, offset=0, rows=0), prepared=prepared)
        return select(spec, none, preprocessed=prepared and spec.preprocess is not None).collect_schema()
    except (PolarsError, OSError) as error:
        named = _named(spec, path, prepared=prepared)
        raise InvalidInput(f"{named}: cannot be read as the job says: {first_line(error)}") from error


def common_types(
    spec: ScoreSpec, paths: Iterable[str], columns: Sequence[str], *, prepared: bool
) -> dict[str, pl.DataType]:
    """The type of each column that can hold the values of all files.

    Raises
    ------
    InvalidInput
        A file lacks a column, or two files have values in it that do not go together; names the file.
    """
    empty: list[pl.LazyFrame] = []
    unknown = set(spec.rename)
    for path in dict.fromkeys(paths):
        schema = _schema(spec, path, prepared=prepared)
        unknown -= set(_scan(Slice(path=path, offset=0, rows=0), prepared=prepared).collect_schema())
        missing = [name for name in columns if name not in schema]
        if missing:
            shown = [name for name in schema if name not in (FILE, ROW, LINE)]
            raise InvalidInput(
                f"{_named(spec, path, prepared=prepared)}: lacks the column(s) {missing}; it has {shown}"
            )
        empty.append(pl.LazyFrame(schema={name: schema[name] for name in columns}))
    if unknown:
        raise InvalidInput(f"field 'rename': no input file has the column(s) {sorted(unknown)}")
    try:
        return dict(pl.concat(empty, how="diagonal_relaxed").collect_schema()) if empty else {}
    except PolarsError as error:
        raise InvalidInput(f"the input's files do not go together: {first_line(error)}") from error


def _named(spec: ScoreSpec, path: str, *, prepared: bool) -> str:
    """What the user calls the file: a prepared one has the rows of the whole input."""
    return ", ".join(spec.input) if prepared else path


def _scan(piece: Slice, *, prepared: bool) -> pl.LazyFrame:
    if prepared:
        return pl.scan_parquet(piece.path, glob=False).slice(piece.offset, piece.rows)
    frame = pl.scan_parquet(piece.path, glob=False, row_index_name=_INDEX).slice(piece.offset, piece.rows)
    ids = pl.lit(piece.path).alias(FILE), pl.col(_INDEX).cast(pl.Int64).alias(ROW)
    return frame.drop(FILE, ROW, strict=False).with_columns(ids).drop(_INDEX)


def _chosen(frame: pl.LazyFrame, columns: Sequence[str] | None) -> pl.LazyFrame:
    """The columns asked for, and the lines that could not be read where there are such."""
    if columns is None:
        return frame
    return frame.select(FILE, ROW, *columns, *(name for name in (LINE,) if name in frame.collect_schema()))


def select(spec: ScoreSpec, frame: pl.LazyFrame, *, preprocessed: bool) -> pl.LazyFrame:
    """Apply what a job says of every row on its own: ``where``, the range of dates, renames.

    Rows that a ``preprocess`` made went through ``where`` before it.
    """
    if not preprocessed:
        frame = filtered(spec, frame)
    originals = [name for name in frame.collect_schema() if name.startswith(TEXT)]
    if originals:
        frame = frame.with_columns(pl.col(name).alias(name.removeprefix(TEXT)) for name in originals).drop(originals)
    return frame.rename(dict(spec.rename), strict=False) if spec.rename else frame


def filtered(spec: ScoreSpec, frame: pl.LazyFrame) -> pl.LazyFrame:
    """Keep the rows that the job's ``where`` and range of dates are true for."""
    if spec.where is not None:
        frame = frame.filter(predicate(spec.where))
    if spec.date is not None:
        when = pl.col(spec.date)
        if spec.from_:
            frame = frame.filter(when >= _moment(spec.from_, frame, spec.date))
        if spec.until:
            frame = frame.filter(when < _moment(spec.until, frame, spec.date))
    return frame


def _moment(text: str, frame: pl.LazyFrame, column: str) -> pl.Expr:
    """A date or time in the type of the column that it is compared with."""
    schema = frame.collect_schema()
    if column not in schema:
        raise InvalidInput(f"field 'date': the input has no column {column!r}; it has {', '.join(schema)}")
    dtype = schema[column]
    if dtype == pl.String:
        return pl.lit(text)
    moment = parse_time(text, column)
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    if zone is not None:  # without a zone of its own it is the time on the column's clock
        aware = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))
        return pl.lit(aware.astimezone(dt.UTC)).cast(dtype)
    if moment.tzinfo or dtype not in (pl.Date, pl.Datetime):
        what = "has no time zone: leave it out" if moment.tzinfo else f"is {dtype}, neither a date nor a time"
        raise InvalidInput(f"field 'date': column {column!r} {what} ({text!r})")
    if dtype == pl.Date:  # a day belongs to what follows a time when it begins after it
        return pl.lit(moment.date() + dt.timedelta(days=moment.time() > dt.time()))
    return pl.lit(moment).cast(dtype)
