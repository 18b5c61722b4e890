"""Logs of servers: one JSON object per line, written by a thread of its own, never waited for.

Whoever logs leaves the record in a bounded queue and goes on. A thread encodes and writes. When the receiver of the
lines is slower than the server, lines are dropped and counted; requests are not slowed down.
"""

import datetime as dt
import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

Fields: TypeAlias = Mapping[str, str | int | float | bool | None]
"""What a line says, by name."""

_QUEUED: Final = 20_000
_PAUSE_S: Final = 0.1
#: Lines that are written at a time; between two such writes the event loop gets its turn.
_TOGETHER: Final = 256
_encoder = msgspec.json.Encoder()


class LineWriter:
    """Writes lines to a file descriptor.

    Thread-safe; :meth:`offer` takes well under a microsecond and never blocks.

    Parameters
    ----------
    descriptor : int
        Where to write; 2 is the standard error stream.
    queued : int
        How many lines may wait.

    Attributes
    ----------
    dropped : int
        How many lines found the queue full.
    """

    def __init__(self, descriptor: int = 2, *, queued: int = _QUEUED) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._queue: deque[tuple[float, Fields | msgspec.Struct]] = deque()
        self._most = queued
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="shoal-log", daemon=True)
        self._thread.start()

    def offer(self, fields: "Fields | msgspec.Struct") -> None:
        """Have a line written, or count it as dropped; the time is added. There is at least one field."""
        if len(self._queue) >= self._most:
            self.dropped += 1
            return
        self._queue.append((time.time(), fields))

    @property
    def alive(self) -> bool:
        """Whether lines are still being written."""
        return self._thread.is_alive()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, for at most so many seconds."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while not self._ended.wait(_PAUSE_S):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _TOGETHER))]
            try:
                _write(self._descriptor, _lines(batch))
            except OSError:  # nobody reads the log any more; that must not end the server
                self.dropped += len(batch)


def _lines(batch: Sequence[tuple[float, "Fields | msgspec.Struct"]]) -> bytes:
    """Lines with their times; what is the same for all of a second is written once."""
    lines, second, moment = [], -1, b""
    for at_s, fields in batch:
        if int(at_s) != second:
            second = int(at_s)
            moment = dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        thousandths = int((at_s - second) * 1000)
        lines.append(b'{"time":"%s.%03dZ",%s' % (moment, thousandths, _encoder.encode(fields)[1:]))
    return b"\n".join([*lines, b""])


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


class JsonHandler(logging.Handler):
    """Brings the records of :mod:`logging` to a :class:`LineWriter`.

    Parameters
    ----------
    writer : LineWriter
        Who writes them.
    facts : mapping
        What every line says, e.g. the number of the worker.
    """

    def __init__(self, writer: LineWriter, facts: Fields) -> None:
        super().__init__()
        self._writer = writer
        self._facts = facts

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        fields = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._writer.offer({**fields, **self._facts})


def log_as_json(writer: LineWriter, facts: Fields, *, level: int = logging.INFO) -> None:
    """Have all records of this process written as JSON lines, instead of wherever they went."""
    root = logging.getLogger()
    root.handlers = [JsonHandler(writer, facts)]
    root.setLevel(logging.WARNING)
    ours = logging.getLogger("shoal")
    ours.handlers, ours.propagate = [], True
    ours.setLevel(level)
