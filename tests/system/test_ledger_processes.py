"""The ledger with workers that die, workers that are slow, and a full disk."""

import datetime as dt
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from shoal.errors import Conflict
from shoal.jobs.states import RunState, ShardState
from shoal.ledger import Ledger, RunRecord, ShardPlan
from shoal.storage.sql import Database
from shoal.types import Counts
from tests.databases import Databases

PREAMBLE = """
import os, sys, time
from shoal.errors import LeaseLost, StorageError
from shoal.ledger import Ledger, this_worker
from shoal.storage.sql import Database
from shoal.types import Counts

ledger = Ledger(Database(os.environ["SHOAL_DATABASE_URL"]))
run = sys.argv[1]

def finish(claim, worker):
    rows = claim.source["rows"]
    ledger.finish(claim, Counts(rows=rows, scored=rows - 1, invalid=1), rows + 2, {"by": worker})
"""


def start(run: RunRecord, body: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREAMBLE + body, run.id, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


def started(worker: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


@pytest.fixture
def ledger(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger; processes that are started work on it too."""
    url = databases.migrated()
    monkeypatch.setenv("SHOAL_DATABASE_URL", url)
    return Ledger(Database(url))


def start_run(ledger: Ledger, shards: int) -> RunRecord:
    plans = [ShardPlan(number=number, source={"rows": 10 + number}) for number in range(shards)]
    run = ledger.create_run(kind="score", fleet="flights", version=1, spec={}, inputs=(), shards=plans, actor="ann")
    return ledger.transition(run.id, RunState.RUNNING)


def assert_done_once(ledger: Ledger, run: RunRecord, shards: int) -> None:
    rows = sum(10 + number for number in range(shards))
    totals = ledger.totals(run.id)
    assert totals.counts == Counts(rows=rows, scored=rows - shards, invalid=shards)
    assert totals.source_rows == rows + 2 * shards
    assert totals.shards[ShardState.DONE] == shards
    assert ledger.reconcile(run.id).balanced


WORK = """
print("ready", flush=True)
while True:
    # On a machine that is busy a lease so short may run out any number of times.
    claims = ledger.claim(run, owner=this_worker(), lease_s=0.7, limit=3, most_attempts=1000)
    if not claims and ledger.totals(run).complete:
        break
    for claim in claims:
        time.sleep(0.01)
        try:
            finish(claim, this_worker())
        except LeaseLost:
            pass
    if not claims:
        time.sleep(0.05)
"""


def test_workers_that_are_killed_lose_nothing_and_count_nothing_twice(ledger):
    run = start_run(ledger, 80)
    dice = random.Random(5)
    workers = [started(start(run, WORK)) for _ in range(3)]
    for _ in range(5):
        time.sleep(dice.uniform(0.02, 0.15))
        victim = dice.randrange(len(workers))
        workers[victim].kill()
        workers[victim].communicate()
        workers[victim] = started(start(run, WORK))
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    assert_done_once(ledger, run, 80)
    ledger.transition(run.id, RunState.COMMITTING)
    ledger.transition(run.id, RunState.SUCCEEDED)


HOLD = """
claims = ledger.claim(run, owner=this_worker(), lease_s=float(sys.argv[2]), limit=2)
print("ready", flush=True)
time.sleep(60)
"""


def test_shards_of_a_killed_worker_are_taken_over_when_their_leases_end(ledger):
    run = start_run(ledger, 2)
    worker = started(start(run, HOLD, 3))
    worker.kill()
    worker.communicate()
    ends = [shard.lease_until for shard in ledger.shards(run.id)]
    until_s = time.monotonic() + 60
    while not (claims := ledger.claim(run.id, owner="b", lease_s=60, limit=2)):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    now = dt.datetime.now(dt.UTC)
    assert all(end is not None and end <= now for end in ends)
    assert [(claim.number, claim.attempt) for claim in claims] == [(0, 2), (1, 2)]


def test_whoever_resumes_need_not_wait_for_the_leases_of_the_killed(ledger):
    run = start_run(ledger, 3)
    worker = started(start(run, HOLD, 3600))
    assert ledger.release_gone(run.id) == 0
    worker.kill()
    worker.communicate()
    assert ledger.release_gone(run.id) == 2
    assert len(ledger.claim(run.id, owner="b", lease_s=60, limit=9)) == 3


def test_a_stopped_worker_that_wakes_up_too_late_changes_nothing(ledger):
    run = start_run(ledger, 1)
    body = """
(claim,) = ledger.claim(run, owner=this_worker(), lease_s=0.2)
print("ready", flush=True)
sys.stdin.readline()
try:
    finish(claim, "late")
except LeaseLost as error:
    print(error)
"""
    worker = started(start(run, body, stdin=subprocess.PIPE))
    worker.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    (claim,) = ledger.claim(run.id, owner="b", lease_s=60)
    ledger.finish(claim, Counts(rows=10, scored=9, invalid=1), 12, {"by": "b"})
    worker.send_signal(signal.SIGCONT)
    out, errors = worker.communicate("\n", timeout=60)
    assert "is not" in out, errors
    assert ledger.shards(run.id)[0].part == {"by": "b"}
    assert_done_once(ledger, run, 1)


def test_a_run_is_made_whole_or_not_at_all(ledger):
    """Killed at random moments while it makes runs of many shards."""
    body = """
from shoal.ledger import ShardPlan
plans = [ShardPlan(number=number, source={"rows": number}) for number in range(3000)]
print("ready", flush=True)
while True:
    ledger.create_run(kind="score", fleet="f", version=1, spec={}, inputs=(), shards=plans, actor="ann")
"""
    run = start_run(ledger, 1)
    dice = random.Random(3)
    for _ in range(3):
        worker = started(start(run, body))
        time.sleep(dice.uniform(0.02, 0.2))
        worker.kill()
        worker.communicate()
    made = ledger.runs(fleet="f", limit=1000)
    assert {len(ledger.shards(record.id)) for record in made} <= {3000}


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_a_full_disk_leaves_the_shard_as_it_was(ledger):
    run = start_run(ledger, 2)
    limit = 300_000

    def smaller_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    body = """
claims = ledger.claim(run, owner=this_worker(), lease_s=60, limit=2)
try:
    ledger.finish(claims[0], Counts(rows=1, scored=1), 1, {"large": "x" * 400_000})
except StorageError as error:
    print(error)
"""
    worker = start(run, body, preexec_fn=smaller_files)
    out, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert "space" in out
    shard = ledger.shards(run.id)[0]
    assert (shard.state, shard.part, shard.counts) == (ShardState.CLAIMED, None, Counts())
    with pytest.raises(Conflict, match="2 claimed"):
        ledger.transition(run.id, RunState.COMMITTING)
    assert ledger.release_gone(run.id) == 2
    for claim in ledger.claim(run.id, owner="b", lease_s=60, limit=2):
        rows = 10 + claim.number
        ledger.finish(claim, Counts(rows=rows, scored=rows - 1, invalid=1), rows + 2, {})
    assert_done_once(ledger, run, 2)
