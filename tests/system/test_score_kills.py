"""Score jobs that are killed with SIGKILL at every phase, then resumed: every row once, and right."""

import shutil
from pathlib import Path

import pytest
from score_process import kill, start
from score_world import leftovers, make_home, read_output, recount, run, scorer, spec, write_inputs

import shoal
from shoal.jobs.states import RunState, ShardState
from shoal.types import Counts


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_home(folder / "home")
    return folder


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template / "home", tmp_path / "home"))


def only_run(home: Path) -> str:
    (record,) = shoal.open(home).ledger.runs()
    return record.id


FOLDER_STEPS = [
    ("planned", 1), ("read", 2), ("write", 3), ("finish", 2), ("finished", 3), ("commit", 1), ("named", 1),
    ("staged", 1), ("published", 1),
]  # fmt: skip
FILE_STEPS = [
    ("write", 4, "fail"), ("merged", 1, "replace"), ("described", 1, "fail"), ("described", 1, "replace"),
    ("published", 1, "replace"), ("succeeded", 1, "fail"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "time"), FOLDER_STEPS)
def test_a_folder_is_whole_after_a_kill(home: Path, tmp_path: Path, step: str, time: int) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    kill(home, spec(inputs, output), step, time)
    assert output.exists() is (step in ("published", "succeeded"))
    summary = scorer(home).resume(only_run(home))
    assert summary.state is RunState.SUCCEEDED
    recount(output, inputs)
    assert summary.ledger.balanced
    assert summary.ledger.totals.source_rows == summary.ledger.totals.counts.rows == 571
    assert (output / "_errors.jsonl").read_text().count("\n") == summary.ledger.totals.counts.invalid
    assert leftovers(output) == []


@pytest.mark.parametrize(("step", "time", "if_exists"), FILE_STEPS)
def test_a_file_is_whole_after_a_kill(home: Path, tmp_path: Path, step: str, time: int, if_exists: str) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out.parquet"
    if if_exists == "replace":
        run(home, spec(inputs[:1], output))
        before = read_output(output).height
    kill(home, spec(inputs, output, if_exists=if_exists), step, time)
    if step in ("published", "succeeded"):
        recount(output, inputs)
    elif if_exists == "replace":
        assert read_output(output).height == before
    else:
        assert not output.exists()
    summary = scorer(home).resume(shoal.open(home).ledger.runs()[0].id)
    recount(output, inputs)
    assert summary.errors is not None
    assert summary.errors.read_text().count("\n") == summary.ledger.totals.counts.invalid
    assert leftovers(output) == []


def test_a_replaced_folder_is_the_old_or_the_new(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    run(home, spec(inputs[:1], output))
    for step in ("staged", "published"):
        kill(home, spec(inputs, output, if_exists="replace"), step)
        recount(output, inputs if step == "published" else inputs[:1])
        scorer(home).resume(shoal.open(home).ledger.runs()[0].id)
        recount(output, inputs)
        assert leftovers(output) == []
        run(home, spec(inputs[:1], output, if_exists="replace"))


def test_killed_again_and_again(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    kill(home, spec(inputs, output), "finished", 1)
    identity = only_run(home)
    for step in ("write", "finish", "commit"):
        kill(home, identity, step)
        assert not output.exists()
    scorer(home).resume(identity)
    recount(output, inputs)


def test_killed_while_preparing_nothing_is_left_behind(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out"
    source.write_text("device,sensor,a,b\n" + "d0,1,1.0,2.0\n" * 250)
    kill(home, spec(source, output), "prepared")
    assert shoal.open(home).ledger.runs() == []
    assert run(home, spec(source, output)).ledger.totals.counts == Counts(rows=250, scored=250)
    assert list((home / "runs").glob("prepared-*")) == []


def test_a_prepared_run_goes_on(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out"
    source.write_text("device,sensor,a,b\n" + "d0,1,1.0,2.0\n" * 250)
    kill(home, spec(source, output), "finished", 2)
    summary = scorer(home).resume(only_run(home))
    assert summary.ledger.totals.counts == Counts(rows=250, scored=250)
    assert read_output(output)["_row"].to_list() == list(range(250))
    assert list((home / "runs").glob("prepared-*")) == []


def test_resuming_does_only_what_is_not_done(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    kill(home, spec(inputs, output), "finished", 4)
    states = [shard.state for shard in shoal.open(home).ledger.shards(only_run(home))]
    assert states.count(ShardState.DONE) >= 4
    steps: list[str] = []
    scorer(home, steps.append).resume(only_run(home))
    assert steps.count("read") == len(states) - states.count(ShardState.DONE)
    recount(output, inputs)


def test_under_retry_all_everything_is_done_anew(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    kill(home, spec(inputs, output, failure_policy="retry-all"), "finished", 4)
    steps: list[str] = []
    summary = scorer(home, steps.append).resume(only_run(home))
    assert steps.count("read") == len(shoal.open(home).ledger.shards(summary.run))
    recount(output, inputs)
    assert leftovers(output) == []


def test_two_processes_share_a_run(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", (3000, 2500)), tmp_path / "out"
    kill(home, spec(inputs, output), "planned")
    identity = only_run(home)
    helpers = [start(home, identity) for _ in range(2)]
    assert [helper.wait() for helper in helpers] == [0, 0], [helper.said for helper in helpers]
    owners = {shard.owner for shard in shoal.open(home).ledger.shards(identity)}
    assert owners
    recount(output, inputs)
    assert leftovers(output) == []


def test_a_second_process_takes_over_from_a_killed_one(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", (3000, 2500)), tmp_path / "out"
    kill(home, spec(inputs, output), "planned")
    identity = only_run(home)
    victim, heir = start(home, identity, "write", 3), start(home, identity)
    victim.wait()
    assert heir.wait() == 0, heir.said
    recount(output, inputs)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_two_runs_to_one_output_are_never_mixed(home: Path, tmp_path: Path, name: str) -> None:
    inputs, output = write_inputs(tmp_path / "in", (2000, 1500)), tmp_path / name
    racers = [start(home, spec(chosen, output)) for chosen in (inputs[:1], inputs[1:])]
    codes = [racer.wait() for racer in racers]
    assert sorted(codes) == [0, 1], [racer.said for racer in racers]
    recount(output, inputs[:1] if codes[0] == 0 else inputs[1:])
    assert racers[codes.index(1)].said.startswith("OutputExists")
