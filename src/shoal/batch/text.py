"""CSV and JSON lines become Parquet: by Polars where every line is good, else line by line.

Polars is many times faster, but one line it cannot parse ends the whole file. Only then is the file read again here, so
that a bad line costs only itself: it becomes a row of nulls with the line itself in the column :data:`LINE`.

CSV is brought in as text, and each column gets its type from all of its values afterwards. (Polars can do both at once,
with ``infer_schema_length=None``; that took 11 s for 1.5 million rows, at each look at the schema, instead of 1.5 s.)
"""

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from shoal.errors import InvalidInput
from shoal.storage.files import storage_errors

LINE = "_line"
"""Column with the text of a line that could not be read; null everywhere else."""

CHUNK_ROWS = 50_000

Record: TypeAlias = dict[str, str | None]


def scan_text(path: Path, form: str, texts: Collection[str], copy: Path) -> pl.LazyFrame:
    """Copy a text file into Parquet and open that.

    Parameters
    ----------
    path : Path
        The file.
    form : str
        ``csv`` or ``jsonl``.
    texts : collection of str
        Columns of a CSV file that are text whatever they look like.
    copy : Path
        Where the copy goes.

    Returns
    -------
    polars.LazyFrame
        The file's rows in their order; with :data:`LINE` where the file has bad lines.

    Raises
    ------
    InvalidInput
        The file cannot be read line by line either; names the line.
    """
    with storage_errors(path):
        try:
            _scan(path, form).sink_parquet(copy, row_group_size=CHUNK_ROWS, maintain_order=True)
        except PolarsError:
            copy = copy.with_name(f"{copy.stem}-lines.parquet")  # what failed may write a little longer to the other
            _copy_lines(path, form, copy)
    frame = pl.scan_parquet(copy, glob=False)
    schema = frame.collect_schema()
    untyped = [name for name in schema if name not in (*texts, LINE)] if form == "csv" or LINE in schema else []
    return frame.with_columns(_typed(frame, untyped))


def _scan(path: Path, form: str) -> pl.LazyFrame:
    if form == "csv":
        return pl.scan_csv(path, glob=False, infer_schema=False)
    return pl.scan_ndjson(path, infer_schema_length=None)


def _copy_lines(path: Path, form: str, copy: Path) -> None:
    if form == "csv":
        columns = _csv_header(path)
        _write(_csv_records(path, columns), columns, copy)
    else:
        _write(_json_records(path), _json_names(path), copy)


def _write(records: Iterable[Record], columns: Collection[str], copy: Path) -> None:
    schema = pa.schema([(name, pa.large_string()) for name in [*columns, LINE]])
    with pq.ParquetWriter(copy, schema) as writer:
        chunk: list[Record] = []
        for record in records:
            chunk.append(record)
            if len(chunk) == CHUNK_ROWS:
                writer.write_table(pa.Table.from_pylist(chunk, schema))
                chunk.clear()
        writer.write_table(pa.Table.from_pylist(chunk, schema))


def _csv_header(path: Path) -> list[str]:
    with _opened(path) as file:
        names = next(csv.reader(file), [])
    if len(set(names)) < len(names) or not names:
        raise InvalidInput(f"{path}, line 1: the header must name each column, and each once")
    return names


def _csv_records(path: Path, columns: list[str]) -> Iterator[Record]:
    lines: list[str] = []
    with _opened(path) as file:
        reader = csv.reader(_remembering(file, lines), strict=True)
        next(reader)
        while True:
            lines.clear()
            start = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error) or "field larger" in str(error):
                    message = f"{path}, line {start}: a quote that opens there is never closed; mend the line"
                    raise InvalidInput(message) from error
                fields = None
            if fields is None or len(fields) > len(columns):
                yield {LINE: "".join(lines).rstrip("\r\n")}
            else:
                yield {name: value or None for name, value in zip(columns, fields, strict=False)}


def _remembering(file: Iterable[str], lines: list[str]) -> Iterator[str]:
    for line in file:
        lines.append(line)
        yield line


def _json_names(path: Path) -> list[str]:
    names: dict[str, None] = {}
    for record in _json_objects(path):
        if isinstance(record, Mapping):
            names.update(dict.fromkeys(record))
    names.pop(LINE, None)
    return list(names)


def _json_records(path: Path) -> Iterator[Record]:
    for record in _json_objects(path):
        if isinstance(record, str):
            yield {LINE: record}
        else:
            yield {name: _json_text(value) for name, value in record.items() if name != LINE}


def _json_objects(path: Path) -> Iterator[Mapping[str, object] | str]:
    """Each line's object, or the line itself where it is none; empty lines are no rows."""
    decoder = msgspec.json.Decoder(dict[str, object])
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    yield line.decode("utf-8", "replace").rstrip("\r\n")


def _json_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _opened(path: Path) -> io.TextIOWrapper:
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _typed(frame: pl.LazyFrame, names: Collection[str]) -> list[pl.Expr]:
    """Each column in the first type that all of its values have; one pass over the file per type, to spare memory."""
    open_names = list(names)
    chosen: list[pl.Expr] = []
    for cast in _CASTS:
        fits = [_fits(pl.col(name), cast(pl.col(name))).alias(name) for name in open_names]
        if fits:
            fitting = frame.select(fits).collect(engine="streaming").row(0, named=True)
            chosen += [cast(pl.col(name)).alias(name) for name in open_names if fitting[name]]
            open_names = [name for name in open_names if not fitting[name]]
    return chosen


def _fits(text: pl.Expr, converted: pl.Expr) -> pl.Expr:
    return (converted.is_not_null() | text.is_null()).all() & text.is_not_null().any()


_CASTS: tuple[Callable[[pl.Expr], pl.Expr], ...] = (
    lambda text: text.cast(pl.Int64, strict=False),
    lambda text: text.cast(pl.Float64, strict=False),
    lambda text: text.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean),
    lambda text: text.str.to_date("%Y-%m-%d", strict=False),
    lambda text: text.str.replace(" ", "T").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False),
)
