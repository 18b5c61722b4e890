import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from shoal.batch.publishing import PublishedFile, Record
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
    assert shoal("runs", "list", "--kind", "train").stderr == "nothing matches --kind train\n"


def test_a_run_is_shown_with_its_ledger(shoal, shoal_json, run):
    shown = shoal_json("runs", "show", run)
    assert shown["ledger"] == {
        "input_rows": 20, "source_rows": 12, "rows": 10, "scored": 7, "fallback": 1, "no_model": 1, "invalid": 1,
        "failed": 0, "shards": {"pending": 1, "claimed": 0, "done": 1, "failed": 1},
        "reconciles": False, "differences": [],
    }  # fmt: skip
    assert shown["inputs"][0]["path"] == "a.csv"
    text = shoal("runs", "show", run).stdout
    for line in (
        "state",
        "after preprocessing",
        "no_model",
        "so far: 1 of 3 shards",
        "1 pending, 1 done, 1 failed",
        "a.csv",
    ):
        assert line in text
    assert "reconciles" not in text  # two shards are not done: nothing is known of their rows
    assert "where" not in text


def test_a_run_that_does_not_reconcile_says_so(shoal, run, database):
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE shards SET scored = 70 WHERE number = 0")
    assert "does not reconcile: shard 0: 10 rows, but 73 outcomes" in shoal("runs", "show", run).stdout


def test_what_went_wrong_is_listed(shoal, shoal_json, run):
    assert [(e["where"], e["error"]) for e in shoal_json("runs", "errors", run)["errors"]] == [
        ("run", "1 shard failed"), ("shard 1", "no memory"),
    ]  # fmt: skip
    assert "no memory" in shoal("runs", "errors", run).stdout
    assert "no run 'x'" in shoal("runs", "errors", "x", code=1).stderr


@pytest.fixture
def scored(ledger, tmp_path):
    """A run that succeeded, with its output and the file of its bad rows."""
    output = tmp_path / "out.csv"
    spec = {"fleet": "flights", "input": ["a.csv"], "output": str(output)}
    run = ledger.create_run(
        kind="score", fleet="flights", version=3, spec=spec, actor="ann", inputs=(),
        shards=[ShardPlan(number=0, source={})],
    )  # fmt: skip
    ledger.transition(run.id, RunState.RUNNING)
    (claim,) = ledger.claim(run.id, owner="w", lease_s=60)
    ledger.finish(claim, Counts(rows=3, scored=1, invalid=2), 3, {})
    ledger.transition(run.id, RunState.COMMITTING)
    ledger.transition(run.id, RunState.SUCCEEDED)
    output.write_text("prediction\n1.5\n")
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    files = (PublishedFile(path="out.csv", rows=1, sha256=digest),)
    record = Record(run=run.id, fleet="flights", snapshot=3, rows=1, files=files)
    Path(f"{output}.shoal.json").write_bytes(msgspec.json.encode(record))
    bad = [{"_row": row, "dest": "LAX", "reason": "missing value in 'temp'"} for row in (4, 9)]
    Path(f"{output}.errors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    return run.id, output


def test_rows_that_could_not_be_scored_are_listed(shoal, shoal_json, scored):
    run, output = scored
    shown = shoal_json("runs", "errors", run, "--limit", "1")
    assert shown == {
        "errors": [], "bad_rows": 2, "file": f"{output}.errors.jsonl",
        "rows": [{"_row": 4, "dest": "LAX", "reason": "missing value in 'temp'"}],
    }  # fmt: skip
    text = shoal("runs", "errors", run).stdout
    assert f"2 rows could not be scored; listed in {output}.errors.jsonl" in text
    assert len([line for line in text.splitlines() if "missing value in 'temp'" in line]) == 2


def test_bad_rows_of_an_output_that_was_replaced_are_not_passed_off_as_the_run_s(shoal, scored):
    run, output = scored
    output.write_text("prediction\n2.5\n")
    assert "the output that listed them is not there" in shoal("runs", "errors", run).stdout


def test_segments_that_failed_in_a_training_are_no_rows(shoal, shoal_json, ledger):
    run = ledger.create_run(
        kind="train", fleet="flights", version=None, spec={}, actor="ann", inputs=[],
        shards=[ShardPlan(number=0, source={})],
    ).id  # fmt: skip
    ledger.transition(run, RunState.RUNNING)
    part = {"kept": 4, "fallback": 0, "too_few_rows": 0, "failed": 3}
    ledger.finish(ledger.claim(run, owner="w", lease_s=60)[0], Counts(rows=7, scored=4, failed=3), 90, part)
    text = shoal("runs", "errors", run).stdout
    assert "3 segments could not be trained" in text
    assert "rows could not be scored" not in text
    assert shoal_json("runs", "errors", run)["bad_rows"] == 0
    assert "so far: 1 of 1 shards" in shoal("runs", "show", run).stdout
