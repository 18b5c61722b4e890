"""Tables in files: which files a list of paths means, and how each is opened as a lazy frame."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from polars.exceptions import PolarsError

from shoal.errors import InvalidInput
from shoal.storage.files import file_sha256, storage_errors
from shoal.types import InputFile

TableFormat = Literal["parquet", "csv", "jsonl"]

SUFFIXES: Mapping[str, TableFormat] = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
"""File name endings and the format they stand for."""


def find_tables(paths: Sequence[str]) -> tuple[Path, ...]:
    """The files that paths mean, each once, sorted.

    Parameters
    ----------
    paths : sequence of str
        Files (of any ending), folders (searched through and through for files of a known ending; names that start
        with ``.`` or ``_`` are left out, as those of unfinished output are) and globs (``**`` crosses folders; files
        of any ending but hidden ones).

    Raises
    ------
    InvalidInput
        A path means no file.
    """
    found: set[Path] = set()
    for path in paths:
        files = set(_files_of(path))
        if not files:
            raise InvalidInput(f"{path}: no such file, and no Parquet, CSV or JSON lines file matches; check the path")
        found |= files
    return tuple(sorted(found))


def table_format(path: Path, given: str = "auto") -> TableFormat:
    """The format of a file: as given, or by its ending.

    Raises
    ------
    InvalidInput
        The ending says nothing.
    """
    for known in SUFFIXES.values():
        if given == known:
            return known
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path}: its ending does not tell the format; set format to parquet, csv or jsonl")
    return SUFFIXES[path.suffix.lower()]


def scan_table(path: Path, given: str = "auto") -> pl.LazyFrame:
    """Open one file as a lazy frame.

    CSV columns get their types from the whole file (not from its first rows), dates and times are recognised.

    Raises
    ------
    InvalidInput
        The ending says nothing about the format.
    """
    form = table_format(path, given)
    if form == "parquet":
        return pl.scan_parquet(path, glob=False)
    if form == "csv":
        return pl.scan_csv(path, glob=False, infer_schema_length=None, try_parse_dates=True)
    return pl.scan_ndjson(path, infer_schema_length=None)


def scan_tables(paths: Sequence[Path], given: str = "auto") -> pl.LazyFrame:
    """Open several files as one lazy frame, one behind the other.

    Columns are matched by name; a column that some files lack is null there, and numbers of different width widen.

    Raises
    ------
    InvalidInput
        A file cannot be read, or the same column holds different kinds of values in two files.
    """
    try:
        frame = pl.concat([scan_table(path, given) for path in paths], how="diagonal_relaxed")
        frame.collect_schema()
    except (PolarsError, OSError) as error:
        raise InvalidInput(f"the input cannot be read as one table: {error}") from error
    return frame


def pin_table(path: Path, rows: int | None = None) -> InputFile:
    """Describe a file by its content, so that it can be told later whether it is still the same.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    with storage_errors(path):
        size = path.stat().st_size
    return InputFile(path=str(path.absolute()), size_bytes=size, sha256=file_sha256(path), rows=rows)


def _files_of(path: str) -> Iterator[Path]:
    plain = Path(path).expanduser()
    if plain.is_file():
        yield plain
    elif plain.is_dir():
        shown = (file for file in plain.rglob("*") if not _hidden(file.relative_to(plain)))
        yield from (file for file in shown if file.suffix.lower() in SUFFIXES and file.is_file())
    else:
        root = _fixed_part(plain)
        matches = (Path(match) for match in glob.glob(str(plain), recursive=True))  # noqa: PTH207 - may be absolute
        yield from (match for match in matches if match.is_file() and not _hidden(match.relative_to(root)))


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first wildcard: what the user named on purpose, hidden or not."""
    wild = next((i for i, part in enumerate(pattern.parts) if glob.has_magic(part)), len(pattern.parts))
    return Path(*pattern.parts[:wild])


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
