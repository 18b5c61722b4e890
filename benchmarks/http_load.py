"""A load of HTTP requests from a process of its own: ``run(Load(...))``.

It speaks just enough HTTP/1.1 to keep connections busy with prepared bytes, so that the server is what is measured.
Closed loop: every connection sends its next request when it has its answer. Open loop (``rate``): requests are due at
fixed times, whatever the server does, and their latency counts from when they were due, so that a server that stalls
cannot hide it.
"""

import asyncio
import itertools
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, cast

import msgspec
import uvloop

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"transfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send.

    Attributes
    ----------
    port : int
        Where to, on the loopback address.
    connections : int
        How many are kept open.
    seconds : float
        How long, after the warm-up.
    warmup_s : float
        How long before that, not counted.
    requests : list of bytes
        Whole requests; taken in turns.
    rate : float or None
        Requests per second of an open loop; None for a closed one.
    good : int
        Status of an answer that counts.
    """

    port: int
    connections: int
    seconds: float
    requests: list[bytes]
    warmup_s: float = 1.0
    rate: float | None = None
    good: int = 200


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes
    ----------
    answers : int
        Answers with the status that counts.
    refused : int
        Other answers.
    broken : int
        Connections that ended without an answer.
    seconds : float
        How long it took.
    latencies_s : list of float
        0, 50, 90, 99, 99.9 and 100 per cent of the answers took no longer, in seconds.
    example : str
        Beginning of one body, to look at; of a refusal where there was one.
    """

    answers: int
    refused: int
    broken: int
    seconds: float
    latencies_s: list[float]
    example: str

    @property
    def per_second(self) -> float:
        """Good answers per second."""
        return self.answers / self.seconds

    @property
    def p99_s(self) -> float:
        """99 per cent of the answers took no longer, in seconds."""
        return self.latencies_s[3]


def run(load: Load) -> Outcome:
    """Send a load from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.http_load"]
    done = subprocess.run(command, input=msgspec.msgpack.encode(load), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return msgspec.msgpack.decode(done.stdout, type=Outcome)


class _Tally:
    """What all connections of a load share."""

    def __init__(self, load: Load) -> None:
        self.requests: Iterator[bytes] = itertools.cycle(load.requests)
        self.closed = load.rate is None
        self.good = str(load.good).encode()
        self.counting = False
        self.stopped = False
        self.answers = self.refused = self.broken = 0
        self.latencies: list[float] = []
        self.example = ""
        self.due: deque[float] = deque()
        self.idle: deque[_Connection] = deque()

    def answered(self, data: bytes, end: int, took_s: float) -> None:
        """Count an answer, whose head ends there."""
        if not self.counting:
            return
        status = data[9:12]
        if status == self.good:
            self.answers += 1
            self.latencies.append(took_s)
            if not self.example:
                self.example = data[end + len(_END) :][:300].decode("utf-8", "replace")
        else:
            self.refused += 1
            self.example = f"{status.decode()}: {data[end + len(_END) :][:300].decode('utf-8', 'replace')}"


class _Connection(asyncio.Protocol):
    """One connection, with one request under way at most."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._buffer = b""
        self._since_s = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self._next(time.perf_counter())

    def send(self, due_s: float) -> None:
        """Send the next request, which was due at this time."""
        self._since_s = due_s
        self.transport.write(next(self._tally.requests))

    def _next(self, now_s: float) -> None:
        tally = self._tally
        if tally.stopped:
            return
        if tally.closed:
            self.send(now_s)
        elif tally.due:
            self.send(tally.due.popleft())
        else:
            tally.idle.append(self)

    def data_received(self, data: bytes) -> None:
        """Take what has come, and go on when it is a whole answer; most come in one piece."""
        if self._buffer:
            data = self._buffer + data
        end = data.find(_END)
        if end < 0 or len(data) < _whole(data, end):
            self._buffer = data
            return
        self._buffer = b""
        now_s = time.perf_counter()
        self._tally.answered(data, end, now_s - self._since_s)
        self._next(now_s)

    def connection_lost(self, _error: Exception | None) -> None:
        """Count what was under way."""
        if not self._tally.stopped:
            self._tally.broken += 1


def _whole(data: bytes, end: int) -> int:
    """How long an answer is whose head ends there, as far as that can be told yet."""
    length = _LENGTH.search(data, 0, end)
    if length is not None:
        return end + len(_END) + int(length[1])
    if _CHUNKED.search(data, 0, end) is None:
        return end + len(_END)
    last = data.find(_LAST_CHUNK, end)
    return last + len(_LAST_CHUNK) if last >= 0 else len(data) + 1


async def _send(load: Load) -> Outcome:
    loop, tally = asyncio.get_running_loop(), _Tally(load)
    made = [
        await loop.create_connection(lambda: _Connection(tally), "127.0.0.1", load.port)
        for _ in range(load.connections)
    ]
    ticking = asyncio.create_task(_tick(tally, load.rate)) if load.rate is not None else None
    await asyncio.sleep(load.warmup_s)
    started, tally.counting = time.perf_counter(), True
    await asyncio.sleep(load.seconds)
    took_s, tally.counting, tally.stopped = time.perf_counter() - started, False, True
    if ticking is not None:
        ticking.cancel()
    for transport, _ in made:
        transport.close()
    return Outcome(
        answers=tally.answers,
        refused=tally.refused,
        broken=tally.broken,
        seconds=took_s,
        latencies_s=_quantiles(sorted(tally.latencies)),
        example=tally.example,
    )


async def _tick(tally: _Tally, rate: float) -> None:
    """Make requests due, at even times; those that find no idle connection wait, and their latency runs."""
    started, count = time.perf_counter(), 0
    while True:
        now = time.perf_counter()
        while started + count / rate <= now:
            tally.due.append(started + count / rate)
            count += 1
        while tally.due and tally.idle:
            tally.idle.popleft().send(tally.due.popleft())
        await asyncio.sleep(max(0.0, min(0.001, started + count / rate - time.perf_counter())))


def _quantiles(latencies: list[float]) -> list[float]:
    if not latencies:
        return [0.0] * 6
    last = len(latencies) - 1
    return [latencies[round(share * last)] for share in (0, 0.5, 0.9, 0.99, 0.999, 1)]


def main() -> None:
    """Read a load from standard input, send it, write what came of it."""
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.msgpack.encode(uvloop.run(_send(load))))


if __name__ == "__main__":
    main()
