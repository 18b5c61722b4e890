"""Parquet files that features are looked up in are indexed in a program of its own, within the job's memory."""

import dataclasses
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import polars as pl
from polars.exceptions import PolarsError

from shoal.batch.apart import run_apart
from shoal.batch.memory import plan_pieces
from shoal.errors import InvalidInput
from shoal.requests.mapped_table import MappedTable
from shoal.storage.files import storage_errors
from shoal.storage.lookup_reader import Wanted
from shoal.types import KeyType

COPIES = 6
"""What indexing takes beside what is indexed, as a multiple of it. Measured: two to six."""

SMALL_BYTES = 64 * 2**20
"""What takes less is indexed here: a program of its own takes more than that by itself."""

SAMPLE_ROWS = 1_000


class Indexing(msgspec.Struct, frozen=True, kw_only=True):
    """What to index.

    Attributes
    ----------
    path : str
        The Parquet file.
    keys : mapping of str to KeyType
        Its columns that a key is made of.
    values : tuple of str
        Its columns to read.
    as_of : str or None
        Its column of times.
    cache : str
        Where the index goes.
    """

    path: str
    keys: Mapping[str, KeyType]
    values: tuple[str, ...]
    as_of: str | None
    cache: str

    def table(self) -> MappedTable:
        """The file as lookups read it."""
        wanted = Wanted(keys=self.keys, values=self.values, as_of=self.as_of)
        return MappedTable(Path(self.path), wanted, cache=Path(self.cache))


def index_apart(path: Path, wanted: Wanted, *, cache: Path, limit_bytes: int | None) -> None:
    """Index a file unless it is: that takes several times the memory of what is indexed.

    Parameters
    ----------
    path : Path
        The file.
    wanted : Wanted
        What is read of it.
    cache : Path
        Private folder for what is mapped.
    limit_bytes : int or None
        The job's bound.

    Raises
    ------
    InvalidSpec
        It takes more memory than that.
    InvalidInput
        The file has no such columns.
    StorageError
        It is not there.
    """
    work = Indexing(path=str(path), keys=wanted.keys, values=wanted.values, as_of=wanted.as_of, cache=str(cache))
    if work.table().is_indexed:
        return
    budget = dataclasses.replace(
        plan_pieces(limit_bytes), work=f"indexing {path}", advice="look its features up in a database"
    )
    if COPIES * _size_bytes(path, wanted) < min(SMALL_BYTES, budget.room_bytes()):
        index(work)
        return
    folder = cache / f"order-{secrets.token_hex(6)}"
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True)
        order = folder / "index.json"
        try:
            run_apart(work, index, order, budget, what=f"indexing {path}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _size_bytes(path: Path, wanted: Wanted) -> float:
    """What the file's columns take in memory, from its first rows."""
    try:
        frame = pl.scan_parquet(path, glob=False).select(wanted.all)
        sample, rows = frame.head(SAMPLE_ROWS).collect(), int(frame.select(pl.len()).collect().item())
    except (PolarsError, OSError) as error:
        raise InvalidInput(f"{path} is no Parquet file with the columns {list(wanted.all)}: {error}") from error
    return float(sample.estimated_size() * rows / max(sample.height, 1))


def index(work: Indexing) -> None:
    """Index a file, in this process."""
    work.table().index()
