"""The real ``shoal score``, killed and interrupted while it works: whatever happens, every row is there once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from score_world import expected, leftovers, make_home, rows

import shoal
from shoal.jobs.states import RunState, ShardState

ROWS, SHARD_ROWS = 8_000, 40
CALL = "import sys; from shoal.cli import main; main(sys.argv[1:])"
HELD = """
import os, sys, threading, time
from shoal.batch import worker
from shoal.cli import main

score, give_up = worker.score_shard, worker.Crew._give_up
free, ends = threading.Semaphore(5), threading.Event()

def held(work, claim):
    while not (free.acquire(blocking=False) or ends.is_set() or os.path.exists(os.environ["GATE"])):
        time.sleep(0.005)
    return score(work, claim)

def giving_up(self, error):
    give_up(self, error)
    ends.set()

worker.score_shard, worker.Crew._give_up = held, giving_up
main(sys.argv[1:])
"""
"""After five shards it waits in the middle of others until it is let go or interrupted: however long whoever does that
is kept from it, it comes in time."""


class Job:
    """A job that some processes work on, one after the other or side by side."""

    def __init__(self, folder: Path, name: str) -> None:
        self.home, self.output, self.source = folder / "home", folder / name, folder / "in.parquet"
        self._gates: dict[subprocess.Popen[str], Path] = {}
        make_home(self.home)
        self.ledger = shoal.open(self.home).ledger
        rows(ROWS).write_parquet(self.source, row_group_size=5000)

    def start(self, *, held: bool = False) -> subprocess.Popen[str]:
        words = ("score", "pumps", "--input", self.source, "--output", self.output, "--shard-rows", SHARD_ROWS)
        return self._process(*words, held=held)

    def resume(self, *, held: bool = False) -> subprocess.Popen[str]:
        return self._process("score", "--resume", self.run, held=held)

    def _process(self, *words: object, held: bool) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HELD if held else CALL, "--home", str(self.home), *map(str, words)]
        gate = self.home.parent / f"gate-{len(self._gates)}"
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "GATE": str(gate)}
        )
        self._gates[process] = gate
        return process

    def let_go(self, process: subprocess.Popen[str]) -> None:
        """Have a process that was held work to the end."""
        self._gates[process].touch()

    @property
    def run(self) -> str:
        (record,) = self.ledger.runs()
        return record.id

    @property
    def done(self) -> int:
        return sum(self.ledger.totals(run.id).shards[ShardState.DONE] for run in self.ledger.runs())

    @property
    def workers(self) -> set[str]:
        """The numbers of the processes that have done or do shards."""
        return {shard.owner.split(":")[1] for shard in self.ledger.shards(self.run) if shard.owner}

    def wait_until(self, so_far: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 60
        while True:
            alive = all(process.poll() is None for process in processes)  # asked first: the last it does counts too
            if so_far():
                return
            assert alive, [process.communicate() for process in processes]
            assert time.monotonic() < end
            time.sleep(0.002)

    def require_whole(self) -> None:
        found = pl.read_csv(self.output, schema_overrides={"device": pl.String})
        truth = expected([self.source])
        same = ["_file", "_row", "device", "sensor", "outcome"]
        assert found.select(same).equals(truth.select(same))
        both = pl.DataFrame({"found": found["prediction"], "truth": truth["prediction"]})
        assert found["prediction"].is_null().equals(truth["prediction"].is_null())
        np.testing.assert_allclose(*both.drop_nulls().to_numpy().T, rtol=1e-9, atol=1e-9)
        report = self.ledger.reconcile(self.run)
        assert report.balanced
        assert report.totals.source_rows == report.totals.counts.rows == ROWS
        assert leftovers(self.output) == []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, "out.csv")


def test_killed_at_any_time_and_resumed(job: Job) -> None:
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)
    process = job.start()
    for share in sorted(chance.uniform(0, 1) for _ in range(3)):
        shards = int(share * ROWS / SHARD_ROWS)
        job.wait_until(lambda shards=shards: job.done >= shards and bool(job.ledger.runs()), process)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert not job.output.exists() or job.ledger.run(job.run).state is not RunState.RUNNING, seed
        process = job.resume()
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, (seed, err)
    assert "reconciles" in out
    job.require_whole()


def test_ctrl_c_says_how_to_go_on(job: Job) -> None:
    process = job.start(held=True)
    job.wait_until(lambda: job.done >= 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"`shoal score --resume {job.run}` goes on" in err
    assert "Traceback" not in err
    record = job.ledger.run(job.run)
    assert (record.state, "interrupted" in str(record.error)) == (RunState.FAILED, True)
    assert job.ledger.owners(job.run) == []
    assert not job.output.exists()
    again = job.resume()
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    job.require_whole()


def test_two_resume_one_run_and_one_is_interrupted(job: Job) -> None:
    victim = job.start(held=True)
    job.wait_until(lambda: bool(job.ledger.runs()), victim)
    victim.kill()
    victim.communicate()
    pair = [job.resume(held=True), job.resume(held=True)]
    try:
        job.wait_until(lambda: {str(process.pid) for process in pair} <= job.workers, *pair)
        pair[0].send_signal(signal.SIGINT)
        _, first = pair[0].communicate(timeout=60)
        job.let_go(pair[1])
        _, second = pair[1].communicate(timeout=60)
    finally:
        for process in pair:
            process.kill()
    assert pair[0].returncode == 130, first
    assert pair[1].returncode == 0, second
    job.require_whole()
