"""A real server on free loopback ports, and a fleet that it serves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from sklearn.linear_model import Ridge

import shoal

FEATURES = ("a", "b")
SLOPES = {1: 1.0, 2: 2.0}
_PATIENCE_S = 60
#: A server that finds no kernels compiles all of them before it is ready, each of its workers where nothing is kept.
_STARTING_S = 240
SHOAL = [sys.executable, "-c", "import sys; from shoal.cli import main; main(sys.argv[1:])"]


def make_home(home: Path) -> None:
    """A workspace with two snapshots of ``pumps``; each answers ``slope * (a + b)`` plus the device's number."""
    X = np.random.default_rng(0).normal(size=(30, 2))
    with shoal.open(home) as workspace:
        for slope in SLOPES.values():
            models = {(f"d{number}",): Ridge(alpha=1e-9).fit(X, slope * X.sum(axis=1) + number) for number in range(5)}
            fleet = shoal.Fleet.from_estimators(
                keys=["device"], models=models, features=list(FEATURES), task="regression", name="pumps"
            )
            workspace.register(fleet)
        workspace.promote("pumps", 1)


def request(device: int = 1, a: float = 1.0, b: float = 2.0) -> dict[str, object]:
    """A request for one row."""
    numbers = [{"name": n, "datatype": "FP64", "shape": [1], "data": [v]} for n, v in (("a", a), ("b", b))]
    return {"inputs": [{"name": "device", "datatype": "BYTES", "shape": [1], "data": [f"d{device}"]}, *numbers]}


def answer_of(response: httpx.Response) -> tuple[str, float]:
    """Version and prediction."""
    told = response.json()
    return told["model_version"], next(one for one in told["outputs"] if one["name"] == "prediction")["data"][0]


@dataclass
class Server:
    process: "subprocess.Popen[bytes]"
    home: Path
    log: Path
    url: str = ""
    grpc: str | None = None
    admin_url: str | None = None

    def wait(self) -> None:
        """Wait until it is ready."""
        ready = self.log.with_name("ready.json")
        wait_until(lambda: ready.exists() or self.process.poll() is not None, _STARTING_S)
        assert ready.exists(), self.news()
        told = json.loads(ready.read_text())
        self.url, self.grpc, self.admin_url = told["url"], told["grpc"], told["admin_url"]

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"x-api-key": key} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=_PATIENCE_S, trust_env=False)

    def workers(self) -> list[int]:
        """Process ids of what the supervisor has started."""
        return children(self.process.pid)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_PATIENCE_S)

    def news(self) -> str:
        return self.log.read_text()


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(check, patience_s: float = _PATIENCE_S):
    """Wait for something to become true, and return it."""
    deadline_s = time.monotonic() + patience_s
    while not (found := check()):
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.02)
    return found


def get(url: str, **options) -> httpx.Response:
    """Ask on a new connection, with patience."""
    return httpx.get(url, timeout=_PATIENCE_S, **options)


def post(url: str, **options) -> httpx.Response:
    """Send on a new connection, with patience."""
    return httpx.post(url, timeout=_PATIENCE_S, **options)


def with_constants(constants: Mapping[str, object]) -> list[str]:
    """The command line, with other values for some constants, ``module.NAME``; workers are forks and have them too.

    For times that are up when a process is held up: what happens within them is tested, not how long they are.
    """
    lines = ["import sys", "from shoal.cli import main"]
    for name, value in constants.items():
        has_to_be_there = name
        lines += [f"import {name.rpartition('.')[0]}", has_to_be_there, f"{name} = {value!r}"]
    return [sys.executable, "-c", "\n".join([*lines, "main(sys.argv[1:])"])]


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*SHOAL, "--home", str(home), *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def starting(
    home: Path,
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    port: int = 0,
    grpc_port: int = 0,
    before: Callable[[], None] | None = None,
) -> Iterator[Server]:
    """A server that has just been started, ended at the end if it has not been before; it does ``before`` first."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = ["--port", str(port), *(["--grpc-port", str(grpc_port)] if "--no-grpc" not in arguments else [])]
    line = [*SHOAL, "--home", str(home), "serve", *arguments, *ports]
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*line, "--ready-file", str(folder / "ready.json")],
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            preexec_fn=before,
        )
    try:
        yield Server(process, home, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextlib.contextmanager
def serving(home: Path, folder: Path, *arguments: str, **options) -> Iterator[Server]:
    """A server that is ready; the options are those of :func:`starting`."""
    with starting(home, folder, *arguments, **options) as server:
        server.wait()
        yield server
