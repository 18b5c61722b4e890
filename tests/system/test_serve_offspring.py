"""Workers are forks of the supervisor where that is whole, and fresh interpreters where it would not be."""

import os
import signal
import sys
from pathlib import Path

import pytest
from serve_process import answer_of, children, make_home, post, request, serving, wait_until

INFER = "/v2/models/pumps/infer"
#: A thread that does nothing, then the command line: what a thread holds would never be let go of in a fork.
BESIDE_A_THREAD = """
import sys, threading
from shoal.cli import main
threading.Thread(target=threading.Event().wait, daemon=True).start()
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    make_home(home)
    return home


def name_of(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


def sockets_of(pid):
    """The sockets that a process has open, by their numbers in the system."""
    found = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(one.readlink()))
        except FileNotFoundError:
            continue
    return {name for name in found if name.startswith("socket:")}


def private_bytes(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def test_workers_are_forks_that_share_memory_and_nothing_else(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--workers", "2", "--no-grpc") as server:
        first, second = server.workers()
        assert sorted(map(name_of, (first, second))) == ["shoal-worker-0", "shoal-worker-1"]
        # Nothing but the listening socket is open in both: who held the other's line to the supervisor open would
        # keep it from noticing that the supervisor has died.
        assert len(sockets_of(first) & sockets_of(second)) == 1
        assert all(os.getpgid(pid) == pid for pid in (first, second))  # Ctrl-C is the supervisor's
        whole = sum(map(private_bytes, (first, second)))
        assert whole < 2 * 110 * 2**20, whole  # a fresh interpreter has some 160 MiB of its own
        assert answer_of(post(server.url + INFER, json=request(device=2))) == ("1", pytest.approx(5))
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: first not in server.workers() and len(server.workers()) == 2)
        third = next(pid for pid in server.workers() if pid != second)
        wait_until(lambda: name_of(third).startswith("shoal-worker-"))  # a newborn gives itself its name
        assert server.end() == 0
    assert "Traceback" not in server.news()


def test_beside_a_thread_workers_are_fresh_interpreters(home, tmp_path, monkeypatch):
    monkeypatch.setattr("serve_process.SHOAL", [sys.executable, "-c", BESIDE_A_THREAD])
    with serving(home, tmp_path, "pumps", "--workers", "1", "--no-grpc") as server:
        (worker,) = server.workers()
        assert "shoal.server.worker" in Path(f"/proc/{worker}/cmdline").read_text()
        assert answer_of(post(server.url + INFER, json=request(device=2))) == ("1", pytest.approx(5))
        assert children(worker) == []
        assert server.end() == 0


def test_a_worker_that_is_told_to_end_before_it_has_begun_ends(home, tmp_path):
    """The signal comes while the worker is between a fork and its own ears."""
    with serving(home, tmp_path, "pumps", "--no-grpc") as server:
        for _ in range(3):
            before = wait_until(server.workers)
            os.kill(before[0], signal.SIGKILL)
            (born,) = wait_until(lambda before=before: server.workers() != before and server.workers())
            os.kill(born, signal.SIGTERM)
            wait_until(lambda born=born: born not in server.workers())
        with server.client() as client:
            wait_until(lambda: "shoal_workers_ready 1.0" in client.get("/metrics").text)
        assert server.end() == 0
