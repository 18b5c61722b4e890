"""Far more clients than a server takes on: refused in words or answered rightly, and memory stays flat."""

import asyncio
import itertools
import json
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
import uvloop
from serve_process import answer_of, get, make_home, request, serving, wait_until

INFER = "/v2/models/pumps/infer"
ROWS, BODIES = 400, 16
PATIENT, HASTY, HASTE_S = 200, 100, 0.25
REQUESTS = 16
SAMPLES, SAMPLE_S = 32, 0.25
MEGABYTE = 2**20


def bodies():
    """Requests of many rows, each with what it has to be answered."""
    chance = np.random.default_rng(5)
    for _ in range(BODIES):
        devices, numbers = chance.integers(5, size=ROWS), chance.normal(size=(2, ROWS))
        inputs = [
            {"name": "device", "datatype": "BYTES", "shape": [ROWS], "data": [f"d{device}" for device in devices]},
            *(
                {"name": name, "datatype": "FP64", "shape": [ROWS], "data": values.tolist()}
                for name, values in zip("ab", numbers, strict=True)
            ),
        ]
        yield json.dumps({"inputs": inputs}).encode(), numbers.sum(axis=0) + devices


class Crowd:
    """Clients of two kinds that ask again as soon as they can, whatever they are told.

    The patient wait for each answer on a connection that they keep; the hasty hang up on whoever does not answer in a
    moment, and come again.
    """

    def __init__(self, url):
        self.address = urlsplit(url)
        self.asked = itertools.cycle(bodies())
        self.told = Counter()
        self.gave_up = 0
        self.wrong = []
        self.stopping = asyncio.Event()

    async def patient(self):
        reader, writer = await self.connect()
        while not self.stopping.is_set():
            await self.ask(reader, writer)
        writer.close()

    async def hasty(self):
        while not self.stopping.is_set():
            reader, writer = await self.connect()
            try:
                async with asyncio.timeout(HASTE_S):
                    while not self.stopping.is_set():
                        await self.ask(reader, writer)
            except TimeoutError:
                self.gave_up += 1
            writer.transport.abort()

    async def connect(self):
        return await asyncio.open_connection(self.address.hostname, self.address.port)

    async def ask(self, reader, writer):
        body, expected = next(self.asked)
        head = f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        document = msgspec.json.decode(await reader.readexactly(int(headers["content-length"])))
        status = int(first.split()[1])
        self.told[status] += 1
        if not (self.is_right(document, expected) if status == 200 else self.is_refusal(status, headers, document)):
            self.wrong.append((status, headers, str(document)[:500]))

    @staticmethod
    def is_right(document, expected):
        values = next(one["data"] for one in document["outputs"] if one["name"] == "prediction")
        return np.allclose(values, expected, rtol=0, atol=1e-6)

    @staticmethod
    def is_refusal(status, headers, document):
        return status == 503 and int(headers["retry-after"]) >= 1 and "try again in" in document["error"]


async def overload(url, worker):
    """Let the crowd in; what it was told, and the worker's memory meanwhile, in bytes."""
    crowd, samples = Crowd(url), []
    kinds = [crowd.patient] * PATIENT + [crowd.hasty] * HASTY
    async with asyncio.TaskGroup() as group:
        for kind in kinds:
            group.create_task(kind())
        for _ in range(SAMPLES):
            await asyncio.sleep(SAMPLE_S)
            samples.append(own_bytes(worker))
        crowd.stopping.set()
    return crowd, samples


def own_bytes(pid):
    """Memory that a process has for itself, in bytes; what it maps is everybody's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def test_memory_stays_flat_and_refusals_are_clear_where_far_more_ask_than_are_taken_on(tmp_path):
    make_home(tmp_path / "home")
    with serving(tmp_path / "home", tmp_path, "pumps", "--no-grpc", "--max-requests", str(REQUESTS)) as server:
        [worker] = server.workers()
        crowd, samples = uvloop.run(overload(server.url, worker))
        wait_until(lambda: "shoal_requests_under_way 1.0" in get(server.url + "/metrics").text)
        with server.client() as client:
            assert answer_of(client.post(INFER, json=request())) == ("1", pytest.approx(4))
        assert server.workers() == [worker]
        assert server.end() == 0
        assert "Traceback" not in server.news()
    assert crowd.wrong == []
    assert set(crowd.told) == {200, 503}
    assert crowd.gave_up > 0
    assert max(samples[SAMPLES // 2 :]) - max(samples[: SAMPLES // 2]) < 30 * MEGABYTE
