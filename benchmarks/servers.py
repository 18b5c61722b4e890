"""Servers for the races: Shoal's own and those of other makers, each started, waited for, and stopped."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import msgspec
from sklearn.base import BaseEstimator

PROGRAMS = Path(sys.prefix) / "bin"
PEERS = Path(f"{sys.prefix}-peers") / "bin"
"""Programs of other makers live in an environment of their own."""

STARTING_S = 300.0
ENDING_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that can be asked.

    Attributes
    ----------
    port, grpc_port : int
        Of HTTP and gRPC, on the loopback address; 0 where there is none.
    pid : int
        The process that was started.
    ready_s : float
        How long it took from its start until it could be asked, in seconds.
    key : str
        The API key that it wants; empty where it wants none.
    """

    port: int
    grpc_port: int = 0
    pid: int
    ready_s: float
    key: str = ""

    def request(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
        """A whole HTTP request with a JSON body."""
        content = msgspec.json.encode(body)
        own = {"X-API-Key": self.key} if self.key else {}
        given = {"Content-Type": "application/json", "Content-Length": str(len(content)), **own, **(headers or {})}
        lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@contextlib.contextmanager
def shoal(home: Path, fleets: Sequence[str], *options: str, key: str = "", database: str = "") -> Iterator[Server]:
    """Shoal's server.

    Parameters
    ----------
    home : Path
        The workspace.
    fleets : sequence of str
        What to serve.
    options : str
        More of ``shoal serve``.
    key : str
        An API key of the workspace.
    database : str
        Its URL, where it is not the home's own.
    """
    ready = home / f"ready-{time.monotonic_ns()}.json"
    ports = ["--port", "0", "--ready-file", str(ready)]
    if "--no-grpc" not in options:
        ports += ["--grpc-port", "0"]
    environment = {"SHOAL_HOME": str(home), **({"SHOAL_DATABASE_URL": database} if database else {})}
    with _running([PROGRAMS / "shoal", "serve", *fleets, *ports, *options], environment) as (process, started):
        while not ready.exists():
            _require_alive(process, started)
            time.sleep(0.002)
        taken_s = time.perf_counter() - started
        said = json.loads(ready.read_text())
        yield Server(
            port=int(said["url"].rpartition(":")[2]),
            grpc_port=int(said["grpc"].rpartition(":")[2]) if said.get("grpc") else 0,
            pid=process.pid,
            ready_s=taken_s,
            key=key,
        )


@contextlib.contextmanager
def mlserver(models: Mapping[str, BaseEstimator]) -> Iterator[Server]:
    """MLServer with its scikit-learn runtime, in one process, as its settings allow."""
    with tempfile.TemporaryDirectory() as name:
        folder, port, grpc_port, metrics_port = Path(name), free_port(), free_port(), free_port()
        settings = {"http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port, "host": "127.0.0.1"}
        quiet = {"parallel_workers": 0, "debug": False}
        (folder / "settings.json").write_text(json.dumps({**settings, **quiet}))
        for model, estimator in models.items():
            (folder / model).mkdir()
            joblib.dump(estimator, folder / model / "model.joblib")
            described = {"name": model, "implementation": "mlserver_sklearn.SKLearnModel"}
            parameters = {"uri": str(folder / model / "model.joblib"), "version": "1"}
            (folder / model / "model-settings.json").write_text(json.dumps({**described, "parameters": parameters}))
        with _running([PEERS / "mlserver", "start", str(folder)], {"MLSERVER_LOGGING_SETTINGS": ""}) as (
            process,
            began,
        ):
            taken_s = _answering(process, began, port, "/v2/health/ready")
            yield Server(port=port, grpc_port=grpc_port, pid=process.pid, ready_s=taken_s)


@contextlib.contextmanager
def fastapi(estimator: BaseEstimator) -> Iterator[Server]:
    """FastAPI and pydantic before one joblib file."""
    with tempfile.TemporaryDirectory() as name:
        path, port = Path(name) / "model.joblib", free_port()
        joblib.dump(estimator, path)
        command = [sys.executable, "-m", "benchmarks.peer_servers.fastapi_app", str(path), str(port)]
        with _running(command, {}) as (process, started):
            taken_s = _answering(process, started, port, "/openapi.json")
            yield Server(port=port, pid=process.pid, ready_s=taken_s)


@contextlib.contextmanager
def ray_serve(models: Mapping[str, BaseEstimator]) -> Iterator[Server]:
    """Ray Serve with model multiplexing over joblib files: its proxy and one replica."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        for model, estimator in models.items():
            joblib.dump(estimator, folder / f"{model}.joblib")
        command = [sys.executable, "-m", "benchmarks.peer_servers.ray_app", str(folder), str(port)]
        with _running(command, {"RAY_SERVE_ENABLE_TASK_EVENTS": "0"}) as (process, started):
            taken_s = _answering(process, started, port, "/-/healthz")
            yield Server(port=port, pid=process.pid, ready_s=taken_s)


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def family(pid: int) -> list[int]:
    """A process and all that it started, by /proc."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def pss_bytes(pid: int) -> int:
    """Memory of a process and all that it started, shared pages counted once, in bytes."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


@contextlib.contextmanager
def _running(
    command: Sequence[str | Path], environment: Mapping[str, str]
) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    """A process in a session of its own, with when it was started; what it says goes to a file that nobody keeps."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, **environment},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            yield process, started
        except BaseException:
            said.seek(0)
            sys.stderr.buffer.write(said.read()[-4000:])
            raise
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):  # what it started and did not end
        os.killpg(process.pid, signal.SIGKILL)


def _answering(process: "subprocess.Popen[bytes]", started: float, port: int, path: str) -> float:
    """Wait until a path answers 200; how long it took since the start, in seconds."""
    while True:
        _require_alive(process, started)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == http.client.OK:
                    return time.perf_counter() - started
            finally:
                connection.close()
        time.sleep(0.01)


def _require_alive(process: "subprocess.Popen[bytes]", started: float) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it was ready")
    if time.perf_counter() - started > STARTING_S:
        raise RuntimeError(f"{process.args!r} was not ready after {STARTING_S:.0f} s")
