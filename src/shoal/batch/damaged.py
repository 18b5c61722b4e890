"""Text files with lines that no table reader takes: read line by line, so that a bad line costs only itself.

Polars reads CSV and JSON lines many times faster, but one line it cannot parse ends the whole file. Only then is a file
read again here. Every value is brought in as text, the columns get their types afterwards from all of their values, and
a bad line becomes a row of nulls with the line itself in the column :data:`LINE`.
"""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import InvalidInput
from shoal.storage.files import storage_errors

LINE = "_line"
"""Column with the text of a line that could not be read; null everywhere else."""

CHUNK_ROWS = 50_000

Record: TypeAlias = dict[str, str | None]


def scan_damaged(path: Path, form: str, texts: Collection[str], copy: Path) -> pl.LazyFrame:
    """Read a text file that has bad lines.

    Parameters
    ----------
    path : Path
        The file.
    form : str
        ``csv`` or ``jsonl``.
    texts : collection of str
        Columns that are text whatever they look like.
    copy : Path
        Where a copy of the file in Parquet may be put.

    Returns
    -------
    polars.LazyFrame
        The file's rows in their order, with :data:`LINE`.

    Raises
    ------
    InvalidInput
        The file cannot be read line by line either; names the line.
    """
    with storage_errors(path):
        if form == "csv":
            columns = _csv_header(path)
            _write(_csv_records(path, columns), columns, copy)
        else:
            columns = _json_names(path)
            _write(_json_records(path), columns, copy)
    frame = pl.scan_parquet(copy, glob=False)
    return frame.with_columns(_typed(frame, [name for name in columns if name not in texts]))


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
    """Each column in the narrowest type that all of its values have."""
    tries = [(name, number, cast) for name in names for number, cast in enumerate(_casts(pl.col(name)))]
    if not tries:
        return []
    fits = [
        ((cast.is_not_null() | pl.col(name).is_null()).all() & pl.col(name).is_not_null().any()).alias(
            f"{number} {name}"
        )
        for name, number, cast in tries
    ]
    fitting = frame.select(fits).collect(engine="streaming").row(0, named=True)
    chosen: dict[str, pl.Expr] = {}
    for name, number, cast in tries:
        if fitting[f"{number} {name}"]:
            chosen.setdefault(name, cast.alias(name))
    return list(chosen.values())


def _casts(text: pl.Expr) -> list[pl.Expr]:
    words = {"true": True, "false": False}
    return [
        text.cast(pl.Int64, strict=False),
        text.cast(pl.Float64, strict=False),
        text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean),
        text.str.to_date("%Y-%m-%d", strict=False),
        text.str.replace(" ", "T").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False),
    ]
