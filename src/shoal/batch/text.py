"""CSV and JSON lines become Parquet: by Polars where every line is good, else line by line.

Polars is many times faster, but one line it cannot parse ends the whole file. Only then is the file read again here, so
that a bad line costs only itself: it becomes a row of nulls with the line itself in the column :data:`LINE`.

Either way a file is read in blocks that are small beside the job's bound of memory. Polars' own streaming took what it
liked: some 400 MiB for a CSV file of 270 MiB.

CSV is brought in as text, and each column gets its type from all of its values, unless the fleet says it: then each
value is what its own text says, and so it is with JSON. (Polars can do both at once, with
``infer_schema_length=None``; that took 11 s for 1.5 million rows, at each look at the schema, instead of 1.5 s.)
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import accumulate, groupby
from pathlib import Path
from typing import TypeAlias

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import NoDataError, PolarsError

from shoal.batch.blocks import EndlessRecord, csv_blocks, line_blocks
from shoal.batch.columns import NUMBER_KIND, TEXT_KIND, TypeSearch
from shoal.batch.memory import PieceBudget
from shoal.batch.origin import Origin
from shoal.batch.pieces import ParquetPieces, ahead
from shoal.batch.source import LINE
from shoal.errors import InvalidInput, InvalidSpec
from shoal.storage.files import storage_errors

#: Bytes that a value of a line takes beside its text while lines are taken apart one by one.
VALUE_BYTES = 120

Record: TypeAlias = dict[str, str | None]


def copy_text(path: Path, form: str, declared: Mapping[str, str], copy: Path, budget: PieceBudget) -> list[Origin]:
    """Copy a text file into Parquet.

    Parameters
    ----------
    path : Path
        The file; not empty.
    form : str
        ``csv`` or ``jsonl``.
    declared : mapping of str to str
        What the fleet says of columns, see :class:`~shoal.batch.columns.TypeSearch`.
    copy : Path
        Where the copy goes; files beside it begin with its stem.
    budget : PieceBudget
        How much of the file to hold in memory at once.

    Returns
    -------
    list of Origin
        The file's rows in their order; with :data:`LINE` where the file has bad lines.

    Raises
    ------
    InvalidInput
        The file cannot be read line by line either; names the line.
    InvalidSpec
        One line alone is too long for ``memory``, or little of that is left.
    """
    types = TypeSearch({**declared, LINE: TEXT_KIND})
    with storage_errors(path):
        try:
            rows = _write(_frames(path, form, types, declared, budget.piece_bytes), copy, budget)
        except (PolarsError, pa.ArrowException, EndlessRecord):
            _require_short_lines(path, budget)
            copy.unlink(missing_ok=True)
            return _copy_lines(path, form, declared, copy, budget)
    return [Origin(path=str(copy), name=str(path), rows=rows, types=types.found, text=True)]


def _require_short_lines(path: Path, budget: PieceBudget) -> None:
    try:
        for _ in line_blocks(path, budget.piece_bytes):
            pass
    except EndlessRecord as error:
        limit = f"{budget.limit_bytes / 2**20:.0f} MiB"
        raise InvalidSpec(f"field 'memory': {path} has a line too long to be read within {limit}; set more") from error


def _frames(
    path: Path, form: str, types: TypeSearch, declared: Mapping[str, str], piece_bytes: int
) -> Iterator[pl.DataFrame]:
    """The file's blocks as frames."""
    if form == "csv":
        for block in csv_blocks(path, piece_bytes):
            frame = pl.scan_csv(block, infer_schema=False).collect(engine="streaming")
            types.look(frame)
            yield frame
        return
    for _ in line_blocks(path, piece_bytes):
        pass  # no line is too long for what follows, which looks at the whole file line by line
    schema = pl.scan_ndjson(path, infer_schema_length=None).collect_schema()
    if not schema:
        raise NoDataError("objects without fields: rows all the same, which no Parquet file has without a column")
    texts = [name for name, dtype in schema.items() if name in declared and not _is_as_declared(declared[name], dtype)]
    schema = pl.Schema({**schema, **dict.fromkeys(texts, pl.String())})
    yield pl.DataFrame(schema=schema)
    for block in line_blocks(path, piece_bytes):
        frame = pl.scan_ndjson(block, schema=schema).collect(engine="streaming")
        types.look(frame.select(texts))
        yield frame


def _is_as_declared(kind: str, dtype: pl.DataType) -> bool:
    """Whether a type that Polars found for a column of JSON makes of no value what its text would not be."""
    return kind == NUMBER_KIND and (dtype.is_numeric() or dtype == pl.Boolean)


def _write(frames: Iterator[pl.DataFrame], copy: Path, budget: PieceBudget) -> int:
    with ParquetPieces(copy) as target:
        for frame in ahead(frames):
            target.write(frame)
            budget.require_room()
        return target.rows


def _copy_lines(path: Path, form: str, declared: Mapping[str, str], copy: Path, budget: PieceBudget) -> list[Origin]:
    """Take a file apart line by line, once: where lines of JSON bring new columns, the copy goes on in another file."""
    columns = dict.fromkeys(_csv_header(path) if form == "csv" else [])
    records = _csv_records(path, list(columns)) if form == "csv" else _json_records(path)
    types = TypeSearch({**declared, LINE: TEXT_KIND})
    parts: list[tuple[Path, int]] = []
    for number, tables in enumerate(_alike(_tables(_chunks(records, budget.piece_bytes), columns))):
        part = copy.with_name(f"{copy.stem}-lines-{number}.parquet")
        parts.append((part, _write(_looked_at(tables, types), part, budget)))
    firsts = accumulate((rows for _, rows in parts), initial=0)
    found = types.found.items()
    return [
        Origin(
            path=str(part), name=str(path), rows=rows, first_row=first, text=True,
            types={name: kind for name, kind in found if name in pq.read_schema(part).names},
        )
        for (part, rows), first in zip(parts, firsts, strict=False)
    ]  # fmt: skip


def _looked_at(frames: Iterable[pl.DataFrame], types: TypeSearch) -> Iterator[pl.DataFrame]:
    for frame in frames:
        types.look(frame)
        yield frame


def _tables(chunks: Iterable[list[Record]], columns: dict[str, None]) -> Iterator[pl.DataFrame]:
    """Chunks of records as frames with all columns that were met so far."""
    for chunk in chunks:
        columns.update(dict.fromkeys(name for record in chunk for name in record if name != LINE))
        yield pl.DataFrame(chunk, schema=dict.fromkeys([*columns, LINE], pl.String))


def _alike(frames: Iterable[pl.DataFrame]) -> Iterator[Iterator[pl.DataFrame]]:
    """Runs of frames with the same columns; each is to be read to its end before the next."""
    return (run for _, run in groupby(frames, key=lambda frame: frame.columns))


def _chunks(records: Iterable[Record], chunk_bytes: int) -> Iterator[list[Record]]:
    """Records by the memory they take; at least one chunk, though it be empty."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += sum(VALUE_BYTES + len(value or "") for value in record.values())
        if size > chunk_bytes:
            yield chunk
            chunk, size = [], 0
    yield chunk


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
    """A value as Polars writes it: a number without an exponent, and without a point where it is whole."""
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _opened(path: Path) -> io.TextIOWrapper:
    return path.open(encoding="utf-8-sig", errors="replace", newline="")
