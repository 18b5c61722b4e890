"""The prediction log: what was asked and answered, in Parquet files, without any request waiting for a file.

A request hands over references, which become columns together with others: see :mod:`.log_intake`. A thread writes
files of bounded size and age, each of which becomes visible whole. What does not fit the queue, or cannot be written,
is dropped and counted.
"""

import contextlib
import datetime as dt
import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from shoal.errors import ShoalError, StorageError
from shoal.serving.log_intake import Converted, File, Intake, by_file, converted
from shoal.serving.log_retention import STALE_S, logged_files
from shoal.serving.logged import LoggedRequest
from shoal.storage.files import staged, storage_errors

#: Requests, and rows, that the thread converts at a time; between two such pieces the event loop gets its turn.
PIECE: Final = 512
PIECE_ROWS: Final = 2048

#: What a frame takes in memory beside its elements, and how many of a file are made one, since some have a few rows.
_FRAME_BYTES: Final = 12_000
_LOOSE: Final = 16

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
        self._intake = Intake()
        # Each of these numbers has one thread that changes it, so that none needs a lock.
        self._offered_bytes = self._refused = 0
        self._taken_bytes = self._lost = self._rows = self._files = 0
        self._gathered: dict[File, _Gathered] = {}
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
        size_bytes = logged.size_bytes
        self._offered_bytes += size_bytes
        if self._offered_bytes - self._taken_bytes > self._queue_bytes or not self._intake.put(logged):
            self._offered_bytes -= size_bytes
            self._refused += 1
            return False
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
        intake, seen, ending = self._intake, None, False
        while not ending:
            ending = self._ending.wait(self._pause_s)
            if ending:
                intake.close()
            else:
                seen = intake.settle(seen)
            while intake.ready or intake.queue:
                while intake.ready:
                    rows, size_bytes = intake.ready.popleft()
                    self._gather(rows)
                    self._taken_bytes += size_bytes
                self._take_next(intake.queue)
                self._write_what_is_full()
            self._write_what_is_old(everything=ending)

    def _take_next(self, queue: deque[LoggedRequest]) -> None:
        """Convert what is next in the queue, some rows at a time, so that the event loop gets its turn."""
        together: list[LoggedRequest] = []
        rows = 0
        while queue and len(together) < PIECE and rows < PIECE_ROWS:
            together.append(queue.popleft())
            rows += together[-1].rows.rows
        whole = [together] if rows < 2 * PIECE_ROWS else [[part] for one in together for part in one.pieces(PIECE_ROWS)]
        for piece in whole:
            for file, requests in by_file(piece).items():
                self._gather(converted(file, requests))
            time.sleep(0)  # lets go of the interpreter
        self._taken_bytes += sum([one.size_bytes for one in together])

    def _gather(self, rows: Converted) -> None:
        if rows.frame is None:
            self._lost += rows.requests
        else:
            self._gathered.setdefault(rows.file, _Gathered()).add(rows.frame, rows.requests)

    def _write_what_is_full(self) -> None:
        while sum([one.size_bytes for one in self._gathered.values()]) > self._file_bytes:
            self._write(max(self._gathered, key=lambda key: self._gathered[key].size_bytes))

    def _write_what_is_old(self, *, everything: bool) -> None:
        now_s = time.monotonic()
        for key in [key for key, one in self._gathered.items() if everything or now_s - one.since_s >= key[0].file_s]:
            self._write(key)

    def _write(self, key: File) -> None:
        gathered = self._gathered.pop(key)
        day = dt.date(1970, 1, 1) + dt.timedelta(days=key[1])
        name = f"{dt.datetime.now(dt.UTC):%H%M%S}-{self._name}-{self._files:05}.parquet"
        path = self._folder / f"fleet={key[0].fleet}" / f"date={day}" / name
        try:
            with staged(path) as temporary, storage_errors(path):
                pl.concat(gathered.frames).write_parquet(temporary, compression="zstd", statistics=True)
        except (ShoalError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
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
        self._joined: list[pl.DataFrame] = []
        self._loose: list[pl.DataFrame] = []
        self._element_bytes = 0
        self.rows = self.requests = 0
        self.since_s = time.monotonic()

    @property
    def frames(self) -> list[pl.DataFrame]:
        return [*self._joined, *self._loose]

    @property
    def size_bytes(self) -> int:
        return self._element_bytes + _FRAME_BYTES * (len(self._joined) + len(self._loose))

    def add(self, frame: pl.DataFrame, requests: int) -> None:
        self._loose.append(frame)
        self.rows += frame.height
        self.requests += requests
        self._element_bytes += int(frame.estimated_size())
        if len(self._loose) >= _LOOSE:
            self._joined.append(pl.concat(self._loose, rechunk=True))
            self._loose = []


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
