"""``shoal score`` with its records in PostgreSQL: two processes on one run, kills, and a server that restarts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_score_command import ROWS, SHARD_ROWS, Job

from tests.databases import PostgresqlServer

SHARDS = ROWS // SHARD_ROWS


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    server = PostgresqlServer()
    yield server
    server.remove()


@pytest.fixture
def job(tmp_path: Path, server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("SHOAL_DATABASE_URL", server.url(server.create()))
    made = Job(tmp_path, "out.csv")
    assert not list(tmp_path.rglob("*.db"))
    return made


def test_two_processes_share_a_run_one_is_killed_and_the_server_restarts(job: Job, server: PostgresqlServer) -> None:
    first = job.start(held=True)
    job.wait_until(lambda: job.done >= 3, first)
    first.kill()
    first.communicate()
    pair = [job.resume(held=True), job.resume(held=True)]
    try:
        job.wait_until(lambda: {str(process.pid) for process in pair} <= job.workers, *pair)
        pair[0].kill()
        before = job.done
        job.let_go(pair[1])
        job.wait_until(lambda: job.done > before or job.done == SHARDS, pair[1])
        server.stop()
        server.start()
    finally:
        pair[0].communicate()
        _, said = pair[1].communicate(timeout=100)
    if pair[1].returncode != 0:
        assert "check that the database can be reached" in said
        last = job.resume()
        _, said = last.communicate(timeout=100)
        assert last.returncode == 0, said
    job.require_whole()
