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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from shoal.errors import ShoalError, StorageError
from shoal.serving.inputs import InputSchema
from shoal.serving.log_retention import logged_files
from shoal.serving.messages import Datatype
from shoal.serving.outputs import Output, OutputSchema, Values
from shoal.serving.rows import Rows
from shoal.serving.scoring import Part, values_of
from shoal.storage.files import staged, storage_errors
from shoal.types import Floats

#: Bytes that a request counts for, beside its inputs.
REQUEST_BYTES: Final = 600
#: Requests, and rows, that are converted at a time; between two such pieces the event loop gets its turn.
PIECE: Final = 512
PIECE_ROWS: Final = 2048
#: Unfinished files of processes that died are removed when they are so old, in seconds.
STALE_S: Final = 3600.0

OWN_COLUMNS: Final = (
    "time", "request_id", "row", "principal", "fleet", "date", "version", "model", "outcome", "reason", "model_level",
    "latency_ms",
)  # fmt: skip
"""Columns of the log's own; an input or output of such a name is called ``input.<name>`` or ``output.<name>``."""

_DAY_S: Final = 86_400
_APART: Final = frozenset({"outcome", "reason", "model_level", "snapshot"})
_DTYPES: Final[dict[Datatype, pl.DataType]] = {
    Datatype.FP64: pl.Float64(),
    Datatype.INT64: pl.Int64(),
    Datatype.BOOL: pl.Boolean(),
    Datatype.BYTES: pl.String(),
}

_log = logging.getLogger("shoal.serving")


class LogSchema:
    """What is logged of one snapshot of a fleet.

    Parameters
    ----------
    fleet : str
        Its name.
    version : int
        The snapshot.
    inputs : InputSchema
        Its inputs.
    outputs : OutputSchema
        Its outputs; all but ``snapshot`` are logged, whichever a request wants.
    columns : sequence of str, optional
        Only these inputs and outputs.
    file_s : float
        A file is written when its first row has waited so long, in seconds.
    """

    def __init__(
        self,
        fleet: str,
        version: int,
        inputs: InputSchema,
        outputs: OutputSchema,
        *,
        columns: Sequence[str] | None = None,
        file_s: float = 60.0,
    ) -> None:
        self.fleet = fleet
        self.version = version
        self.inputs = inputs
        self.file_s = file_s
        self.named = {output.name: output for output in outputs.outputs}
        names = [one.name for one in inputs.inputs]
        wanted = {*self.named, *names} if columns is None else set(columns)
        self.asked = {name: _apart("input", name, OWN_COLUMNS) for name in names if name in wanted}
        answers = [name for name in self.named if name in wanted and name not in _APART]
        self.answered = {name: _apart("output", name, (*OWN_COLUMNS, *names)) for name in answers}


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request that was answered, by reference: nothing is copied or converted to make one.

    Attributes
    ----------
    schema : LogSchema
        What was asked.
    request_id, principal : str
        Which request it was, and whose.
    model : str
        The address as the request named it.
    rows : Rows
        The inputs as they were scored.
    parts : sequence of Part
        What was found for them.
    at_s : float
        When it was answered, in seconds since 1970, UTC.
    latency_ms : float
        How long that took, in milliseconds.
    is_own : bool
        Whether a single model was asked by its own address.
    first_row : int
        Number of the first row, where this is a part of a request.
    """

    schema: LogSchema
    request_id: str
    principal: str
    model: str
    rows: Rows
    parts: Sequence[Part]
    at_s: float
    latency_ms: float
    is_own: bool = False
    first_row: int = 0

    @property
    def size_bytes(self) -> int:
        """About how much memory is held by it."""
        return self.rows.size_bytes + REQUEST_BYTES

    def pieces(self, most_rows: int) -> Iterator["LoggedRequest"]:
        """The request in pieces of at most so many rows."""
        if self.rows.rows <= most_rows:
            yield self
            return
        first = 0
        for batch, start, stop in self.parts:
            for begin in range(start, stop, most_rows):
                end = min(begin + most_rows, stop)
                rows = self.rows.slice(first, first + end - begin)
                yield msgspec.structs.replace(self, rows=rows, parts=((batch, begin, end),), first_row=first)
                first += end - begin


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


def columns_of(schema: LogSchema, requests: Sequence[LoggedRequest]) -> pl.DataFrame:
    """The rows of logged requests of one snapshot, as they are in a file.

    Returns
    -------
    DataFrame
        ``time``, ``request_id``, ``row``, ``principal``, ``version``, ``model``, the inputs (key columns first), the
        outputs, ``outcome``, ``reason``, ``model_level``, ``latency_ms``.

    Raises
    ------
    InvalidInput
        The rows cannot be put together.
    """
    inputs = schema.inputs.columns([one.rows for one in requests]).columns
    times = pl.Series(np.array([one.at_s for one in requests]) * 1e6).cast(pl.Int64)
    asked = pl.DataFrame(
        {
            "time": times.cast(pl.Datetime("us", "UTC")),
            "request_id": pl.Series([one.request_id for one in requests], dtype=pl.String),
            "row": pl.Series([one.first_row for one in requests], dtype=pl.UInt32),
            "principal": pl.Series([one.principal for one in requests], dtype=pl.String),
            "version": pl.Series(np.full(len(requests), schema.version, dtype=np.int64)),
            "model": pl.Series([one.model for one in requests], dtype=pl.String),
            "latency_ms": pl.Series(np.array([one.latency_ms for one in requests], dtype=np.float64)),
        }
    )
    counts = [one.rows.rows for one in requests]
    if counts != [1] * len(counts):
        asked = _repeated(asked, counts)
    stretches = _stretches(requests)
    series = [
        *asked.drop("latency_ms").iter_columns(),
        *(_asked(inputs[name]).alias(column) for name, column in schema.asked.items()),
        *(_column(schema.named[name], stretches).alias(column) for name, column in schema.answered.items()),
        *(_column(schema.named[name], stretches) for name in ("outcome", "reason", "model_level")),
        asked["latency_ms"],
    ]
    return pl.DataFrame(series)


def _asked(column: pl.Series | Floats) -> pl.Series:
    """An input; a missing number is null in the log, and NaN in what is scored."""
    if isinstance(column, np.ndarray):
        series = pl.Series(column)
        return series.fill_nan(None) if np.isnan(column).any() else series
    return column


def _stretches(requests: Sequence[LoggedRequest]) -> list[tuple[Part, bool]]:
    """The parts of all requests and whether each was asked as a model of its own, neighbours of one call as one.

    Requests that shared a kernel call usually stand side by side: their answers are cut out of it once, not each alone.
    """
    found: list[tuple[Part, bool]] = []
    batch, start, stop, is_own = None, 0, 0, False
    for one in requests:
        for part in one.parts:
            if part[0] is batch and part[1] == stop and one.is_own == is_own:
                stop = part[2]
                continue
            if batch is not None:
                found.append(((batch, start, stop), is_own))
            batch, start, stop = part
            is_own = one.is_own
    if batch is not None:
        found.append(((batch, start, stop), is_own))
    return found


def _repeated(asked: pl.DataFrame, counts: Sequence[int]) -> pl.DataFrame:
    """Each request's row as often as it has rows, numbered."""
    which = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum([0, *counts[:-1]])
    within = pl.Series(np.arange(len(which)) - firsts[which], dtype=pl.UInt32)
    return asked[which].with_columns((pl.col("row") + within).alias("row"))


def _column(output: Output, stretches: Sequence[tuple[Part, bool]]) -> pl.Series:
    """An output of many rows; several elements per row become a list, null where none of them is there."""
    values: Values = []
    for part, is_own in stretches:
        values += values_of((part,), output, is_own=is_own)
    dtype, width = _DTYPES[output.datatype], output.width
    if not width:
        return pl.Series(output.name, values, dtype=dtype)
    rows = [values[start : start + width] for start in range(0, len(values), width)]
    lists = [None if row.count(None) == width else row for row in rows]
    return pl.Series(output.name, lists, dtype=pl.List(dtype))


def _apart(kind: str, name: str, taken: Sequence[str]) -> str:
    """A column's name in the log."""
    return f"{kind}.{name}" if name in taken else name


def scan_log(folder: Path, fleet: str) -> pl.LazyFrame:
    """What was logged of a fleet, of all its snapshots; columns that a snapshot does not have are null there.

    Parameters
    ----------
    folder : Path
        The log's.
    fleet : str
        The fleet's name.

    Raises
    ------
    StorageError
        Nothing was logged of it.
    """
    files = logged_files(folder, fleet)
    if not files:
        raise StorageError(f"nothing was logged of fleet {fleet!r} yet; its serving spec says what is, in `log`")
    return pl.concat(
        [pl.scan_parquet(file, hive_partitioning=True) for file in files], how="diagonal_relaxed", rechunk=False
    )
