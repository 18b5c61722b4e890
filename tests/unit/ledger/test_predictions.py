"""Predictions that are kept: accepted once, claimed in order, settled once, discarded, replayed, forgotten."""

import datetime as dt
import itertools
import os

import pytest
import sqlalchemy as sa

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.jobs.states import PREDICTION_TRANSITIONS, PredictionState
from shoal.ledger import NewPrediction, PredictionKind, PredictionResult, Wanted, this_worker
from shoal.ledger import prediction_queue as queue
from shoal.ledger.prediction_ids import parsed_id
from shoal.ledger.prediction_records import Backlog

WAITING, CLAIMED, DONE, FAILED, EXPIRED = PredictionState


@pytest.fixture
def predictions(ledger):
    return ledger.predictions


def new(text="q", **given):
    fields = {"kind": PredictionKind.DEFERRED, "fleet": "pumps", "principal": "ann", "request_id": f"r-{text}"}
    return NewPrediction(**{**fields, "request": text.encode(), **given})


def take(predictions, limit=100, owner="w1", fleets=("pumps",), **given):
    return predictions.claim(fleets, owner=owner, lease_s=30, limit=limit, **given)


def settle(predictions, results):
    return predictions.settle(results, keep_s=1000, lease_s=30)


def done(claim, answer=b"a"):
    return PredictionResult(claim=claim, state=DONE, answer=answer)


def again(claim, **given):
    return PredictionResult(claim=claim, state=WAITING, error="not now", **given)


def texts(claims):
    return [claim.request.decode() for claim in claims]


def test_what_is_accepted_is_claimed_in_its_order_and_settled_once(predictions):
    ids = predictions.accept([new(str(number)) for number in range(7)])
    assert len(set(ids)) == 7
    assert predictions.backlog().requests == 7
    first, second = take(predictions, 3), take(predictions, 10, owner="w2")
    assert (texts(first), texts(second)) == (["0", "1", "2"], ["3", "4", "5", "6"])
    assert [claim.id for claim in (*first, *second)] == ids
    assert settle(predictions, [done(claim) for claim in first]) == {claim.number for claim in first}
    assert settle(predictions, [done(claim, b"other") for claim in first]) == set()
    assert predictions.one(ids[0]).answer == b"a"
    assert predictions.one(ids[0]).is_settled
    assert not predictions.one(ids[5]).is_settled
    assert predictions.settled_among(ids) == set(ids[:3])
    assert take(predictions) == []


def test_ids_cannot_be_guessed_or_made_up(predictions):
    [known] = predictions.accept([new()])
    number, _, tag = known.partition("-")
    for made_up in (
        f"{number}-{'0' * 16}",
        number,
        "",
        "1-",
        f"{number}-{tag}0",
        f"0{known}",
        "9" * 30 + "-" + tag,
        "💥",
    ):
        with pytest.raises(NotFound, match="there is no prediction"):
            predictions.one(made_up)


def test_fleets_that_are_not_asked_for_are_left_to_others(predictions):
    predictions.accept([new("a"), new("b", fleet="fans"), new("c")])
    assert texts(take(predictions, fleets=["fans"])) == ["b"]
    assert take(predictions, fleets=[]) == []
    assert texts(take(predictions, fleets=["pumps", "fans"])) == ["a", "c"]


def test_what_goes_to_a_full_sink_is_left_where_it_is_with_what_comes_after_it_in_order(predictions):
    sent = [("a", "hook", None), ("b", None, None), ("c", "hook", "k"), ("d", None, "k"), ("e", "lake", None)]
    predictions.accept([new(text, sink=sink, ordering_key=key) for text, sink, key in sent])

    def claims(*full):
        wanted = Wanted(fleets=["pumps"], owner="w1", lease_s=30, limit=10, full_sinks=full)
        return predictions.turn([], [], wanted, keep_s=100, lease_s=30).claims

    assert texts(claims("hook", "lake")) == ["b"]
    assert texts(claims("hook", "none")) == ["e"]
    assert claims("hook") == []
    taken = claims()
    assert texts(taken) == ["a", "c"]
    assert {one.attempt for one in taken} == {1}
    settle(predictions, [done(claim) for claim in taken])
    assert texts(claims("hook")) == ["d"]


@pytest.mark.parametrize("count", [201, 70_000])
def test_who_serves_very_many_fleets_leaves_those_of_others_as_well(predictions, count):
    """More than a statement can have parameters, too."""
    predictions.accept([new("a"), new("b", fleet="fleet 7"), new("c")])
    served = [f"fleet {number}" for number in range(count)]
    wanted = Wanted(fleets=served, owner="w1", lease_s=30, limit=10)
    assert texts(predictions.turn([], [], wanted, keep_s=100, lease_s=30).claims) == ["b"]
    assert take(predictions, fleets=served) == take(predictions, fleets=served, suspects=True) == []
    assert texts(take(predictions, fleets=[*served, "pumps"])) == ["a", "c"]


def test_the_same_idempotency_key_is_the_same_prediction(predictions):
    first, second, third = predictions.accept([new("a", idempotency_key="k") for _ in range(3)])
    assert first == second == third
    assert predictions.accept([new("a", idempotency_key="k", request_id="another")]) == [first]
    [other] = predictions.accept([new("a", idempotency_key="k", principal="bob")])
    assert other != first
    changed = [new("b", idempotency_key="k"), new("a", idempotency_key="k", sink="s"), new("c")]
    conflicts = predictions.accept([*changed, new("a", idempotency_key="k", ordering_key="o")])
    assert [isinstance(one, Conflict) for one in conflicts] == [True, True, False, True]
    settle(predictions, [done(claim) for claim in take(predictions)])
    assert predictions.accept([new("a", idempotency_key="k")]) == [first]
    assert predictions.one(first).state is DONE


def test_a_group_with_conflicts_is_answered_in_its_order(predictions):
    predictions.accept([new(str(number), idempotency_key=str(number)) for number in range(0, 40, 2)])
    ids = predictions.accept([new(str(n), idempotency_key=str(n) if n % 3 else None) for n in range(40)])
    assert [predictions.one(one).request.decode() for one in ids] == [str(number) for number in range(40)]


def test_order_is_kept_within_a_key_whatever_fails(predictions):
    asked = [new(f"{key}{number}", ordering_key=key) for number in range(3) for key in "ab"]
    predictions.accept([*asked, new("free"), new("a9", ordering_key="a", fleet="fans")])
    seen: dict[str, list[str]] = {"a": [], "b": []}
    fails = {"a0": 1, "a1": 2, "b2": 1}
    free = []
    for _ in range(12):
        claims = take(predictions)
        assert len({claim.request[:1] for claim in claims}) == len(claims), "two of one key at once"
        for claim in claims:
            text = claim.request.decode()
            if text == "free":
                free.append(text)
                settle(predictions, [done(claim)])
            elif fails.get(text, 0):
                fails[text] -= 1
                settle(predictions, [again(claim)])
            else:
                seen[text[0]].append(text)
                settle(predictions, [done(claim)])
    assert seen == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
    assert free == ["free"]
    assert texts(take(predictions, fleets=["fans"])) == ["a9"]


def test_a_prediction_that_waits_for_its_next_attempt_blocks_its_key_only(predictions, clock):
    predictions.accept([new("a0", ordering_key="a"), new("a1", ordering_key="a"), new("b0", ordering_key="b")])
    first = take(predictions, 1)
    settle(predictions, [again(first[0], delay_s=10)])
    assert texts(take(predictions)) == ["b0"]
    clock.move(9)
    assert take(predictions) == []
    clock.move(2)
    assert texts(take(predictions)) == ["a0"]


def test_what_failed_too_often_goes_to_the_dead_letters_and_lets_the_next_pass(predictions):
    ids = predictions.accept([new("a0", ordering_key="a", most_attempts=3), new("a1", ordering_key="a")])
    for _ in range(3):
        [claim] = take(predictions)
        assert claim.request == b"a0"
        settle(predictions, [again(claim)])
    record = predictions.one(ids[0])
    assert (record.state, record.attempts, record.error) == (FAILED, 3, "not now")
    assert [one.id for one in predictions.listed(state=FAILED)] == [ids[0]]
    assert texts(take(predictions)) == ["a1"]
    assert predictions.replay(ids[0], more_attempts=2).state is WAITING
    for _ in range(2):
        assert predictions.one(ids[0]).state is WAITING
        # The one behind it is under way and does not hold it up; it came before.
        [claim] = take(predictions)
        settle(predictions, [again(claim)])
    assert predictions.one(ids[0]).state is FAILED


def test_an_attempt_that_was_nobodys_fault_does_not_count(predictions):
    [prediction_id] = predictions.accept([new(most_attempts=1)])
    for _ in range(5):
        [claim] = take(predictions)
        settle(predictions, [again(claim, counts=False)])
    assert predictions.one(prediction_id).state is WAITING
    [claim] = take(predictions)
    settle(predictions, [again(claim)])
    assert predictions.one(prediction_id).state is FAILED


def test_only_what_failed_or_expired_is_replayed(predictions, clock):
    ids = predictions.accept([new("done"), new("late", deadline_s=5), new("held"), new("waits")])
    claims = {claim.request: claim for claim in take(predictions, 3)}
    settle(predictions, [done(claims[b"done"]), PredictionResult(claim=claims[b"late"], state=EXPIRED, error="late")])
    for one, state in ((ids[0], "done"), (ids[2], "claimed"), (ids[3], "waiting")):
        with pytest.raises(Conflict, match=f"is {state}|being worked on"):
            predictions.replay(one)
    with pytest.raises(NotFound):
        predictions.replay("5-0000000000000000")
    clock.move(10)
    record = predictions.replay(ids[1])
    assert (record.state, record.expires_at, record.error, record.settled_at) == (WAITING, None, None, None)
    assert texts(take(predictions)) == ["late", "waits"]


def test_a_claim_from_before_a_replay_settles_nothing(predictions):
    [prediction_id] = predictions.accept([new(most_attempts=1)])
    [old] = take(predictions)
    settle(predictions, [again(old)])
    predictions.replay(prediction_id)
    [fresh] = take(predictions)
    assert settle(predictions, [done(old, b"old")]) == set()
    assert settle(predictions, [done(fresh, b"fresh")]) == {fresh.number}
    assert predictions.one(prediction_id).answer == b"fresh"


def test_all_failed_ones_are_replayed_at_once(predictions):
    predictions.accept([new("a"), new("b"), new("c", fleet="fans")])
    claims = take(predictions, fleets=["pumps", "fans"])
    settle(predictions, [PredictionResult(claim=claim, state=FAILED, error="no") for claim in claims])
    assert predictions.replay_failed(fleet="pumps") == 2
    assert texts(take(predictions, fleets=["pumps", "fans"])) == ["a", "b"]
    assert predictions.replay_failed() == 1


def test_what_comes_too_late_is_discarded_and_says_so(predictions, clock):
    ids = predictions.accept([new("late", deadline_s=5), new("in time", deadline_s=60), new("held", deadline_s=5)])
    held = take(predictions, 3)
    settle(predictions, [again(claim) for claim in held[:2]])
    clock.move(6)
    assert texts(take(predictions)) == ["in time"]
    predictions.sweep(keep_s=100)
    record = predictions.one(ids[0])
    assert (record.state, record.settled_at) == (EXPIRED, clock())
    assert "deadline passed" in str(record.error)
    assert predictions.one(ids[2]).state is CLAIMED, "whoever holds it may still be in time"
    clock.move(30)
    predictions.sweep(keep_s=100)
    assert predictions.one(ids[2]).state is EXPIRED
    assert settle(predictions, [done(held[2])]) == set()


def test_what_failed_before_it_was_too_late_is_said(predictions, clock):
    [late] = predictions.accept([new("late", deadline_s=5)])
    settle(predictions, [again(claim, delay_s=30) for claim in take(predictions)])
    clock.move(6)
    predictions.sweep(keep_s=100)
    record = predictions.one(late)
    assert record.state is EXPIRED
    assert record.error == "its deadline passed before it was tried again; it had failed: not now"


def test_a_late_one_does_not_hold_up_its_key(predictions, clock):
    predictions.accept([new("a0", ordering_key="a", deadline_s=5), new("a1", ordering_key="a")])
    clock.move(6)
    assert take(predictions) == []
    predictions.sweep(keep_s=100)
    assert texts(take(predictions)) == ["a1"]


def test_results_are_forgotten_after_their_time(predictions, clock):
    ids = predictions.accept([new(str(number)) for number in range(5)])
    settle(predictions, [done(claim) for claim in take(predictions, 3)])
    clock.move(999)
    predictions.sweep(keep_s=1000)
    assert predictions.one(ids[0]).state is DONE
    clock.move(2)
    assert predictions.sweep(keep_s=1000).backlog.requests == 2
    for one in ids[:3]:
        with pytest.raises(NotFound):
            predictions.one(one)
    assert predictions.settled_among(ids) == set(ids[:3])
    assert [record.id for record in predictions.listed()] == [ids[4], ids[3]]
    assert predictions.accept([new("more")])[0].startswith("6-"), "numbers are never used again"


def test_what_a_silent_worker_held_is_taken_over_after_its_lease(predictions, clock):
    predictions.accept([new(str(number)) for number in range(3)])
    lost = take(predictions, 2)
    assert texts(take(predictions, owner="w2")) == ["2"]
    clock.move(31)
    taken = take(predictions, owner="w2")
    assert texts(taken) == ["0", "1", "2"]
    assert settle(predictions, [done(claim, b"late") for claim in lost]) == set()
    assert len(settle(predictions, [done(claim) for claim in taken])) == 3


def test_renewing_keeps_what_is_held_and_says_what_is_not(predictions, clock):
    predictions.accept([new(str(number)) for number in range(2)])
    claims = take(predictions)
    clock.move(20)
    assert predictions.renew(claims, lease_s=30) == {claim.number for claim in claims}
    clock.move(20)
    assert take(predictions, owner="w2") == []
    settle(predictions, [done(claims[0])])
    assert predictions.renew(claims, lease_s=30) == {claims[1].number}
    with pytest.raises(InvalidInput, match="lease"):
        predictions.renew(claims, lease_s=0)


def test_an_answer_is_kept_before_a_sink_gets_it_and_the_lease_goes_on(predictions, clock):
    predictions.accept([new(sink="board")])
    [claim] = take(predictions)
    clock.move(20)
    kept = PredictionResult(claim=claim, state=CLAIMED, answer=b"a", delivery="file-7")
    assert settle(predictions, [kept]) == {claim.number}
    clock.move(20)
    assert take(predictions, owner="w2") == [], "the lease was renewed"
    clock.move(20)
    [taken] = take(predictions, owner="w2")
    assert (taken.answer, taken.delivery, taken.attempt) == (b"a", "file-7", 2)


def test_the_workers_of_a_machine_that_are_gone_need_not_be_waited_for(predictions):
    predictions.accept([new()])
    gone = this_worker("x").replace(f":{os.getpid()}:", ":4194305:")
    assert len(take(predictions, owner=gone)) == 1
    assert take(predictions) == []
    predictions.sweep(keep_s=100)
    assert len(take(predictions)) == 1


def test_what_kills_its_workers_runs_alone_and_is_given_up_and_its_neighbours_are_not(predictions, clock):
    """Every worker that gets the poison dies with all it holds; a worker takes suspects alone."""
    ids = predictions.accept([new("poison" if number == 3 else str(number)) for number in range(8)])
    for turn in itertools.count():
        assert turn < 60
        clock.move(31)
        predictions.sweep(keep_s=1000)
        batch = take(predictions, 5, owner=f"w{turn}") or take(predictions, owner=f"w{turn}", suspects=True)
        if not batch:
            break
        if b"poison" in [claim.request for claim in batch]:
            continue
        settle(predictions, [done(claim) for claim in batch])
    states = {predictions.one(one).state for one in ids if predictions.one(one).request != b"poison"}
    assert states == {DONE}
    dead = predictions.one(ids[3])
    assert (dead.state, dead.attempts) == (FAILED, 5)
    assert "fell silent" in str(dead.error)


def test_one_turn_settles_accepts_and_claims(predictions):
    wanted = Wanted(fleets=["pumps"], owner="w1", lease_s=30, limit=10)
    empty = predictions.turn([], [], wanted, keep_s=100, lease_s=30)
    assert (empty.settled, empty.accepted, empty.claims) == (set(), [], [])
    first = predictions.turn(
        [], [new("a0", ordering_key="a"), new("a1", ordering_key="a")], wanted, keep_s=1, lease_s=30
    )
    assert texts(first.claims) == ["a0"]
    assert len(first.accepted) == 2
    second = predictions.turn([done(first.claims[0])], [new("b")], wanted, keep_s=100, lease_s=30)
    assert second.settled == {first.claims[0].number}
    assert texts(second.claims) == ["a1", "b"]
    third = predictions.turn([done(claim) for claim in second.claims], [], None, keep_s=100, lease_s=30)
    assert (len(third.settled), third.claims, predictions.backlog().requests) == (2, [], 0)


def test_results_that_are_known_are_done_at_once_and_found_by_request(predictions, clock):
    stored = {"kind": PredictionKind.STORED, "answer": b"known", "request_id": "r1"}
    ids = predictions.accept(
        [new("a", **stored, keep_s=50), new("b", **stored, sink="board", keep_s=2000), new("c", **stored)], keep_s=5
    )
    assert [record.id for record in predictions.of_request("r1")] == [ids[2], ids[1], ids[0]]
    assert [predictions.one(one).state for one in ids] == [DONE, WAITING, DONE]
    [claim] = take(predictions)
    assert (claim.answer, claim.sink) == (b"known", "board")
    settle(predictions, [PredictionResult(claim=claim, state=DONE, answer=claim.answer)])
    for seconds, left in ((51, [ids[2], ids[1]]), (2000, [ids[2]]), (10**8, [ids[2]])):
        clock.move(seconds)
        predictions.sweep(keep_s=5)
        assert [record.id for record in predictions.of_request("r1")] == left
    assert predictions.of_request("nobody's") == []
    assert predictions.of_request("r1", principal="nobody") == []
    assert len(predictions.of_request("r1", limit=1)) == 1


def test_lists_are_filtered_and_leave_out_what_is_large(predictions):
    predictions.accept(
        [new("a"), new("b", fleet="fans", principal="bob"), new("c", kind=PredictionKind.STORED, answer=b"x")]
    )
    assert [record.fleet for record in predictions.listed()] == ["pumps", "fans", "pumps"]
    assert [record.request for record in predictions.listed()] == [None] * 3
    assert [record.fleet for record in predictions.listed(fleet="fans")] == ["fans"]
    assert [record.principal for record in predictions.listed(principal="bob")] == ["bob"]
    assert [record.kind for record in predictions.listed(kind=PredictionKind.STORED)] == [PredictionKind.STORED]
    assert [record.state for record in predictions.listed(state=WAITING)] == [WAITING, WAITING]
    assert len(predictions.listed(limit=2)) == 2


def test_many_are_found_in_the_order_asked(predictions):
    ids = predictions.accept([new("a"), new("b")])
    strange = f"{ids[0].partition('-')[0]}-{'0' * 16}"
    assert [record.id for record in predictions.many([ids[1], strange, ids[0]])] == [ids[1], ids[0]]


def test_every_step_that_is_made_is_in_the_table(predictions, database, clock):
    """Triggers on the real databases would be another truth; this one watches the states of a row through its life."""
    seen = set()
    [prediction_id] = predictions.accept([new(most_attempts=2, deadline_s=1000)])

    def look(before):
        after = predictions.one(prediction_id).state
        seen.add((before, after))
        return after

    state = WAITING
    take(predictions)
    state = look(state)
    clock.move(31)
    [claim] = take(predictions, owner="w2")
    state = look(state)
    settle(predictions, [again(claim, counts=False)])
    state = look(state)
    clock.move(2000)
    predictions.sweep(keep_s=100)
    state = look(state)
    predictions.replay(prediction_id)
    state = look(state)
    [claim] = take(predictions)
    state = look(state)
    settle(predictions, [PredictionResult(claim=claim, state=FAILED, error="no")])
    state = look(state)
    predictions.replay(prediction_id)
    state = look(state)
    [claim] = take(predictions)
    state = look(state)
    settle(predictions, [done(claim)])
    look(state)
    assert all(after in PREDICTION_TRANSITIONS[before] for before, after in seen)
    assert {after for _, after in seen} == set(PredictionState)


def test_claims_use_the_indexes(predictions, database):
    """However many results are kept, looking for work reads none of them."""
    predictions.accept([new(str(number)) for number in range(3)])
    statements = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *a: statements.append((a[2], a[3])))
    take(predictions)
    predictions.sweep(keep_s=10)
    if database.engine.dialect.name == "sqlite":
        with database.read() as connection:
            plans = [
                row[3]
                for text, parameters in list(statements)
                if text.startswith("SELECT") and "predictions" in text
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)
            ]
        assert plans
        assert not [
            plan
            for plan in plans
            if plan.startswith("SCAN") and not any(harmless in plan for harmless in ("USING", "CONSTANT", "anon_"))
        ]


def test_times_are_the_databases(predictions, clock):
    [prediction_id] = predictions.accept([new(deadline_s=5)])
    record = predictions.one(prediction_id)
    assert record.accepted_at == clock()
    assert record.expires_at == clock() + dt.timedelta(seconds=5)
    [claim] = take(predictions)
    assert claim.left_s == 5.0


def test_large_groups_are_one_transaction(predictions, database):
    ids = predictions.accept([new(str(number)) for number in range(2500)])
    with database.read() as connection:
        found = connection.execute(sa.text("SELECT count(DISTINCT accepted_at), count(*) FROM predictions")).one()
    assert tuple(found) == (1, 2500)
    numbers = [parsed_id(one)[0] for one in ids]
    assert numbers == sorted(numbers)
    claims = take(predictions, 2500)
    assert texts(claims) == [str(number) for number in range(2500)]
    assert len(settle(predictions, [done(claim) for claim in claims])) == 2500


def test_the_backlog_says_what_waits_for_how_long_and_what_is_dead(predictions, clock):
    assert predictions.backlog() == Backlog()
    predictions.accept([new("a", most_attempts=1), new("b")])
    clock.move(5)
    predictions.accept([new(text) for text in "cdef"])
    a, b = take(predictions, 2)
    clock.move(3)
    found = predictions.backlog()
    assert (found.waiting, found.claimed, found.requests, found.size_bytes) == (4, 2, 6, 6)
    assert (found.oldest_s, found.dead) == (3.0, 0)
    settle(predictions, [again(a), again(b)])  # a for the last time
    found = predictions.backlog()
    assert (found.waiting, found.claimed, found.oldest_s, found.dead) == (5, 0, 8.0, 1)
    settle(predictions, [done(claim) for claim in take(predictions)])
    assert predictions.backlog() == Backlog(dead=1)


def test_a_sweep_says_what_it_ended(predictions, clock):
    predictions.accept([new("late", deadline_s=5), new("late too", deadline_s=5), new("killer", most_attempts=1)])
    take(predictions, 3)
    swept = predictions.sweep(keep_s=100)
    assert (swept.backlog, swept.expired, swept.failed) == (Backlog(claimed=3, size_bytes=18), 0, 0)
    assert 0 < swept.look_s < 60
    clock.move(60)
    swept = predictions.sweep(keep_s=100)
    assert (swept.expired, swept.failed) == (2, 1)
    swept = predictions.sweep(keep_s=100)
    assert (swept.backlog, swept.expired, swept.failed) == (Backlog(dead=1), 0, 0)


def test_dead_letters_are_counted_up_to_a_bound(predictions, monkeypatch):
    predictions.accept([new(str(number), most_attempts=1) for number in range(5)])
    settle(predictions, [again(claim) for claim in take(predictions)])
    assert predictions.backlog().dead == 5
    monkeypatch.setattr(queue, "_DEAD", queue._dead(3))
    assert predictions.backlog().dead == 3
