"""The judge of the soak finds every kind of broken promise: one that finds none would be worth nothing."""

import json
import time

import pytest

from benchmarks.soak_checker import VERSION_UNIT, Checker

OFFSETS = (3_007.0, 5_001.0)


@pytest.fixture
def checker():
    judge = Checker(stale_s=1.0)
    now_s = time.monotonic()
    for version, done_s in ((1, now_s - 20), (2, now_s - 10)):
        judge.promoting(version)
        judge.promoted(done_s)
    return judge


def answer(*versions, named=2, outcome="scored"):
    values = [version * VERSION_UNIT + offset for version, offset in zip(versions, OFFSETS, strict=True)]
    columns = {"prediction": values, "outcome": [outcome] * len(values)}
    outputs = [{"name": name, "data": data} for name, data in columns.items()]
    return {"model_name": "soak", "model_version": str(named), "outputs": outputs}


def said(checker):
    return set(checker.findings.wrong)


def ask(checker, told, sent_s=None):
    checker.answered(json.dumps(told).encode(), OFFSETS, time.monotonic() if sent_s is None else sent_s)


def test_right_answers_are_right(checker):
    ask(checker, answer(2, 2))
    assert not said(checker)
    assert (checker.findings.answers, checker.findings.rows) == (1, 2)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (answer(1, 1), "a wrong answer"),
        (answer(2, 1), "an answer of two versions"),
        (answer(1, 1, named=1), "a version that is no champion any more"),
        (answer(3, 3, named=3), "a version that never was the champion"),
        (answer(2, 2, outcome="fallback"), "a row that was not scored"),
        ({**answer(2, 2), "outputs": []}, "a wrong answer"),
        ({"error": "no"}, "an answer that cannot be read"),
    ],
)
def test_wrong_answers_are_found(checker, told, kind):
    ask(checker, told)
    assert said(checker) == {kind}
    assert len(checker.findings.examples) == 1


def test_rows_in_another_order_are_found(checker):
    told = answer(2, 2)
    told["outputs"][0]["data"].reverse()
    ask(checker, told)
    assert said(checker) == {"a wrong answer"}


def test_an_old_version_may_answer_for_a_moment_and_what_was_asked_before(checker):
    now_s = time.monotonic()
    checker.promoting(3)
    checker.promoted(now_s)
    ask(checker, answer(2, 2), now_s + 0.5)
    ask(checker, answer(2, 2), now_s - 5)
    assert not said(checker)
    assert checker.findings.lag_s == pytest.approx(0.5)
    ask(checker, answer(2, 2), now_s + 1.5)
    assert said(checker) == {"a version that is no champion any more"}


def test_a_version_may_answer_while_it_is_being_promoted(checker):
    """Servers follow what is committed; whoever promotes may hear of it later, and 1 was the champion long before."""
    now_s = time.monotonic()
    checker.promoting(1)
    ask(checker, answer(1, 1, named=1), now_s)
    ask(checker, answer(2, 2), now_s)
    assert not said(checker)
    checker.promoted(now_s)
    ask(checker, answer(2, 2), now_s + 1.5)
    assert said(checker) == {"a version that is no champion any more"}


def test_only_refusals_that_say_when_to_come_back_are_allowed(checker):
    checker.refused(503, retry_after=True, text="")
    assert not said(checker)
    checker.refused(503, retry_after=False, text="")
    checker.refused(500, retry_after=True, text="")
    checker.refused(400, retry_after=False, text="")
    assert said(checker) == {"status 503", "status 500", "status 400"}


def test_only_deaths_excuse_connections_that_end(checker):
    checker.reset("one", time.monotonic())
    assert said(checker) == {"a connection ended though no worker was killed"}
    answered_s = time.monotonic() - 1
    checker.killed("two")
    checker.reset("two", answered_s)
    assert checker.findings.wrong.total() == 1


def later(prediction_id, told, state="done"):
    return json.dumps({"id": prediction_id, "state": state, "response": told}).encode()


def test_what_was_accepted_has_to_be_done_once_and_rightly(checker):
    for number in range(4):
        checker.accepted(f"p{number}", f"key{number}", OFFSETS, time.monotonic())
    checker.done("p0", later("p0", answer(2, 2)))
    assert (checker.waiting, checker.findings.done, said(checker)) == (3, 1, set())
    checker.done("p1", later("p1", answer(1, 2)))
    assert said(checker) == {"an answer of two versions"}
    checker.done("p2", later("p2", None, state="failed"))
    assert "an accepted request that was not done" in said(checker)
    checker.kept([("key0", "done"), ("key1", "done"), ("key2", "failed"), ("key3", "waiting")])
    assert "an accepted request that was lost" in said(checker)


def test_what_was_accepted_twice_is_found(checker):
    checker.accepted("p0", "key0", OFFSETS, time.monotonic())
    checker.accepted("p0", "key1", OFFSETS, time.monotonic())
    assert said(checker) == {"two requests are one"}


@pytest.mark.parametrize("kept", [[], [("key0", "done")] * 2, [("key0", "done"), ("other", "done")]])
def test_the_ledger_has_to_know_each_request_once(checker, kept):
    checker.accepted("p0", "key0", OFFSETS, time.monotonic())
    checker.done("p0", later("p0", answer(2, 2)))
    assert not said(checker)
    checker.kept(kept)
    assert said(checker) == {"the ledger knows other requests than were accepted"}
