import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import Conflict, InvalidInput, LeaseLost
from shoal.jobs.states import RunState, ShardState
from shoal.ledger.claims import LONGEST_LEASE_S
from shoal.types import Counts, InputFile

TEN = Counts(rows=10, scored=7, fallback=1, no_model=1, invalid=1)


def numbers(claims):
    return [claim.number for claim in claims]


def test_shards_are_claimed_in_order_and_once(ledger, start, clock):
    run = start(5)
    first = ledger.claim(run.id, owner="a", lease_s=60, limit=2)
    assert numbers(first) == [0, 1]
    assert numbers(ledger.claim(run.id, owner="b", lease_s=60, limit=10)) == [2, 3, 4]
    assert ledger.claim(run.id, owner="c", lease_s=60) == []
    assert first[1].source == {"first": 10}
    assert first[1].attempt == 1
    assert (first[1].lease_until - clock.now).total_seconds() == 60
    assert ledger.owners(run.id) == ["a", "b"]


def test_runs_do_not_share_shards(ledger, start):
    one, two = start(1), start(1)
    (claim,) = ledger.claim(one.id, owner="a", lease_s=60, limit=9)
    assert claim.run_id == one.id
    assert numbers(ledger.claim(two.id, owner="a", lease_s=60, limit=9)) == [0]


def test_only_a_running_run_gives_shards_out(ledger, start):
    run = start(1, running=False)
    with pytest.raises(Conflict, match="make it running"):
        ledger.claim(run.id, owner="a", lease_s=60)
    ledger.transition(run.id, RunState.CANCELLED)
    assert ledger.claim(run.id, owner="a", lease_s=60) == []


def test_finishing_records_what_became_of_the_rows(ledger, start):
    run = start(2)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    ledger.finish(claim, TEN, 12, {"file": "part-0", "sha256": "ab"})
    shard = ledger.shards(run.id)[0]
    assert (shard.state, shard.counts, shard.source_rows) == (ShardState.DONE, TEN, 12)
    assert (shard.part, shard.owner, shard.lease_until, shard.error) == (
        {"file": "part-0", "sha256": "ab"}, "a", None, None,
    )  # fmt: skip


def test_outcomes_that_do_not_add_up_are_refused(ledger, start):
    run = start(1)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    with pytest.raises(InvalidInput, match=r"shard 0 of run .*: 3 rows, but 2 outcomes"):
        ledger.finish(claim, Counts(rows=3, scored=2), 3, {})
    ledger.finish(claim, TEN, 10, {})


@pytest.mark.parametrize("last", ["finish", "fail", "fail for good", "release"])
@pytest.mark.parametrize("then", ["finish", "fail", "release", "renew"])
def test_a_claim_ends_once(ledger, start, last, then):
    run = start(1)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    use(ledger, claim, last)
    before = ledger.shards(run.id)
    if then == "renew":
        assert ledger.renew([claim], 60) == []
    else:
        with pytest.raises(LeaseLost, match="claim again"):
            use(ledger, claim, then)
    assert ledger.shards(run.id) == before


@pytest.mark.parametrize("owner", ["a", "b"])
@pytest.mark.parametrize("late", ["finish", "fail", "fail for good", "release"])
def test_whoever_lost_the_lease_changes_nothing(ledger, start, clock, owner, late):
    """Also when the shard came back to the same owner: an earlier claim is not the present one."""
    run = start(1)
    (stale,) = ledger.claim(run.id, owner="a", lease_s=60)
    clock.move(61)
    (present,) = ledger.claim(run.id, owner=owner, lease_s=60)
    assert (present.number, present.attempt) == (0, 2)
    before = ledger.shards(run.id)
    with pytest.raises(LeaseLost):
        use(ledger, stale, late)
    assert ledger.renew([stale, present], 60) == [present]
    assert ledger.shards(run.id) == before
    ledger.finish(present, TEN, 10, {})
    with pytest.raises(LeaseLost):
        use(ledger, stale, late)
    assert ledger.totals(run.id).counts == TEN


def test_a_lease_that_ran_out_still_finishes_when_nobody_took_over(ledger, start, clock):
    run = start(1)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    clock.move(1000)
    ledger.finish(claim, TEN, 10, {})
    assert ledger.totals(run.id).complete


def test_renewing_keeps_others_out(ledger, start, clock):
    run = start(1)
    claims = ledger.claim(run.id, owner="a", lease_s=60)
    for _ in range(3):
        clock.move(50)
        assert ledger.claim(run.id, owner="b", lease_s=60) == []
        claims = ledger.renew(claims, 60)
        assert (claims[0].lease_until - clock.now).total_seconds() == 60
    clock.move(60)
    assert numbers(ledger.claim(run.id, owner="b", lease_s=60)) == [0]


@pytest.mark.parametrize("lease_s", [0, -1, LONGEST_LEASE_S + 1, float("nan"), float("inf")])
def test_leases_have_a_sensible_length(ledger, start, lease_s):
    run = start(1)
    with pytest.raises(InvalidInput, match="a lease lasts"):
        ledger.claim(run.id, owner="a", lease_s=lease_s)
    claims = ledger.claim(run.id, owner="a", lease_s=LONGEST_LEASE_S)
    with pytest.raises(InvalidInput, match="a lease lasts"):
        ledger.renew(claims, lease_s)


def test_failed_shards_are_tried_again_or_not(ledger, start):
    run = start(2)
    first, second = ledger.claim(run.id, owner="a", lease_s=60, limit=2)
    ledger.fail(first, "no memory", retry=True)
    ledger.fail(second, "no disk", retry=False)
    assert [(s.state, s.error) for s in ledger.shards(run.id)] == [
        (ShardState.PENDING, "no memory"),
        (ShardState.FAILED, "no disk"),
    ]
    (again,) = ledger.claim(run.id, owner="a", lease_s=60, limit=2)
    assert (again.number, again.attempt) == (0, 2)
    ledger.finish(again, TEN, 10, {})
    assert ledger.shards(run.id)[0].error is None
    assert ledger.retry_failed(run.id) == 1
    assert numbers(ledger.claim(run.id, owner="a", lease_s=60, limit=2)) == [1]


def test_a_shard_that_kills_its_workers_fails_in_the_end(ledger, start, clock):
    run = start(2)
    for attempt in (1, 2, 3):
        claims = ledger.claim(run.id, owner="a", lease_s=60, limit=1, most_attempts=3)
        assert [(c.number, c.attempt) for c in claims] == [(0, attempt)]
        clock.move(61)
    assert numbers(ledger.claim(run.id, owner="a", lease_s=60, limit=9, most_attempts=3)) == [1]
    shard = ledger.shards(run.id)[0]
    assert shard.state is ShardState.FAILED
    assert "fell silent 3 times" in shard.error
    with pytest.raises(LeaseLost):
        ledger.finish(claims[0], TEN, 10, {})


def test_a_clock_that_jumps_ahead_costs_work_but_not_the_count(ledger, start, clock):
    run = start(1)
    (slow,) = ledger.claim(run.id, owner="a", lease_s=60)
    clock.move(10 * 365 * 86400)
    (quick,) = ledger.claim(run.id, owner="b", lease_s=60)
    ledger.finish(quick, TEN, 10, {})
    with pytest.raises(LeaseLost):
        ledger.finish(slow, TEN, 10, {})
    assert ledger.totals(run.id).counts == TEN


def test_a_clock_that_is_set_back_does_not_hold_shards_for_ever(ledger, start, clock):
    run = start(1)
    (dead,) = ledger.claim(run.id, owner="a", lease_s=60)
    clock.move(-365 * 86400)
    (taken,) = ledger.claim(run.id, owner="b", lease_s=60)
    assert (taken.number, taken.attempt) == (0, 2)
    with pytest.raises(LeaseLost):
        ledger.finish(dead, TEN, 10, {})
    ledger.finish(taken, TEN, 10, {})


def test_a_clock_that_is_set_back_a_little_robs_nobody(ledger, start, clock):
    run = start(1)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    clock.move(-600)
    assert ledger.claim(run.id, owner="b", lease_s=60) == []
    ledger.finish(claim, TEN, 10, {})


def test_shards_of_an_owner_known_to_be_gone_need_no_waiting(ledger, start):
    run = start(3)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=3600, limit=1)
    ledger.claim(run.id, owner="b", lease_s=3600, limit=2)
    assert ledger.release_owner(run.id, "b") == 2
    assert numbers(ledger.claim(run.id, owner="c", lease_s=60, limit=9)) == [1, 2]
    ledger.finish(claim, TEN, 10, {})


def test_totals_and_reconciliation(ledger, start):
    inputs = [InputFile(path=p, size_bytes=1, sha256="", rows=r) for p, r in (("a", 20), ("b", 15))]
    run = start(3, inputs=inputs)
    for claim in ledger.claim(run.id, owner="a", lease_s=60, limit=2):
        ledger.finish(claim, TEN, 12, {})
    report = ledger.reconcile(run.id)
    assert report.balanced
    assert report.input_rows == 35
    totals = report.totals
    assert (totals.source_rows, totals.counts, totals.complete) == (24, TEN + TEN, False)
    assert totals.shards == {
        ShardState.PENDING: 1, ShardState.CLAIMED: 0, ShardState.DONE: 2, ShardState.FAILED: 0,
    }  # fmt: skip
    assert ledger.reconcile(start(0).id).input_rows is None
    assert ledger.totals(start(0).id).complete


@pytest.mark.parametrize(
    ("tampering", "difference"),
    [
        ("UPDATE shards SET invalid = 5 WHERE number = 1",
         "shard 1: 10 rows, but 14 outcomes (scored 7, fallback 1, no_model 1, invalid 5, failed 0)"),
        ("UPDATE shards SET rows = 9 WHERE number = 1",
         "shard 1: 9 rows, but 10 outcomes (scored 7, fallback 1, no_model 1, invalid 1, failed 0)"),
        ("UPDATE shards SET rows = 3, scored = 3 WHERE number = 2", "shard 2: pending, but has 3 rows counted"),
    ],
)  # fmt: skip
def test_a_report_says_what_differs(ledger, start, database, tampering, difference):
    run = start(3)
    for claim in ledger.claim(run.id, owner="a", lease_s=60, limit=2):
        ledger.finish(claim, TEN, 10, {})
    with database.write() as connection:
        connection.exec_driver_sql(tampering)
    report = ledger.reconcile(run.id)
    assert not report.balanced
    assert report.differences[0] == difference


def test_differences_that_cancel_out_over_the_run_still_show(ledger, start, database):
    run = start(2)
    for claim in ledger.claim(run.id, owner="a", lease_s=60, limit=2):
        ledger.finish(claim, TEN, 10, {})
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE shards SET rows = 9 WHERE number = 0")
        connection.exec_driver_sql("UPDATE shards SET rows = 11 WHERE number = 1")
    report = ledger.reconcile(run.id)
    assert report.totals.counts.reconciles
    assert [text.split(":")[0] for text in report.differences] == ["shard 0", "shard 1"]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["claim", "finish", "fail", "fail for good", "release", "renew", "wait", "retry"]),
            st.sampled_from(["a", "b"]),
            st.integers(0, 9),
        ),
        max_size=40,
    )
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_workers_do_each_shard_is_counted_once(ledger, start, clock, steps):
    """Random workers against a model of what a lease means: a shard's newest claim, until it is settled."""
    run = start(3)
    claims, newest, done = [], {}, set()
    for action, owner, pick in steps:
        if action == "wait":
            clock.move(31)
        elif action == "retry":
            ledger.retry_failed(run.id)
        elif action == "claim":
            taken = ledger.claim(run.id, owner=owner, lease_s=60, limit=1 + pick % 2, most_attempts=99)
            claims += taken
            newest |= {claim.number: claim for claim in taken}
        elif claims:
            claim = claims[pick % len(claims)]
            held = newest.get(claim.number) == claim
            if action == "renew":
                renewed = ledger.renew([claim], 60)
                assert bool(renewed) == held
                if held:
                    newest[claim.number] = claims[pick % len(claims)] = renewed[0]
            elif held:
                use(ledger, claim, action)
                del newest[claim.number]
                done |= {claim.number} if action == "finish" else set()
            else:
                with pytest.raises(LeaseLost):
                    use(ledger, claim, action)
        totals = ledger.totals(run.id)
        assert totals.shards[ShardState.DONE] == len(done)
        assert totals.counts.rows == 10 * len(done)
        assert ledger.reconcile(run.id).balanced


def use(ledger, claim, action):
    if action == "finish":
        ledger.finish(claim, TEN, 10, {})
    elif action == "release":
        ledger.release(claim)
    else:
        ledger.fail(claim, "broken", retry=action == "fail")


def test_a_forged_claim_does_not_count(ledger, start):
    run = start(1)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    for forged in ({"owner": "b"}, {"attempt": 2}, {"number": 7}, {"run_id": "x"}):
        with pytest.raises(LeaseLost):
            ledger.finish(dataclasses.replace(claim, **forged), TEN, 10, {})
    assert ledger.totals(run.id).counts == Counts()
