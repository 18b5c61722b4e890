"""The production shape: several servers with several workers each on one PostgreSQL, and all are of one mind."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from serve_process import SLOPES, Server, make_home, starting, wait_until

import shoal

INFER = "/v2/models/pumps/infer"
ROWS = 5
PROMOTIONS = 6
PER_WORKER = 2
PAUSE_S = 0.005


@pytest.fixture
def place(tmp_path, postgresql_databases, monkeypatch):
    """A workspace on PostgreSQL, and two servers on it with two workers each."""
    monkeypatch.setenv("SHOAL_DATABASE_URL", postgresql_databases.migrated())
    make_home(tmp_path / "home")
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(shoal.open(tmp_path / "home"))
        servers = [
            stack.enter_context(starting(tmp_path / "home", tmp_path / name, "--workers", "2", "--no-grpc"))
            for name in ("one", "two")
        ]
        for server in servers:
            server.wait()
        yield workspace, servers


def body():
    """Rows of as many models, so that an answer from two snapshots would show."""
    numbers = [
        {"name": name, "datatype": "FP64", "shape": [ROWS], "data": [value] * ROWS}
        for name, value in (("a", 1.0), ("b", 2.0))
    ]
    devices = {"name": "device", "datatype": "BYTES", "shape": [ROWS], "data": [f"d{n}" for n in range(ROWS)]}
    return {"inputs": [devices, *numbers]}


def version_of(answer):
    """The version that an answer names, after all of its rows were found to be of it."""
    version = int(answer["model_version"])
    predictions = next(one["data"] for one in answer["outputs"] if one["name"] == "prediction")
    assert predictions == pytest.approx([SLOPES[version] * 3.0 + n for n in range(ROWS)]), answer
    return version


@dataclass
class Caller:
    """Asks the worker at the other end of its connection, again and again: ``told`` has when, and which version."""

    server: Server
    connection: http.client.HTTPConnection
    worker: int = 0
    told: list[tuple[float, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def ask(self, stop: threading.Event) -> None:
        content = json.dumps(body())
        while not stop.wait(PAUSE_S):
            asked_s = time.monotonic()
            try:
                self.connection.request("POST", INFER, content, {"content-type": "application/json"})
                response = self.connection.getresponse()
                answer = json.loads(response.read())
                assert response.status == 200, answer
                self.told.append((asked_s, version_of(answer)))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failed.append(repr(error))
                return


def caller_of(server):
    """A caller on a new connection, and which worker has taken that."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("GET", "/v2/health/live")
    connection.getresponse().read()
    port = connection.sock.getsockname()[1]
    ends = {
        one.raddr.port: pid for pid in server.workers() for one in psutil.Process(pid).net_connections() if one.raddr
    }
    return Caller(server, connection, ends[port])


@contextlib.contextmanager
def callers_of(server):
    """So many callers of each worker; which worker takes a connection is for the system to say."""
    found: list[Caller] = []
    counts: Counter[int] = Counter()

    def enough():
        one = caller_of(server)
        if counts[one.worker] < PER_WORKER:
            counts[one.worker] += 1
            found.append(one)
        else:
            one.connection.close()
        return all(counts[pid] == PER_WORKER for pid in server.workers())

    try:
        wait_until(enough)
        yield found
    finally:
        for one in found:
            one.connection.close()


@contextlib.contextmanager
def asking(callers):
    stop = threading.Event()
    threads = [threading.Thread(target=one.ask, args=(stop,)) for one in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_servers_on_one_database_are_of_one_mind_and_take_over_from_each_other(place):
    """One test, for it is the servers' start that takes time."""
    workspace, servers = place
    with contextlib.ExitStack() as stack:
        callers = [one for server in servers for one in stack.enter_context(callers_of(server))]
        assert len({one.worker for one in callers}) == 4
        stack.enter_context(asking(callers))
        wait_until(lambda: all(one.told or one.failed for one in callers))
        lags_s = [lag_s(workspace, callers, 2 - number % 2) for number in range(PROMOTIONS)]
    assert [one.failed for one in callers] == [[]] * len(callers)
    # A promise about servers, not about what else the machine has to do: so the best counts, and none may be far off.
    assert min(lags_s) < 1, lags_s
    assert max(lags_s) < 5, lags_s
    require_takeover(workspace, *servers)


def lag_s(workspace, callers, version):
    """Promote; how long after its commit the last request was sent that an older version answered, in seconds."""
    workspace.promote("pumps", version)
    committed_s = time.monotonic()
    wait_until(lambda: all(one.failed or one.told[-1][1] == version for one in callers))
    return max(asked_s for one in callers for asked_s, told in one.told if told != version) - committed_s


def require_takeover(workspace, killed, other):
    """Have a server killed that has accepted requests, all of it; the other one completes them."""
    accepted: list[str] = []
    threads = [threading.Thread(target=accept, args=(killed, number, accepted)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 50)
    kill_at_work(killed, lambda: any(not one.is_settled for one in workspace.predictions.listed(limit=10_000)))
    for thread in threads:
        thread.join()
    assert len(set(accepted)) == len(accepted)
    with other.client() as client:
        for prediction in accepted:
            path = f"/api/v1/predictions/{prediction}?timeout=2"
            shown = wait_until(lambda path=path: (r := client.get(path)).status_code == 200 and r.json())
            assert (shown["state"], version_of(shown["response"])) == ("done", 1)
        failed = wait_until(lambda: (r := client.get("/api/v1/predictions?state=failed")).status_code == 200 and r)
        assert failed.json() == []


def accept(server, number, accepted):
    """Ask for later, one after the other, until the server is gone; some in the order of a key."""
    headers = {"ordering-key": str(number)} if number % 2 else {}
    with server.client() as client, contextlib.suppress(httpx.TransportError):
        while True:
            answer = client.post(f"{INFER}/async", json=body(), headers=headers)
            if answer.status_code == 503 and "the registry does not answer just now" in answer.text:
                continue  # PostgreSQL may be held up; nothing was kept, or nobody knows, as after a kill
            assert answer.status_code == 202, answer.text
            accepted.append(answer.json()["id"])


def kill_at_work(server, is_busy):
    """Kill a server and its workers while something is not done, as can only be seen while they stand still."""
    family = [server.process.pid, *server.workers()]

    def stopped():
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        if is_busy():
            return True
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped)
    for pid in family:
        os.kill(pid, signal.SIGKILL)


def test_a_database_that_may_forget_in_a_power_cut_is_warned_of(postgresql_databases, tmp_path):
    url = postgresql_databases.migrated()
    with starting(tmp_path / "home", tmp_path / "s", "--no-grpc", environment={"SHOAL_DATABASE_URL": url}) as server:
        wait_until(lambda: "fsync and synchronous_commit switched off" in server.news())
    with starting(tmp_path / "other", tmp_path / "t", "--no-grpc") as server:  # on SQLite
        wait_until(lambda: "No API keys" in server.news())
        assert "switched off" not in server.news()
