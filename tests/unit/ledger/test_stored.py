"""Durable results in the ledger: found by request, fleet and time, kept as long as was said, and kept once."""

import concurrent.futures
import datetime as dt

import msgspec
import numpy as np
import pytest

from shoal.errors import Conflict
from shoal.jobs.states import PredictionState
from shoal.ledger import NewPrediction, PredictionKind, PredictionResult

STORED, DEFERRED = PredictionKind.STORED, PredictionKind.DEFERRED
DAY = 86_400


@pytest.fixture
def predictions(ledger):
    return ledger.predictions


def new(text="q", kind=STORED, **given):
    fields = {"kind": kind, "fleet": "pumps", "principal": "ann", "request_id": f"r-{text}", "request": text.encode()}
    return NewPrediction(**{**fields, "answer": None if kind is DEFERRED else b"a", **given})


def deliver(predictions, state=PredictionState.DONE):
    [claim] = predictions.claim(["pumps"], owner="w1", lease_s=30, limit=10)
    result = PredictionResult(claim=claim, state=state, answer=claim.answer, error="no")
    predictions.settle([result], keep_s=60, lease_s=30)
    return claim


def test_results_are_found_by_request_fleet_and_time(predictions, clock):
    start = clock.now
    for day in range(3):
        predictions.accept([new(f"{fleet}{day}", fleet=fleet) for fleet in ("pumps", "valves")])
        predictions.accept([new(f"later{day}", kind=DEFERRED)])
        clock.move(DAY)
    [found] = predictions.of_request("r-pumps1")
    assert (found.fleet, found.request, found.answer, found.state) == ("pumps", b"pumps1", b"a", PredictionState.DONE)
    assert predictions.of_request("r-later1") == []
    day = dt.timedelta(days=1)
    listed = predictions.listed(kind=STORED, fleet="pumps", since=start + day)
    assert [one.request_id for one in listed] == ["r-pumps2", "r-pumps1"]
    listed = predictions.listed(kind=STORED, since=start + day, until=start + 2 * day)
    assert [one.request_id for one in listed] == ["r-valves1", "r-pumps1"]


def test_they_are_kept_as_long_as_was_said(predictions, clock):
    always, weekly = predictions.accept([new("always"), new("weekly", keep_s=7 * DAY)])
    clock.move(6 * DAY)
    predictions.sweep(keep_s=60)
    assert predictions.one(weekly).state is PredictionState.DONE
    clock.move(2 * DAY)
    predictions.sweep(keep_s=60)
    assert predictions.many([always, weekly]) == [predictions.one(always)]


@pytest.mark.parametrize("keep_s", [None, 7 * DAY])
def test_a_sink_does_not_change_how_long(predictions, clock, keep_s):
    [kept] = predictions.accept([new("sunk", sink="table", keep_s=keep_s)])
    assert deliver(predictions).kind is STORED
    clock.move(6 * DAY)
    predictions.sweep(keep_s=60)
    assert predictions.one(kept).answer == b"a"
    clock.move(2 * DAY)
    predictions.sweep(keep_s=60)
    assert len(predictions.many([kept])) == (1 if keep_s is None else 0)


def test_one_that_killed_its_workers_stays_until_somebody_looks(predictions, clock):
    stored, _ = predictions.accept([new("sunk", sink="table", most_attempts=1), new("q", DEFERRED, most_attempts=1)])
    assert len(predictions.claim(["pumps"], owner="w1", lease_s=30, limit=10)) == 2
    clock.move(31)
    predictions.sweep(keep_s=60)
    assert [one.state for one in predictions.listed()] == [PredictionState.FAILED] * 2
    clock.move(DAY)
    predictions.sweep(keep_s=60)
    assert [one.id for one in predictions.listed()] == [stored]
    predictions.replay(stored)
    deliver(predictions)
    assert predictions.one(stored).state is PredictionState.DONE


def test_purging_takes_what_is_old_settled_and_the_fleets(predictions, clock):
    start = clock.now
    predictions.accept([new(f"{number}") for number in range(1200)])
    waiting, other = predictions.accept([new("waits", sink="table"), new("other", fleet="valves")])
    predictions.accept([new("later", kind=DEFERRED)])
    clock.move(DAY)
    [young] = predictions.accept([new("young")])
    before = start + dt.timedelta(hours=1)
    assert predictions.purge("pumps", before=before) == 1200
    assert predictions.purge("pumps", before=before) == 0
    assert {one.id for one in predictions.listed(kind=STORED)} == {waiting, other, young}
    assert len(predictions.listed(kind=DEFERRED)) == 1


def test_storing_is_accepting_in_one_statement(predictions, clock):
    """What is stored reads as what was accepted; what is there already, before or beside it, is one result."""
    made = [
        new(str(number), idempotency_key=f"k{number % 7}", keep_s=60.0 if number % 2 else None) for number in range(7)
    ]
    made = [*made, new("0", idempotency_key="k0"), new("0", idempotency_key="k0", principal="bob")]
    stored = predictions.store(made)
    assert stored[7] == stored[0]
    assert len(set(stored)) == 8
    assert predictions.store(made) == stored
    accepted = predictions.accept([new("0", idempotency_key="other"), new("1", idempotency_key="odd", keep_s=60.0)])
    for one, other in zip(stored, accepted, strict=False):
        told, same = predictions.one(one), predictions.one(other)
        assert msgspec.structs.replace(told, id=other, idempotency_key=same.idempotency_key) == same
    [conflict] = predictions.store([new("something else", idempotency_key="k0")])
    assert isinstance(conflict, Conflict)


def test_many_store_the_same_at_once(predictions):
    """Threads that store the same results in different orders: each is kept once, and nobody is refused."""
    made = [new(str(number), idempotency_key=f"k{number}") for number in range(40)]

    def work(seed):
        order = np.random.default_rng(seed).permutation(40)
        found = {}
        for part in np.array_split(order, 4):
            found |= zip(part.tolist(), predictions.store([made[number] for number in part]), strict=True)
        return found

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(12)))
    assert all(result == results[0] for result in results)
    assert len(predictions.listed(limit=1000)) == 40
