"""A closed loop of gRPC calls from a process of its own: ``run(Calls(...))`` gives good answers per second.

gRPC's own client takes as long for a call as a server does, so on a machine with two cores it would be measured as much
as the server. This one speaks just enough HTTP/2 to send one prepared message over and over: frames are bytes in which
only the number of the stream changes, and of an answer the trailers are looked at, which say whether it was a good one.
"""

import asyncio
import struct
import subprocess
import sys
import time
from typing import Final, cast

import msgspec
import uvloop

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEAD: Final = struct.Struct(">HBBBI")
_HEAD_BYTES: Final = 9
_LARGEST_WINDOW: Final = 2**31 - 1
_GOOD: Final = b"\x0bgrpc-status\x010"
"""The trailer as servers of gRPC write it where no table of headers is kept: lengths and texts."""


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """What to call.

    Attributes
    ----------
    port : int
        Where, on the loopback address.
    callers : int
        Calls under way at once.
    channels : int
        Connections they share.
    seconds, warmup_s : float
        How long, and how long before that without counting.
    message : bytes
        The request.
    key : str
        API key; empty for none.
    """

    port: int
    callers: int
    seconds: float
    message: bytes
    channels: int = 4
    warmup_s: float = 1.0
    key: str = ""


def run(calls: Calls) -> float:
    """Good answers per second; any other answer is an error."""
    command = [sys.executable, "-m", "benchmarks.grpc_load"]
    done = subprocess.run(command, input=msgspec.msgpack.encode(calls), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return float(done.stdout)


class _Channel(asyncio.Protocol):
    """One connection with some calls under way."""

    def __init__(self, calls: Calls) -> None:
        self._callers = calls.callers // calls.channels
        headers = _headers(calls)
        body = struct.pack(">BI", 0, len(calls.message)) + calls.message
        self._parts = (
            _frame_head(len(headers), _HEADERS, _END_HEADERS),
            headers + _frame_head(len(body), _DATA, _END_STREAM),
            body,
        )
        self._next = 1
        self._buffer = b""
        self.answers = 0
        self.problem = ""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: no table of headers, and room for all answers there will be."""
        self.transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HIHI", 1, 0, 4, _LARGEST_WINDOW)
        room = struct.pack(">I", _LARGEST_WINDOW - 65_535)
        self.transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, room) + self._calls(self._callers)
        )

    def _calls(self, count: int) -> bytes:
        """The next calls as bytes."""
        headers, data, body = self._parts
        made = []
        for _ in range(count):
            stream = self._next.to_bytes(4, "big")
            made += (headers, stream, data, stream, body)
            self._next += 2
        return b"".join(made)

    def data_received(self, data: bytes) -> None:
        """Take what has come; for each call that has ended, make another."""
        data = self._buffer + data
        at, end, ended = 0, len(data), 0
        while at + _HEAD_BYTES <= end:
            high, low, kind, flags, _ = _HEAD.unpack_from(data, at)
            stop = at + _HEAD_BYTES + (high << 8 | low)
            if stop > end:
                break
            if kind == _HEADERS and flags & _END_STREAM:
                ended += 1
                if data.find(_GOOD, at, stop) < 0:
                    self.problem = f"an answer that is none: {data[at:stop]!r}"
            elif kind not in (_DATA, _HEADERS, _WINDOW):
                self._manage(kind, flags, data[at + _HEAD_BYTES : stop])
            at = stop
        self._buffer = data[at:]
        self.answers += ended
        if ended:
            self.transport.write(self._calls(ended))

    def _manage(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RESET, _GOAWAY):
            self.problem = f"the server ended it: {payload!r}"

    def connection_lost(self, error: Exception | None) -> None:
        """Say so."""
        self.problem = self.problem or f"the connection was lost: {error}"


def _headers(calls: Calls) -> bytes:
    """The headers of a call, each as a literal that no table remembers."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": METHOD,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    if calls.key:
        fields["x-api-key"] = calls.key
    return b"".join([b"\0" + _text(name) + _text(value) for name, value in fields.items()])


def _text(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127, text  # longer ones have another length
    return bytes([len(raw)]) + raw


def _frame_head(size: int, kind: int, flags: int) -> bytes:
    """The head of a frame up to the number of its stream."""
    return struct.pack(">HBBB", size >> 8, size & 255, kind, flags)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _frame_head(len(payload), kind, flags) + struct.pack(">I", stream) + payload


async def _call(calls: Calls) -> float:
    loop = asyncio.get_running_loop()
    channels = [
        (await loop.create_connection(lambda: _Channel(calls), "127.0.0.1", calls.port))[1]
        for _ in range(calls.channels)
    ]
    await asyncio.sleep(calls.warmup_s)
    started, before = time.perf_counter(), sum(channel.answers for channel in channels)
    await asyncio.sleep(calls.seconds)
    taken_s, answers = time.perf_counter() - started, sum(channel.answers for channel in channels) - before
    problem = next((channel.problem for channel in channels if channel.problem), "")
    if problem or not answers:
        raise RuntimeError(problem or "there was no answer")
    return answers / taken_s


def main() -> None:
    """Read the calls from standard input, make them, write how many were answered per second."""
    calls = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Calls)
    sys.stdout.write(str(uvloop.run(_call(calls))))


if __name__ == "__main__":
    main()
