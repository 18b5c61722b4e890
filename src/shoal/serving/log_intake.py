"""Requests on their way into the prediction log: small ones become columns where they are offered.

A thread that did it would take the interpreter from whoever answers for far longer than the work takes. So it is left
what is large, what comes too seldom, and files of which too few rows came together, for a frame of few rows costs as
much as one of many.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import polars as pl

from shoal.serving.log_columns import columns_of
from shoal.serving.logged import LoggedRequest, LogSchema

#: What is converted together at most: requests, and elements of all their columns; that takes one or two milliseconds.
TOGETHER: Final = 128
MOST_CELLS: Final = 4096
#: A request of more elements, or of so many bytes, is not small.
SMALL_CELLS: Final = 512
SMALL_BYTES: Final = 16_384
#: Rows of one file that are worth a frame of their own.
FEWEST_ROWS: Final = 32
#: So old the first one becomes while others come, in seconds.
_AGE_S: Final = 0.2
_DAY_S: Final = 86_400

File: TypeAlias = tuple[LogSchema, int]
"""What lies in one file: rows of one snapshot and one day, counted from 1970."""

_log = logging.getLogger("shoal.serving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """Requests as rows of a file.

    Attributes
    ----------
    file : File
        Which file.
    frame : polars.DataFrame or None
        The rows; None where they could not be converted.
    requests : int
        How many requests; a later piece of one counts for none.
    """

    file: File
    frame: pl.DataFrame | None
    requests: int


class Intake:
    """Where requests wait for the log's thread, converted or not. One thread puts them in, another takes them out.

    Attributes
    ----------
    queue : deque of LoggedRequest
        Those that the thread has to convert.
    ready : deque of (Converted, int)
        Rows of files, and about how many bytes their requests took.
    """

    def __init__(self) -> None:
        self.queue: deque[LoggedRequest] = deque()
        self.ready: deque[tuple[Converted, int]] = deque()
        self._lock = threading.Lock()
        self._fresh: list[LoggedRequest] = []
        self._cells = 0
        self._closed = False

    def put(self, logged: LoggedRequest) -> bool:
        """Take a request, and convert it with those before it if there are enough; False after :meth:`close`."""
        cells = logged.rows.rows * logged.schema.cells
        with self._lock:
            if self._closed:
                return False
            if cells > SMALL_CELLS or logged.size_bytes > SMALL_BYTES:
                self.queue.append(logged)
                return True
            fresh = self._fresh
            fresh.append(logged)
            self._cells += cells
            if len(fresh) >= TOGETHER or self._cells >= MOST_CELLS or logged.at_s - fresh[0].at_s > _AGE_S:
                self._convert()
        return True

    def _convert(self) -> None:
        for file, together in by_file(self._fresh).items():
            if sum([one.rows.rows for one in together]) < FEWEST_ROWS:
                self.queue.extend(together)
            else:
                self.ready.append((converted(file, together), sum([one.size_bytes for one in together])))
        self._fresh, self._cells = [], 0

    def settle(self, seen: Sequence[LoggedRequest] | None) -> Sequence[LoggedRequest]:
        """Leave to the thread what has waited since it last looked.

        Parameters
        ----------
        seen : sequence of LoggedRequest or None
            What this gave back last time.
        """
        with self._lock:
            if seen is self._fresh:
                self.queue.extend(self._fresh)
                self._fresh, self._cells = [], 0
            return self._fresh

    def close(self) -> None:
        """Take nothing more; what waits is left to the thread."""
        with self._lock:
            self._closed = True
            self.queue.extend(self._fresh)
            self._fresh = []


def by_file(requests: Sequence[LoggedRequest]) -> Mapping[File, Sequence[LoggedRequest]]:
    """Requests by the file that they belong to."""
    found: dict[File, list[LoggedRequest]] = {}
    for logged in requests:
        found.setdefault((logged.schema, int(logged.at_s // _DAY_S)), []).append(logged)
    return found


def converted(file: File, requests: Sequence[LoggedRequest]) -> Converted:
    """Requests of one file as its rows."""
    frame = None
    try:
        frame = columns_of(file[0], requests)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001 - it is logged and counted, and the log goes on
        _log.exception("requests of fleet %s could not be logged", file[0].fleet)
    return Converted(file=file, frame=frame, requests=len([one for one in requests if not one.first_row]))
