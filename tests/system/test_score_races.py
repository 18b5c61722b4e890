"""Runs that want the same place at the same time, and whole outputs of text after a kill."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from score_process import kill, start
from score_world import leftovers, make_home, read_output, recount, run, scorer, spec, write_inputs

import shoal
from shoal.batch import worker
from shoal.errors import OutputExists, StorageError
from shoal.jobs.states import RunState


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_home(folder / "home")
    return folder


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template / "home", tmp_path / "home"))


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_replacing_at_once_leaves_the_whole_output_of_one(home: Path, tmp_path: Path, name: str) -> None:
    inputs, output = write_inputs(tmp_path / "in", (900, 700, 800)), tmp_path / name
    run(home, spec(inputs[:1], output))
    racers = [start(home, spec([path], output, if_exists="replace")) for path in inputs]
    assert [racer.wait() for racer in racers] == [0, 0, 0], [racer.said for racer in racers]
    (owner,) = read_output(output)["_file"].unique().to_list()
    recount(output, [Path(owner)])
    assert leftovers(output) == []


def test_appending_at_once_keeps_all(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", (900, 700, 800)), tmp_path / "out"
    racers = [start(home, spec([path], output, if_exists="append")) for path in inputs]
    assert [racer.wait() for racer in racers] == [0, 0, 0], [racer.said for racer in racers]
    folders = {racer.said: path for racer, path in zip(racers, inputs, strict=True)}
    for name, path in folders.items():
        recount(output / f"run={name}", [path])
    assert {path.name for path in output.iterdir()} == {f"run={name}" for name in folders}


@pytest.mark.parametrize(("name", "step"), [("out", "staged"), ("out.parquet", "described"), ("out.csv", "merged")])
def test_what_came_into_being_meanwhile_stays(home: Path, tmp_path: Path, name: str, step: str) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / name

    def meanwhile(now: str) -> None:
        if now == step:
            output.mkdir() if name == "out" else None
            (output / "letter" if name == "out" else output).write_text("dear")

    with pytest.raises(OutputExists, match=r"came into being meanwhile|already there"):
        scorer(home, meanwhile).score(spec(inputs, output))
    letter = output / "letter" if name == "out" else output
    assert letter.read_text() == "dear"
    record = shoal.open(home).ledger.runs()[0]
    assert record.state is RunState.FAILED
    shutil.rmtree(output) if name == "out" else output.unlink()
    summary = scorer(home).resume(record.id)
    assert summary.ledger.totals.counts.rows == 571
    if name != "out.csv":
        recount(output, inputs)


TEXT_KILLS = [
    ("out.csv", "write"), ("out.csv", "merged"), ("out.csv", "described"), ("out.jsonl", "published"),
    ("csv", "finished"), ("csv", "staged"), ("jsonl", "commit"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "step"), TEXT_KILLS)
def test_texts_are_the_same_after_a_kill(home: Path, tmp_path: Path, name: str, step: str) -> None:
    inputs = write_inputs(tmp_path / "in")
    form = name.rpartition(".")[2]
    job = {"output_format": form, "carry": ["kind", "n"]}
    run(home, spec(inputs, tmp_path / f"calm-{name}", **job))
    kill(home, spec(inputs, tmp_path / name, **job), step)
    scorer(home).resume(shoal.open(home).ledger.runs()[0].id)
    assert contents(tmp_path / name) == contents(tmp_path / f"calm-{name}")
    assert leftovers(tmp_path / name) == []


def contents(output: Path) -> dict[str, bytes]:
    """What an output consists of, but for the record of its run."""
    if output.is_dir():
        return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.name != "_shoal.json"}
    errors = output.with_name(f"{output.name}.errors.jsonl")
    return {"output": output.read_bytes(), "errors": errors.read_bytes()}


def test_beginning_anew_twice_at_once_is_done_once(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", (1500, 1500)), tmp_path / "out"
    kill(home, spec(inputs, output, failure_policy="retry-all"), "finished", 2)
    (old,) = shoal.open(home).ledger.runs()
    pair = [start(home, old.id) for _ in range(2)]
    codes = sorted(each.wait() for each in pair)
    assert codes == [0, 1], [each.said for each in pair]
    recount(output, inputs)
    runs = shoal.open(home).ledger.runs()
    assert sorted(record.state for record in runs) == [RunState.CANCELLED, RunState.SUCCEEDED]
    assert runs[0].id in str(shoal.open(home).ledger.run(old.id).error)


def test_an_output_all_of_whose_rows_are_left_has_its_columns(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> pl.DataFrame:
        raise StorageError("bad sector")

    monkeypatch.setattr(worker, "read_shard", failing)
    monkeypatch.setattr(worker, "BACKOFF_S", 0.001)
    inputs = write_inputs(tmp_path / "in")
    for name in ("out.parquet", "out.csv", "out.jsonl"):
        summary = run(home, spec(inputs, tmp_path / name, failure_policy="leave"))
        assert summary.ledger.totals.counts.failed == 571
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert (frame.height, frame.columns) == (0, pl.read_csv(tmp_path / "out.csv").columns)
    assert (tmp_path / "out.jsonl").read_text() == ""
