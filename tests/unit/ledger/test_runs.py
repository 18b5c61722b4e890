import datetime as dt
import itertools
import re

import pytest

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.jobs.states import RUN_TRANSITIONS, RunState, ShardState
from shoal.ledger import ShardPlan
from shoal.types import Counts, InputFile


def test_a_run_comes_back_as_it_went_in(ledger, start, clock):
    inputs = [InputFile(path=f"{n}.csv", size_bytes=2**40 + n, sha256=f"{n:064x}", rows=n or None) for n in (2, 0, 1)]
    spec = {"input": ["*.csv"], "max_errors": None, "nested": {"ä": 1.5}}
    expires_at = clock.now + dt.timedelta(days=1)
    run = start(2, running=False, inputs=inputs, spec=spec, expires_at=expires_at)
    assert re.fullmatch(r"20261121-044012-[0-9a-z]{4}", run.id)
    assert (run.kind, run.fleet, run.version, run.spec, run.actor) == ("score", "flights", 3, spec, "ann")
    assert (run.state, run.created_at, run.expires_at) == (RunState.PLANNED, clock.now, expires_at)
    assert (run.started_at, run.ended_at, run.error, run.resumes) == (None, None, None, None)
    assert ledger.run(run.id) == run
    assert ledger.inputs(run.id) == inputs
    assert [(s.number, s.source, s.state, s.counts, s.part) for s in ledger.shards(run.id)] == [
        (0, {"first": 0}, ShardState.PENDING, Counts(), None),
        (1, {"first": 10}, ShardState.PENDING, Counts(), None),
    ]


def test_a_run_that_trains_has_no_snapshot_and_may_take_up_another(ledger, start):
    first = start(1, kind="train", version=None)
    second = start(0, resumes=first.id)
    assert (first.version, second.resumes) == (None, first.id)
    with pytest.raises(NotFound, match="no run 'nothing'"):
        start(resumes="nothing")


def test_shards_with_one_number_leave_no_run(ledger, start):
    twice = [ShardPlan(number=1, source={})] * 2
    with pytest.raises(InvalidInput, match="same number"):
        ledger.create_run(kind="score", fleet="a", version=1, spec={}, inputs=(), shards=twice, actor="ann")
    assert ledger.runs() == []


def test_runs_are_listed_newest_first(ledger, start, clock):
    ids = []
    for fleet, kind in (("a", "score"), ("b", "score"), ("a", "train")):
        ids.append(start(fleet=fleet, kind=kind).id)
        clock.move(1)
    ledger.transition(ids[1], RunState.FAILED)
    assert [run.id for run in ledger.runs()] == ids[::-1]
    assert sorted(ids) == ids
    assert [run.id for run in ledger.runs(limit=1)] == [ids[2]]
    assert [run.id for run in ledger.runs(fleet="a")] == [ids[2], ids[0]]
    assert [run.id for run in ledger.runs(kind="score", state=RunState.RUNNING)] == [ids[0]]


def test_what_is_not_there_is_named(ledger):
    for call in (ledger.run, ledger.inputs, ledger.shards, ledger.totals, ledger.reconcile):
        with pytest.raises(NotFound, match="no run 'x'; `shoal runs list`"):
            call("x")
    with pytest.raises(NotFound):
        ledger.transition("x", RunState.RUNNING)
    with pytest.raises(NotFound):
        ledger.claim("x", owner="w", lease_s=1)


PATHS = {
    RunState.PLANNED: [],
    RunState.RUNNING: [RunState.RUNNING],
    RunState.COMMITTING: [RunState.RUNNING, RunState.COMMITTING],
    RunState.SUCCEEDED: [RunState.RUNNING, RunState.COMMITTING, RunState.SUCCEEDED],
    RunState.FAILED: [RunState.FAILED],
    RunState.CANCELLED: [RunState.CANCELLED],
    RunState.EXPIRED: [RunState.EXPIRED],
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(RunState, RunState)))
def test_a_run_goes_only_where_the_table_leads(ledger, start, before, after):
    run = start(0, running=False)
    for state in PATHS[before]:
        ledger.transition(run.id, state)
    if after in RUN_TRANSITIONS[before]:
        assert ledger.transition(run.id, after).state is after
    else:
        with pytest.raises(Conflict, match=f"is {before} and cannot become {after}"):
            ledger.transition(run.id, after)
        assert ledger.run(run.id).state is before


def test_times_and_errors_are_kept(ledger, start, clock):
    run = start(0)
    started = clock.now
    clock.move(5)
    failed = ledger.transition(run.id, RunState.FAILED, error="the disk is full")
    assert (failed.started_at, failed.ended_at, failed.error) == (started, clock.now, "the disk is full")
    clock.move(5)
    again = ledger.transition(run.id, RunState.RUNNING)
    assert (again.started_at, again.ended_at, again.error) == (started, None, None)


def test_an_error_is_kept_whatever_characters_it_has(ledger, start):
    run = start(1)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60, limit=1)
    ledger.fail(claim, "no \x00 and half of \ud83d", retry=False)
    assert ledger.shards(run.id)[0].error == "no   and half of ?"
    assert ledger.transition(run.id, RunState.FAILED, error="a\x00b").error == "a b"


def test_a_run_is_not_resumed_after_its_time(ledger, start, clock):
    run = start(1, expires_at=clock.now + dt.timedelta(hours=1))
    untouched = start(1)
    ledger.transition(run.id, RunState.FAILED)
    assert ledger.expire_overdue() == []
    clock.move(3600)
    with pytest.raises(Conflict, match="expired at 2026-11-21 05:40 UTC; start a new run"):
        ledger.transition(run.id, RunState.RUNNING)
    assert [expired.id for expired in ledger.expire_overdue()] == [run.id]
    assert ledger.run(run.id).state is RunState.EXPIRED
    assert ledger.run(untouched.id).state is RunState.RUNNING
    assert ledger.expire_overdue() == []


def test_a_run_that_commits_is_not_expired(ledger, start, clock):
    run = start(0, expires_at=clock.now + dt.timedelta(hours=1))
    ledger.transition(run.id, RunState.COMMITTING)
    clock.move(7200)
    assert ledger.expire_overdue() == []
    assert ledger.transition(run.id, RunState.SUCCEEDED).state is RunState.SUCCEEDED


def test_runs_that_may_go_on_pin_their_snapshot(ledger, start):
    start(0, fleet="a", version=1)
    start(0, fleet="a", version=1)
    start(0, fleet="b", version=2, running=False)
    ledger.transition(start(0, fleet="c", version=3).id, RunState.FAILED)
    ledger.transition(start(0, fleet="d", version=4).id, RunState.CANCELLED)
    start(0, fleet="e", version=None)
    assert ledger.pinned() == {("a", 1), ("b", 2), ("c", 3)}


def test_only_what_is_whole_begins_to_commit(ledger, start, database):
    run = start(2)
    first, second = ledger.claim(run.id, owner="w", lease_s=60, limit=2)
    ledger.finish(first, Counts(rows=2, scored=2), 2, {})
    with pytest.raises(Conflict, match="not all of its shards are done: 1 claimed, 1 done"):
        ledger.transition(run.id, RunState.COMMITTING)
    ledger.fail(second, "broken", retry=False)
    with pytest.raises(Conflict, match="1 done, 1 failed"):
        ledger.transition(run.id, RunState.COMMITTING)
    assert ledger.run(run.id).state is RunState.RUNNING
    assert ledger.retry_failed(run.id) == 1
    ledger.finish(ledger.claim(run.id, owner="w", lease_s=60)[0], Counts(rows=1, invalid=1), 5, {})
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE shards SET scored = 1 WHERE number = 0")
    with pytest.raises(Conflict, match="does not reconcile: shard 0: 2 rows, but 1 outcomes"):
        ledger.transition(run.id, RunState.COMMITTING)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE shards SET scored = 2 WHERE number = 0")
    assert ledger.transition(run.id, RunState.COMMITTING).state is RunState.COMMITTING
