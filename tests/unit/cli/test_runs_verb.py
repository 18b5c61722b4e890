import pytest

from shoal.jobs.states import RunState
from shoal.ledger import Ledger, ShardPlan
from shoal.types import Counts, InputFile


@pytest.fixture
def ledger(database):
    return Ledger(database)


@pytest.fixture
def run(ledger):
    """A run of three shards: one done, one failed, one to do."""
    run = ledger.create_run(
        kind="score", fleet="flights", version=3, spec={"input": ["a.csv"], "where": None}, actor="ann",
        inputs=[InputFile(path="a.csv", size_bytes=900, sha256="ab" * 32, rows=20)],
        shards=[ShardPlan(number=number, source={}) for number in range(3)],
    )  # fmt: skip
    ledger.transition(run.id, RunState.RUNNING)
    first, second = ledger.claim(run.id, owner="w", lease_s=60, limit=2)
    ledger.finish(first, Counts(rows=10, scored=7, fallback=1, no_model=1, invalid=1), 12, {})
    ledger.fail(second, "no memory", retry=False)
    return ledger.transition(run.id, RunState.FAILED, error="1 shard failed").id


def test_runs_are_listed(shoal, shoal_json, run):
    (listed,) = shoal_json("runs", "list", "--state", "failed", "--fleet", "flights", "--kind", "score")
    assert (listed["id"], listed["state"], listed["error"]) == (run, "failed", "1 shard failed")
    assert shoal_json("runs", "list", "--state", "running") == []
    assert run in shoal("runs", "list").stdout
    assert shoal("runs", "list", "--kind", "train").stderr == "no runs\n"


def test_a_run_is_shown_with_its_ledger(shoal, shoal_json, run):
    shown = shoal_json("runs", "show", run)
    assert shown["ledger"] == {
        "input_rows": 20, "source_rows": 12, "rows": 10, "scored": 7, "fallback": 1, "no_model": 1, "invalid": 1,
        "failed": 0, "shards": {"pending": 1, "claimed": 0, "done": 1, "failed": 1},
        "reconciles": True, "differences": [],
    }  # fmt: skip
    assert shown["inputs"][0]["path"] == "a.csv"
    text = shoal("runs", "show", run).stdout
    for line in ("state", "after preprocessing", "no_model", "reconciles", "1 pending, 1 done, 1 failed", "a.csv"):
        assert line in text
    assert "where" not in text


def test_a_run_that_does_not_reconcile_says_so(shoal, run, database):
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE shards SET scored = 70 WHERE number = 0")
    assert "does not reconcile: shard 0: 10 rows, but 73 outcomes" in shoal("runs", "show", run).stdout


def test_what_went_wrong_is_listed(shoal, shoal_json, run):
    assert [(e["where"], e["error"]) for e in shoal_json("runs", "errors", run)] == [
        ("run", "1 shard failed"), ("shard 1", "no memory"),
    ]  # fmt: skip
    assert "no memory" in shoal("runs", "errors", run).stdout
    assert "no run 'x'" in shoal("runs", "errors", "x", code=1).stderr
