"""The prediction log: what was asked and answered, in Parquet files, without any request waiting for a file.

A request hands over references. Small ones become columns where they are offered, some at a time: a thread that did
it would take the interpreter from who answers for far longer. Large ones, and what comes too seldom, become columns
in a thread, which writes files of bounded size and age; each becomes visible whole. What does not fit the queue, or
cannot be written, is dropped and counted.
"""

import contextlib
import datetime as dt
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import polars as pl

from shoal.errors import ShoalError, StorageError
from shoal.serving.log_columns import columns_of
from shoal.serving.log_retention import STALE_S, logged_files
from shoal.serving.logged import REQUEST_BYTES, LoggedRequest, LogSchema
from shoal.storage.files import staged, storage_errors

#: How many small requests are converted together where they are offered, which takes about a millisecond, and what is
#: small.
TOGETHER: Final = 128
SMALL_ROWS: Final = 8
SMALL_BYTES: Final = 4096
#: Requests, and rows, that the thread converts at a time; between two such pieces the event loop gets its turn.
PIECE: Final = 512
PIECE_ROWS: Final = 2048

_DAY_S: Final = 86_400

_log = logging.getLogger("shoal.serving")


_File: TypeAlias = tuple[LogSchema, int]
"""What lies in one file: rows of one snapshot and one day, counted from 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogStatistics:
    """What a log has done so far; all but ``waiting_bytes`` only ever grow.

    Attributes
    ----------
    written_rows : int
        Rows in files that are complete.
    dropped_requests : int
        Requests that found the queue full, or could not be converted or written.
    files : int
        Complete files.
    waiting_bytes : int
        About how much waits in memory.
    """

    written_rows: int
    dropped_requests: int
    files: int
    waiting_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Converted:
    """Requests as rows of a file, None where they could not be converted; later pieces of a request count for none."""

    file: _File
    frame: pl.DataFrame | None
    requests: int


class PredictionLog:
    """Writes what is offered to Parquet, ``<folder>/fleet=<name>/date=<day>/``, in a thread of its own.

    Parameters
    ----------
    folder : Path
        Where the files go.
    queue_bytes : int
        What may wait to be converted; more is dropped.
    file_bytes : int
        About how much is gathered in memory, over all fleets, before a file is written.
    pause_s : float
        How often the thread looks, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        queue_bytes: int = 64 * 2**20,
        file_bytes: int = 64 * 2**20,
        pause_s: float = 0.2,
    ) -> None:
        self._folder = folder
        self._queue_bytes = queue_bytes
        self._file_bytes = file_bytes
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._fresh: list[LoggedRequest] = []
        self._queue: deque[LoggedRequest] = deque()
        self._converted: deque[tuple[list[_Converted], int]] = deque()
        # Each of these numbers has one thread that changes it, so that none needs a lock.
        self._offered_bytes = self._refused = 0
        self._taken_bytes = self._lost = self._rows = self._files = 0
        self._gathered: dict[_File, _Gathered] = {}
        self._ending = threading.Event()
        self._name = secrets.token_hex(4)
        self._thread = threading.Thread(target=self._work, name="shoal-log", daemon=True)
        self._thread.start()

    def offer(self, logged: LoggedRequest) -> bool:
        """Take a request if the queue has room; never waits, at most converts. For one thread only.

        Returns
        -------
        bool
            Whether it was taken.
        """
        size_bytes = logged.rows.size_bytes + REQUEST_BYTES
        if self._offered_bytes - self._taken_bytes + size_bytes > self._queue_bytes or self._ending.is_set():
            self._refused += 1
            return False
        self._offered_bytes += size_bytes
        is_small = logged.rows.rows <= SMALL_ROWS and size_bytes <= SMALL_BYTES
        with self._lock:
            self._fresh.append(logged)
            if is_small and len(self._fresh) < TOGETHER:
                return True
            together, self._fresh = self._fresh, []
        if is_small:
            self._converted.append((_converted(together), _size_bytes(together)))
        else:
            self._queue.extend(together)
        return True

    def statistics(self) -> LogStatistics:
        """What the log has done so far."""
        gathered = sum([one.size_bytes for one in list(self._gathered.values())])
        return LogStatistics(
            written_rows=self._rows,
            dropped_requests=self._refused + self._lost,
            files=self._files,
            waiting_bytes=self._offered_bytes - self._taken_bytes + gathered,
        )

    def close(self, timeout_s: float = 30.0) -> None:
        """Write all that was taken, and end.

        Parameters
        ----------
        timeout_s : float
            How long to wait for that, in seconds.
        """
        self._ending.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        self._clean()
        seen, ending = self._fresh, False
        while not ending:
            ending = self._ending.wait(self._pause_s)
            seen = self._take_fresh(None if ending else seen)
            while self._converted or self._queue:
                while self._converted:
                    self._gather(*self._converted.popleft())
                self._take_next()
                self._write_what_is_full()
            self._write_what_is_old(everything=ending)

    def _take_fresh(self, seen: list[LoggedRequest] | None) -> list[LoggedRequest]:
        """Put what was there when last seen, or all of it, into the queue; what is there now."""
        with self._lock:
            if seen is None or seen is self._fresh:
                self._queue.extend(self._fresh)
                self._fresh = []
            return self._fresh

    def _take_next(self) -> None:
        """Convert what is next in the queue, some rows at a time, so that the event loop gets its turn."""
        together: list[LoggedRequest] = []
        rows = 0
        while self._queue and len(together) < PIECE and rows < PIECE_ROWS:
            together.append(self._queue.popleft())
            rows += together[-1].rows.rows
        whole = [together] if rows < 2 * PIECE_ROWS else [[part] for one in together for part in one.pieces(PIECE_ROWS)]
        for piece in whole:
            self._gather(_converted(piece), 0)
            time.sleep(0)  # lets go of the interpreter
        self._taken_bytes += _size_bytes(together)

    def _gather(self, converted: list[_Converted], size_bytes: int) -> None:
        for one in converted:
            if one.frame is None:
                self._lost += one.requests
            else:
                self._gathered.setdefault(one.file, _Gathered()).add(one.frame, one.requests)
        self._taken_bytes += size_bytes

    def _write_what_is_full(self) -> None:
        while sum([one.size_bytes for one in self._gathered.values()]) > self._file_bytes:
            self._write(max(self._gathered, key=lambda key: self._gathered[key].size_bytes))

    def _write_what_is_old(self, *, everything: bool) -> None:
        now_s = time.monotonic()
        for key in [key for key, one in self._gathered.items() if everything or now_s - one.since_s >= key[0].file_s]:
            self._write(key)

    def _write(self, key: _File) -> None:
        gathered = self._gathered.pop(key)
        day = dt.date(1970, 1, 1) + dt.timedelta(days=key[1])
        name = f"{dt.datetime.now(dt.UTC):%H%M%S}-{self._name}-{self._files:05}.parquet"
        path = self._folder / f"fleet={key[0].fleet}" / f"date={day}" / name
        try:
            with staged(path) as temporary, storage_errors(path):
                pl.concat(gathered.frames).write_parquet(temporary, compression="zstd", statistics=True)
        except (ShoalError, pl.exceptions.PolarsError) as error:
            self._lost += gathered.requests
            _log.warning("%d logged requests were dropped: %s", gathered.requests, error)
            return
        self._rows += gathered.rows
        self._files += 1

    def _clean(self) -> None:
        """Remove what processes that were killed left unfinished."""
        before_s = time.time() - STALE_S
        with contextlib.suppress(OSError):
            for path in self._folder.glob("fleet=*/date=*/.*.part"):
                if path.stat().st_mtime < before_s:
                    path.unlink()


def _converted(requests: Sequence[LoggedRequest]) -> list[_Converted]:
    """Requests as rows of the files that they belong to."""
    by_file: dict[_File, list[LoggedRequest]] = {}
    for logged in requests:
        by_file.setdefault((logged.schema, int(logged.at_s // _DAY_S)), []).append(logged)
    converted = []
    for file, together in by_file.items():
        frame = None
        try:
            frame = columns_of(file[0], together)
        except Exception:  # noqa: BLE001 - it is logged and counted, and the log goes on
            _log.exception("requests of fleet %s could not be logged", file[0].fleet)
        firsts = [one for one in together if not one.first_row]
        converted.append(_Converted(file=file, frame=frame, requests=len(firsts)))
    return converted


def _size_bytes(requests: Sequence[LoggedRequest]) -> int:
    return sum([one.size_bytes for one in requests])


class _Gathered:
    """Rows of what will be one file."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self.rows = self.requests = self.size_bytes = 0
        self.since_s = time.monotonic()

    def add(self, frame: pl.DataFrame, requests: int) -> None:
        self.frames.append(frame)
        self.rows += frame.height
        self.requests += requests
        self.size_bytes += int(frame.estimated_size())


def scan_log(folder: Path | str, fleet: str) -> pl.LazyFrame:
    """What was logged of a fleet, of all its snapshots; columns that a snapshot does not have are null there.

    Parameters
    ----------
    folder : Path or str
        The log's, ``SHOAL_HOME/predictions`` unless told otherwise.
    fleet : str
        The fleet's name.

    Raises
    ------
    StorageError
        Nothing was logged of it.
    """
    files = logged_files(Path(folder), fleet)
    if not files:
        raise StorageError(f"nothing was logged of fleet {fleet!r} yet; its serving spec says what is, in `log`")
    return pl.concat(
        [pl.scan_parquet(file, hive_partitioning=True) for file in files], how="diagonal_relaxed", rechunk=False
    )
