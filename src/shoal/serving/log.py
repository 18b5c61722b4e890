"""The prediction log: what was asked and answered, in Parquet files, without any request waiting for it.

A request hands over references. A thread turns them into columns and writes files of bounded size and age, each of
which becomes visible whole. What does not fit the queue, or cannot be written, is dropped and counted.
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
from typing import Final

import polars as pl

from shoal.errors import ShoalError, StorageError
from shoal.serving.log_columns import columns_of
from shoal.serving.log_retention import STALE_S, logged_files
from shoal.serving.logged import REQUEST_BYTES, LoggedRequest, LogSchema
from shoal.storage.files import staged, storage_errors

#: Requests, and rows, that are converted at a time; between two such pieces the event loop gets its turn.
PIECE: Final = 512
PIECE_ROWS: Final = 2048

_DAY_S: Final = 86_400

_log = logging.getLogger("shoal.serving")


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
        self._queue: deque[LoggedRequest] = deque()
        # Each of these numbers has one thread that changes it, so that none needs a lock.
        self._offered_bytes = self._refused = 0
        self._taken_bytes = self._lost = self._rows = self._files = 0
        self._gathered: dict[tuple[LogSchema, int], _Gathered] = {}
        self._ending = threading.Event()
        self._name = secrets.token_hex(4)
        self._thread = threading.Thread(target=self._work, name="shoal-log", daemon=True)
        self._thread.start()

    def offer(self, logged: LoggedRequest) -> bool:
        """Take a request if the queue has room; never waits. For one thread only.

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
        self._queue.append(logged)
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
        ending = False
        while not ending:
            ending = self._ending.wait(self._pause_s)
            while self._queue:
                self._take_next()
                self._write_what_is_full()
            self._write_what_is_old(everything=ending)

    def _take_next(self) -> None:
        """Convert what is next in the queue, some rows at a time, so that the event loop gets its turn."""
        together: list[LoggedRequest] = []
        rows = 0
        while self._queue and len(together) < PIECE and rows < PIECE_ROWS:
            together.append(self._queue.popleft())
            rows += together[-1].rows.rows
        if rows < 2 * PIECE_ROWS:
            self._take(together)
        else:
            for piece in [piece for one in together for piece in one.pieces(PIECE_ROWS)]:
                self._take([piece])
                time.sleep(0)  # lets go of the interpreter
        self._taken_bytes += sum([one.size_bytes for one in together])
        time.sleep(0)

    def _take(self, requests: Sequence[LoggedRequest]) -> None:
        by_file: dict[tuple[LogSchema, int], list[LoggedRequest]] = {}
        for logged in requests:
            by_file.setdefault((logged.schema, int(logged.at_s // _DAY_S)), []).append(logged)
        for key, together in by_file.items():
            try:
                frame = columns_of(key[0], together)
            except Exception:  # noqa: BLE001 - it is logged and counted, and the log goes on
                self._lost += sum([not one.first_row for one in together])
                _log.exception("requests of fleet %s could not be logged", key[0].fleet)
                continue
            gathered = self._gathered.get(key)
            if gathered is None:
                gathered = self._gathered[key] = _Gathered()
            gathered.add(frame, sum([not one.first_row for one in together]))

    def _write_what_is_full(self) -> None:
        while sum([one.size_bytes for one in self._gathered.values()]) > self._file_bytes:
            self._write(max(self._gathered, key=lambda key: self._gathered[key].size_bytes))

    def _write_what_is_old(self, *, everything: bool) -> None:
        now_s = time.monotonic()
        for key in [key for key, one in self._gathered.items() if everything or now_s - one.since_s >= key[0].file_s]:
            self._write(key)

    def _write(self, key: tuple[LogSchema, int]) -> None:
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
