"""The queue of predictions with many processes on one database: killed, racing, slow. Both kinds of database."""

import random
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from shoal.jobs.states import PredictionState
from shoal.ledger import Ledger, NewPrediction, PredictionKind
from shoal.storage.sql import Database

PREAMBLE = """
import os, random, sys, time
from shoal.jobs.states import PredictionState
from shoal.ledger import Ledger, NewPrediction, PredictionKind, PredictionResult, Wanted, this_worker
from shoal.storage.sql import Database

predictions = Ledger(Database(sys.argv[1])).predictions
name = sys.argv[2]
random.seed(name)

def new(text, **given):
    return NewPrediction(
        kind=PredictionKind.DEFERRED, fleet="pumps", principal="ann", request_id=text, request=text.encode(), **given
    )
"""

WORK = """
owner = this_worker(name)
wanted = Wanted(fleets=["pumps"], owner=owner, lease_s=1.0, limit=20)
results = []
print("ready", flush=True)
while True:
    turn = predictions.turn(results, [], wanted, keep_s=1000, lease_s=1.0)
    settled = [
        result.claim for result in results
        if result.claim.number in turn.settled and result.state is PredictionState.DONE
    ]
    print(*[claim.id for claim in settled], flush=True)
    results = []
    claims = turn.claims or predictions.claim(["pumps"], owner=owner, lease_s=1.0, limit=1, suspects=True)
    for claim in claims:
        if random.random() < 0.1:
            results.append(PredictionResult(claim=claim, state=PredictionState.WAITING, error="bad luck", counts=False))
        else:
            results.append(PredictionResult(claim=claim, state=PredictionState.DONE, answer=name.encode()))
    time.sleep(0.002)
    predictions.sweep(keep_s=1000)
"""


def start(url, name, body):
    return subprocess.Popen([sys.executable, "-c", PREAMBLE + body, url, name], stdout=subprocess.PIPE, text=True)


def started(process):
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def lines_of(process):
    assert process.stdout is not None
    text = process.stdout.read()
    process.stdout.close()
    process.wait()
    return text.splitlines()


def new(text, **given):
    return NewPrediction(
        kind=PredictionKind.DEFERRED, fleet="pumps", principal="ann", request_id=text, request=text.encode(), **given
    )


@pytest.fixture
def url(databases):
    return databases.migrated()


@pytest.fixture
def predictions(url):
    return Ledger(Database(url)).predictions


def test_every_prediction_is_made_once_and_in_order_though_workers_are_killed(url, predictions):
    chance = random.Random(5)
    # Whose workers fall silent, killed or on a machine that is busy, may be tried any number of times.
    lanes = [f"lane{n % 7}" if n % 3 == 0 else None for n in range(360)]
    asked = [new(f"{n}", ordering_key=lane, most_attempts=1000) for n, lane in enumerate(lanes)]
    ids = predictions.accept(asked[:210])
    workers = [started(start(url, f"w{number}", WORK)) for number in range(2)]
    dead = []
    for number in range(2, 5):
        time.sleep(chance.uniform(0.05, 0.3))
        victim = workers.pop(0)
        victim.send_signal(signal.SIGKILL)
        dead.append(victim)
        workers.append(started(start(url, f"w{number}", WORK)))
        ids += predictions.accept(asked[len(ids) : len(ids) + 50])
    deadline = time.monotonic() + 60
    while predictions.backlog().requests:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    told = [one for worker in (*dead, *workers) for line in lines_of(worker) for one in line.split()]
    records = predictions.many(ids)
    assert len(records) == len(ids) == 360
    assert {record.state for record in records} == {PredictionState.DONE}
    assert [record.request for record in records] == [one.request for one in asked]
    last = {}
    for record in records:
        if record.ordering_key is not None:
            assert record.settled_at >= last.get(record.ordering_key, record.accepted_at)
            last[record.ordering_key] = record.settled_at
    assert len(last) == 7
    assert set(told) <= set(ids)


def test_a_result_is_written_by_one_worker_only(url, predictions):
    """Leases so short that workers take each other's predictions all the time: each is still settled once."""
    ids = predictions.accept([new(str(number)) for number in range(150)])
    body = WORK.replace("lease_s=1.0", "lease_s=0.02").replace(
        "time.sleep(0.002)", "time.sleep(random.uniform(0, 0.06))"
    )
    body = body.replace("random.random() < 0.1", "False")
    workers = [started(start(url, f"w{number}", body)) for number in range(3)]
    deadline = time.monotonic() + 60
    while predictions.backlog().requests:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    told = [one for worker in workers for line in lines_of(worker) for one in line.split()]
    assert len(told) == len(set(told))
    states = [record.state for record in predictions.many(ids)]
    # Taken over again and again, some have used up their attempts: that too is said once.
    assert set(states) <= {PredictionState.DONE, PredictionState.FAILED}
    assert states.count(PredictionState.DONE) >= len(told)


IDEMPOTENT = """
keys = [str(number) for number in range(120)]
random.shuffle(keys)
print("ready", flush=True)
for start in range(0, len(keys), 15):
    some = keys[start:start + 15]
    ids = predictions.accept([new(key, idempotency_key=key, ordering_key="o") for key in some])
    for key, one in zip(some, ids):
        print(key, one, flush=True)
"""


def test_one_key_is_one_prediction_whoever_sends_it_first(url, predictions):
    processes = [started(start(url, f"w{number}", IDEMPOTENT)) for number in range(3)]
    found = {}
    for process in processes:
        lines = lines_of(process)
        assert process.returncode == 0
        assert len(lines) == 120
        for line in lines:
            key, one = line.split()
            assert found.setdefault(key, one) == one
    assert len(found) == predictions.backlog().requests == 120
    assert {record.request.decode() for record in predictions.many(list(found.values()))} == set(found)


ACCEPTING = """
print("ready", flush=True)
for number in range(100000):
    for one in predictions.accept([new(f"{name}-{number}-{i}") for i in range(5)]):
        print(one, flush=True)
"""


def test_what_was_told_to_be_accepted_is_there_after_a_kill(url, predictions):
    processes = [started(start(url, f"p{number}", ACCEPTING)) for number in range(2)]
    told = [process.stdout.readline().strip() for process in processes]
    time.sleep(0.5)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    told += [line for process in processes for line in lines_of(process) if len(line.partition("-")[2]) == 16]
    assert all(told)
    records = predictions.many(told)
    assert len(records) == len(told)
    assert len({record.request for record in records}) == len(told)
    # What was not told may be there too, but only in whole groups.
    with Database(url).read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM predictions")).scalar_one() % 5 == 0
