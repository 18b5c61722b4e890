"""Clients that never give up: each asks at even times, checks what it is told, and asks again where it may have to.

A connection that ends, and 503 with ``Retry-After``, are what a client of a real server has to live with. Everything
else the checker hears of.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import grpc
import msgspec
import numpy as np

from benchmarks.grpc_load import METHOD
from benchmarks.servers import Server
from benchmarks.soak_checker import DEVICE_UNIT, FLEET, Checker
from shoal.server.grpc import inference_pb2 as pb

PATH: Final = f"/v2/models/{FLEET}/infer"
ROWS: Final = 20
_WHOLE: Final = 1000
_PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 0.02
_BEHIND_S: Final = 1.0
_ALLOWED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A request that was prepared.

    Attributes
    ----------
    body : bytes
        As JSON.
    message : bytes
        The same for gRPC.
    offsets : tuple of float
        What each row's prediction has to be beyond its version's part.
    """

    body: bytes
    message: bytes
    offsets: tuple[float, ...]


def questions(devices: int, count: int = 2000, seed: int = 3) -> list[Question]:
    """Requests about random rows: of three, two have one row and one has twenty."""
    chance = random.Random(seed)
    return [_question(chance, devices, ROWS if number % 3 == 2 else 1) for number in range(count)]


def _question(chance: random.Random, devices: int, rows: int) -> Question:
    asked = [(chance.randrange(devices), float(chance.randrange(_WHOLE))) for _ in range(rows)]
    names, values = [f"d{device}" for device, _ in asked], [x for _, x in asked]
    inputs = [
        {"name": "device", "datatype": "BYTES", "shape": [rows], "data": names},
        {"name": "x", "datatype": "FP64", "shape": [rows], "data": values},
    ]
    message = pb.ModelInferRequest(model_name=FLEET)
    device = message.inputs.add(name="device", datatype="BYTES", shape=[rows])
    device.contents.bytes_contents.extend(name.encode() for name in names)
    message.inputs.add(name="x", datatype="FP64", shape=[rows]).contents.fp64_contents.extend(values)
    return Question(
        body=msgspec.json.encode({"inputs": inputs}),
        message=message.SerializeToString(),
        offsets=tuple([device * DEVICE_UNIT + x for device, x in asked]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection that is opened again whenever it ends.

    Parameters
    ----------
    server : Server
        Where to.
    name : str
        The server's, for the checker.
    checker : Checker
        Hears of connections that end.
    """

    def __init__(self, server: Server, name: str, checker: Checker) -> None:
        self._server = server
        self._name = name
        self._checker = checker
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked_s = time.monotonic()

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[_Reply, float]:
        """The reply to a request that is sent until it has one, and when it was sent the last time."""
        given = {"Content-Type": "application/json", "X-API-Key": self._server.key, **(headers or {})}
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        wanted_s = time.monotonic()
        while True:
            sent_s = time.monotonic()
            try:
                reply = await asyncio.wait_for(self._exchange(request), _PATIENCE_S)
            except TimeoutError:
                self.close()
                self._checker.broken("no answer in a minute", f"{method} {path} to {self._name}")
                continue
            except (OSError, EOFError):
                self.close()
                self._checker.reset(self._name, self._asked_s)
                await asyncio.sleep(_PAUSE_S)
                continue
            heard_s, self._asked_s = time.monotonic(), sent_s
            if reply.headers.get("connection") == "close":
                self.close()
            if reply.status < HTTPStatus.BAD_REQUEST:
                self._checker.took(heard_s - wanted_s)
                return reply, sent_s
            again = reply.headers.get("retry-after")
            self._checker.refused(reply.status, again is not None, reply.body[:300].decode("utf-8", "replace"))
            await asyncio.sleep(min(float(again or 1), 1.0))

    async def _exchange(self, request: bytes) -> _Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._server.port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        return _Reply(status=int(first.split(" ", 2)[1]), headers=headers, body=body)

    def close(self) -> None:
        """End it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def evenly(interval_s: float, stopping: asyncio.Event) -> AsyncIterator[int]:
    """Numbers at even times until it stops; after a stall it goes on from there and does not catch up."""
    due_s = time.monotonic() + random.random() * interval_s
    for number in itertools.count():
        now_s = time.monotonic()
        if now_s < due_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), due_s - now_s)
        if stopping.is_set():
            return
        yield number
        due_s = max(due_s + interval_s, time.monotonic() - _BEHIND_S)


async def ask_at_once(
    connection: Connection, checker: Checker, asked: Sequence[Question], interval_s: float, stopping: asyncio.Event
) -> None:
    """Predict over REST until it stops."""
    chosen = itertools.cycle(random.sample(asked, len(asked)))
    with contextlib.closing(connection):
        async for _ in evenly(interval_s, stopping):
            question = next(chosen)
            reply, sent_s = await connection.ask("POST", PATH, question.body)
            checker.answered(reply.body, question.offsets, sent_s)


async def call(
    server: Server,
    name: str,
    checker: Checker,
    asked: Sequence[Question],
    interval_s: float,
    stopping: asyncio.Event,
) -> None:
    """Predict over gRPC until it stops."""
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    )
    chosen = itertools.cycle(random.sample(asked, len(asked)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
        stub = channel.unary_unary(METHOD)
        asked_s = time.monotonic()
        async for _ in evenly(interval_s, stopping):
            question = next(chosen)
            answer, sent_s = await _called(stub, (("x-api-key", server.key),), question, checker, name, asked_s)
            asked_s = sent_s
            checker.judge(answer.model_version, _predictions(answer), question.offsets, sent_s)
            checker.findings.calls += 1


async def _called(
    stub: Callable[..., Awaitable[bytes]],
    metadata: Sequence[tuple[str, str]],
    question: Question,
    checker: Checker,
    name: str,
    asked_s: float,
) -> tuple[pb.ModelInferResponse, float]:
    while True:
        sent_s = time.monotonic()
        try:
            answer = await stub(question.message, metadata=metadata, timeout=_PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in _ALLOWED:
                checker.reset(name, asked_s)
            else:
                checker.broken(f"gRPC {error.code().name}", error.details() or "")
            await asyncio.sleep(_PAUSE_S)
            continue
        return pb.ModelInferResponse.FromString(answer), sent_s


def _predictions(answer: pb.ModelInferResponse) -> list[float]:
    place = [output.name for output in answer.outputs].index("prediction")
    values: list[float] = np.frombuffer(answer.raw_output_contents[place], dtype="<f8").tolist()
    return values


async def ask_for_later(
    connection: Connection,
    checker: Checker,
    asked: Sequence[Question],
    interval_s: float,
    stopping: asyncio.Event,
    accepted: "asyncio.Queue[str]",
    client: str,
) -> None:
    """Have requests accepted until it stops; one that had to be sent again is the same by its idempotency key."""
    chosen = itertools.cycle(random.sample(asked, len(asked)))
    with contextlib.closing(connection):
        async for number in evenly(interval_s, stopping):
            question, key = next(chosen), f"{client}-{number}"
            began_s = time.monotonic()
            later = {"Prefer": "respond-async", "Idempotency-Key": key}
            reply, _ = await connection.ask("POST", PATH, question.body, later)
            if reply.status != HTTPStatus.ACCEPTED:
                checker.broken("a request that was to be accepted was not", f"{reply.status} {reply.body[:200]!r}")
                continue
            prediction_id = reply.headers["location"].rpartition("/")[2]
            checker.accepted(prediction_id, key, question.offsets, began_s)
            accepted.put_nowait(prediction_id)


async def fetch(connection: Connection, checker: Checker, accepted: "asyncio.Queue[str]") -> None:
    """Wait for the answers to accepted requests, one after the other, for ever."""
    with contextlib.closing(connection):
        while True:
            prediction_id = await accepted.get()
            path = f"/api/v1/predictions/{prediction_id}?timeout=0.5"
            while (reply := (await connection.ask("GET", path))[0]).status != HTTPStatus.OK:
                pass
            checker.done(prediction_id, reply.body)
