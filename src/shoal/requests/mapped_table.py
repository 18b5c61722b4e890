"""Features by key from a Parquet file that is indexed once, mapped, and noticed when another takes its place.

Parquet cannot be read where it lies: it is compressed. So the columns that are wanted are written once, sorted, as an
Arrow file into the private cache, with an index of the kind that fleets have; every process maps both and they share
the memory.
"""

import asyncio
import contextlib
import datetime as dt
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from polars.exceptions import PolarsError

from shoal.errors import InvalidArtifact, InvalidInput, ShoalError, StorageError
from shoal.requests.point_in_time import microseconds, ordered
from shoal.storage.columns import json_text
from shoal.storage.files import exclusive, staged, storage_errors
from shoal.storage.lookup_reader import Values, Wanted
from shoal.table.hashing import ABSENT
from shoal.table.index import Segment, build
from shoal.table.keys import encode, frame_of_keys
from shoal.types import Integers, Key, KeyColumn

_log = logging.getLogger(__name__)

_VERSION = 2
_LOOK_EVERY_S = 0.25
_KEPT_S = 86_400.0
_COUNT = "_shoal_rows"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class MappedTable:
    """Reads a Parquet file by key.

    Parameters
    ----------
    path : Path
        The file. To change it, put another in its place by renaming.
    wanted : Wanted
        What to read.
    cache : Path
        Private folder for what is mapped.
    """

    def __init__(self, path: Path, wanted: Wanted, *, cache: Path) -> None:
        self._path = path
        self._wanted = wanted
        self._cache = cache
        self._columns = tuple(KeyColumn(name=name, type=kind) for name, kind in wanted.keys.items())
        self._open: _Opened | None = None
        self._look_at_s = 0.0
        self._opening: asyncio.Task[None] | None = None

    async def fetch(self, keys: Sequence[Key], timeout_s: float) -> list[Values | None]:
        """What the file has for each key; see :class:`~shoal.storage.lookup_reader.Reader`.

        A new file is opened beside the old one, which answers until the new one is ready.
        """
        return (await self._present(timeout_s)).find(keys, self._columns, self._wanted)

    async def past(self, keys: Sequence[Key], timeout_s: float, most: int | None) -> pl.DataFrame | None:
        """All rows of some keys; see :class:`~shoal.storage.lookup_reader.Reader`."""
        return (await self._present(timeout_s)).past(keys, self._columns, self._wanted, most)

    async def _present(self, timeout_s: float) -> "_Opened":
        """What is open; another file in its place is opened meanwhile."""
        if time.monotonic() >= self._look_at_s and self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(self._follow))
            self._opening.add_done_callback(self._opened)
        if self._open is None and self._opening is not None:
            await asyncio.wait_for(asyncio.shield(self._opening), timeout_s)
        if self._open is None:
            raise StorageError(f"{self._path}: cannot be read as a source of features")
        return self._open

    def prepare(self) -> None:
        """Index and map the file now, so that no request has to wait for it; if that fails, the first request tries."""
        try:
            self._follow()
        except ShoalError as error:
            _log.warning("%s", error)

    @property
    def is_indexed(self) -> bool:
        """Whether the file that is there now is indexed, so that opening it only maps."""
        with storage_errors(self._path):
            return self._places(_identity(self._path))[1].exists()

    def index(self) -> None:
        """Index the file and map it.

        Raises
        ------
        InvalidInput
            It is no Parquet file with the columns wanted.
        StorageError
            It is not there, or the cache cannot be written.
        """
        self._follow()

    def look(self) -> None:
        """See whether the file is there and has the columns; raises as :meth:`index` does."""
        try:
            with storage_errors(self._path):
                present = pl.read_parquet_schema(self._path)
        except PolarsError as error:
            raise InvalidInput(f"{self._path} is no Parquet file: {error}") from error
        missing = [name for name in self._wanted.all if name not in present]
        if missing:
            raise InvalidInput(f"{self._path} has no column {missing[0]!r}; it has {', '.join(present)}")

    def history(self) -> pl.DataFrame:
        """All rows there are; see :class:`~shoal.storage.lookup_reader.Reader`."""
        return self._read()

    async def close(self) -> None:
        """Let go of the files."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        self._open = None

    def _opened(self, task: "asyncio.Task[None]") -> None:
        self._opening = None
        self._look_at_s = time.monotonic() + _LOOK_EVERY_S
        if not task.cancelled():
            task.exception()  # who waits for it is told; the next one tries again

    def _follow(self) -> None:
        """Open the file if it is not the one that is open."""
        with storage_errors(self._path):
            identity = _identity(self._path)
        if self._open is not None and self._open.identity == identity:
            return
        rows, index = self._places(identity)
        with storage_errors(self._cache):
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(self._cache / "lock"):
            if not index.exists():
                self._write(rows, index)
                _forget(self._cache)
        self._open = _Opened(identity=identity, frame=_mapped(rows), index=_mapped_index(index))

    def _places(self, identity: str) -> tuple[Path, Path]:
        """Where the rows and the index of a file are kept."""
        described = [str(self._path), identity, list(self._wanted.keys.items()), list(self._wanted.columns)]
        digest = hashlib.sha256(json_text([_VERSION, *described, self._wanted.as_of]).encode()).hexdigest()[:32]
        return self._cache / f"{digest}.rows.arrow", self._cache / f"{digest}.index.arrow"

    def _write(self, rows: Path, index: Path) -> None:
        as_of = self._wanted.as_of
        keys = list(self._wanted.keys)
        table = ordered(self._read(), self._wanted.keys, self._wanted.values, as_of)
        starts = (
            table.select(first=pl.struct(keys).rle_id()).with_row_index("at").group_by("first", maintain_order=True)
        )
        runs = starts.agg(pl.col("at").first(), pl.len().alias(_COUNT))
        counts = pl.Series(np.zeros(table.height, np.int64)).scatter(runs["at"], runs[_COUNT].cast(pl.Int64))
        heads = table[runs["at"]].select(keys)
        segment = build(encode(self._columns, heads, tuple(keys)), runs["at"].to_numpy().astype(np.uint64))
        with staged(rows) as path:
            # One batch: columns of several would be copied into memory to be one again, by every process.
            whole = table.with_columns(counts.alias(_COUNT)).rechunk()
            whole.write_ipc(path, compression="uncompressed", record_batch_size=max(whole.height, 1))
        with staged(index) as path, pa.OSFile(str(path), "wb") as file:
            batch = segment.table()
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)

    def _read(self) -> pl.DataFrame:
        columns = self._wanted.all
        try:
            return pl.scan_parquet(self._path, glob=False).select(columns).collect()
        except (PolarsError, OSError) as error:
            raise InvalidInput(f"{self._path} is no Parquet file with the columns {list(columns)}: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """A file that is mapped.

    Attributes
    ----------
    identity : str
        Which file it is.
    frame : polars.DataFrame
        Its rows by key and time; ``_shoal_rows`` says in the first row of each key how many there are.
    index : Segment
        From a key to its first row.
    """

    identity: str
    frame: pl.DataFrame
    index: Segment

    def find(self, keys: Sequence[Key], columns: Sequence[KeyColumn], wanted: Wanted) -> list[Values | None]:
        """What there is for each key now."""
        starts = self._starts(keys, columns)
        known = np.flatnonzero(starts >= 0)
        rows = starts[known]
        if wanted.as_of is not None:
            rows = self._newest(rows, wanted.as_of)
            known, rows = known[rows >= 0], rows[rows >= 0]
        found: list[Values | None] = [None] * len(keys)
        for position, values in zip(known, self.frame[rows].select(wanted.columns).iter_rows(), strict=True):
            found[position] = values if wanted.as_of is None else (*values[:-1], _time(values[-1]))
        return found

    def past(
        self, keys: Sequence[Key], columns: Sequence[KeyColumn], wanted: Wanted, most: int | None
    ) -> pl.DataFrame | None:
        """All that there is for some keys; None where that is too much."""
        starts = self._starts(keys, columns)
        starts = starts[starts >= 0]
        counts = self.frame[_COUNT][starts].to_numpy()
        if most is not None and counts.sum() > most:
            return None
        rows = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        found = self.frame[rows].select(wanted.all)
        return found if wanted.as_of is None else found.with_columns(pl.col(wanted.as_of).cast(pl.Datetime("us")))

    def _starts(self, keys: Sequence[Key], columns: Sequence[KeyColumn]) -> Integers:
        """The first row of each key; negative where there is none."""
        level = tuple(column.name for column in columns)
        starts = np.full(len(keys), ABSENT, dtype=np.int64)
        self.index.find(encode(columns, frame_of_keys(columns, level, keys), level), np.zeros(1, np.int64), starts)
        return starts

    def _newest(self, starts: Integers, as_of: str) -> Integers:
        """The last row of each key that is not in the future, -1 where there is none."""
        now = int(microseconds(pl.Series([dt.datetime.now(dt.UTC)]), up=False)[0])
        counts = self.frame[_COUNT][starts].to_numpy()
        times = self.frame[as_of].to_numpy()
        past = [
            int(times[s : s + n].searchsorted(now, side="right"))
            for s, n in zip(starts.tolist(), counts.tolist(), strict=True)
        ]
        return np.where(np.array(past, dtype=np.int64) > 0, starts + np.array(past, dtype=np.int64) - 1, -1)


def _forget(cache: Path) -> None:
    """Delete what nobody has opened for long; who has it mapped keeps it until they let go."""
    for path in cache.glob("*.arrow"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()


def _time(microseconds_since: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=microseconds_since)


def _identity(path: Path) -> str:
    found = path.stat()
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _mapped(path: Path) -> pl.DataFrame:
    os.utime(path)  # it is in use: what has not been for long may be deleted
    try:
        return pl.DataFrame(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    except (PolarsError, OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _mapped_index(path: Path) -> Segment:
    try:
        return Segment.from_table(pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0))
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InvalidArtifact:
    return InvalidArtifact(f"{path}: cannot be mapped ({error}); delete it, and it is written anew")
