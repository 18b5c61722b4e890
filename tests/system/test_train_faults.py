"""Trainings in real processes: what goes wrong in one segment stays there."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.linear_model import LinearRegression
from train_estimators import HANG, KILL, RAISE

from shoal.errors import InvalidSpec, NotFound, StorageError
from shoal.fleet import Fleet
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, ShardPlan, this_worker
from shoal.registry import SnapshotRecord
from shoal.storage.sql import Database
from shoal.training.runs import clear_dead_runs
from shoal.training.train import TrainedFleet, Trainer
from shoal.types import Counts

MOODS = {"raises": RAISE, "kills": KILL, "hangs": HANG}
TIMEOUT_S = 12  # a moment for whoever hangs; for all others much more than they need, also where all is slow


def ledger_in(home: Path) -> Ledger:
    database = Database(f"sqlite:///{home / 'shoal.db'}")
    database.migrate()
    return Ledger(database)


def trainer_in(home: Path, promote: Callable[..., Any] = lambda *_, **__: None) -> Trainer:
    """A trainer whose registry is a list of one."""
    now = dt.datetime.now(dt.UTC)

    def register(fleet: Fleet, name: str | None = None, **_: Any) -> SnapshotRecord:
        return SnapshotRecord(
            fleet=name or "", version=1, digest="0", model_count=len(fleet), new_models=len(fleet), note="",
            created_at=now, created_by="me", run=None, collected_at=None,
        )  # fmt: skip

    def open_fleet(reference: str) -> Fleet:
        raise NotFound(reference)

    return Trainer(
        register=register, promote=promote, open_fleet=open_fleet,  # type: ignore[arg-type]
        ledger=ledger_in(home), actor="me", home=home,
    )  # fmt: skip


def rows(segments: list[str], each: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "segment": np.repeat(segments, each),
            "mood": np.repeat([MOODS.get(segment, 0.0) for segment in segments], each) + 0.0,
            "x": rng.normal(size=each * len(segments)),
        }
    ).with_columns(
        y=pl.col("x") * 2 + pl.col("segment").rank("dense") + rng.normal(scale=0.1, size=each * len(segments))
    )


def spec(folder: Path, frame: pl.DataFrame, estimator: str, **more: object) -> dict[str, object]:
    frame.write_parquet(folder / "rows.parquet")
    return {
        "fleet": "moods", "input": folder / "rows.parquet", "keys": ["segment"], "features": ["mood", "x"],
        "target": "y", "task": "regression", "candidates": [{"name": "it", "steps": [estimator]}], "processes": 2,
        "keep": {"minimum_validation_rows": 5},
        **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame, TrainedFleet]:
    home = tmp_path_factory.mktemp("moody")
    ordinary = [f"s{i:02d}" for i in range(40)]
    frame = rows([*ordinary[:20], *MOODS, *ordinary[20:]])
    trained = trainer_in(home).train(spec(home, frame, "train_estimators.Moody", timeout_s=TIMEOUT_S, seed=1))
    return home, frame, trained


def test_segments_that_raise_kill_or_hang_are_recorded_and_fall_back(
    moody: tuple[Path, pl.DataFrame, TrainedFleet],
) -> None:
    _, frame, trained = moody
    failed = trained.report.filter(pl.col("decision") == "failed")
    reasons = dict(failed.select("key", "reason").rows())
    assert reasons.keys() == MOODS.keys()
    assert "ValueError: this segment is cursed" in reasons["raises"]
    assert "SIGKILL" in reasons["kills"]
    assert f"longer than {TIMEOUT_S} s" in reasons["hangs"]
    answers = trained.fleet.predict(frame, model_level=True)
    levels = dict(zip(frame["segment"], answers["model_level"], strict=True))
    assert {levels[segment] for segment in MOODS} == {"global"}
    assert any("3 segments could not be trained" in warning for warning in trained.warnings)


def test_all_others_are_as_if_nothing_had_happened(moody: tuple[Path, pl.DataFrame, TrainedFleet]) -> None:
    _, frame, trained = moody
    others = trained.report.filter(~pl.col("key").is_in([*MOODS, "*"]))
    assert others.height == 40
    assert set(others["decision"]) == {"kept"}
    one = frame.filter(pl.col("segment") == "s07")
    assert trained.report.filter(pl.col("key") == "s07")["rows"].item() == 32
    fitted = LinearRegression().fit(one.select("mood", "x").to_numpy(), one["y"].to_numpy())
    answers = trained.fleet.predict(one)["prediction"].to_numpy()
    assert np.abs(answers - fitted.predict(one.select("mood", "x").to_numpy())).max() < 0.2


def test_the_ledger_knows_every_model(moody: tuple[Path, pl.DataFrame, TrainedFleet]) -> None:
    home, frame, trained = moody
    ledger = ledger_in(home)
    assert ledger.run(trained.run).state is RunState.SUCCEEDED
    report = ledger.reconcile(trained.run)
    assert report.balanced
    assert (report.totals.source_rows, report.input_rows) == (frame.height, frame.height)
    counts = report.totals.counts
    assert (counts.rows, counts.scored, counts.failed) == (44, 41, 3)
    assert ledger.shards(trained.run)[0].part == {"kept": 41, "fallback": 0, "failed": 3, "too_few_rows": 0}
    assert list((home / "training").iterdir()) == []


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    frame = rows([f"s{i}" for i in range(12)])
    steps = [{"sklearn.ensemble.RandomForestRegressor": {"n_estimators": 5}}]
    results = []
    for processes in (1, 2):
        home = tmp_path / str(processes)
        home.mkdir()
        document = spec(home, frame, "", candidates=[{"name": "forest", "steps": steps}], processes=processes, seed=5)
        results.append(trainer_in(home).train(document))
    one, two = results
    assert_frame_equal(one.report.drop("seconds"), two.report.drop("seconds"), check_exact=True)
    answers = [result.fleet.predict(frame)["prediction"] for result in results]
    assert answers[0].to_list() == answers[1].to_list()
    volatile = {"trained_at", "run"}
    assert_frame_equal(one.fleet.models.drop(volatile), two.fleet.models.drop(volatile), check_exact=True)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_train_faults import rows, spec, trainer_in
home = Path({home!r})
print("ready", flush=True)
trainer_in(home).train(spec(home, rows([f"s{{i}}" for i in range(60)]), "train_estimators.Slow"))
"""


def start(home: Path) -> "subprocess.Popen[str]":
    """A training of half a minute in a process of its own, once it is at work."""
    code = SCRIPT.format(paths=[str(Path(__file__).parent)], home=str(home))
    begun = home / "begun"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "SLOW_BEGUN": str(begun)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 120
    while len(workers_of(process.pid)) < 2 or not begun.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no model is trained"
        time.sleep(0.05)
    return process


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "worker processes are left behind"
        time.sleep(0.1)


def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    process = start(tmp_path)
    workers = workers_of(process.pid)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    wait_until_gone(workers)
    (run,) = ledger_in(tmp_path).runs()
    assert run.state is RunState.CANCELLED
    assert list((tmp_path / "training").iterdir()) == []


def test_a_training_killed_outright_is_cleared_by_the_next(tmp_path: Path) -> None:
    process = start(tmp_path)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate()
    wait_until_gone(workers)
    (killed,) = ledger_in(tmp_path).runs()
    assert killed.state is RunState.RUNNING
    assert [folder.name for folder in (tmp_path / "training").iterdir()] == [killed.id]
    trained = trainer_in(tmp_path).train(spec(tmp_path, rows(["a", "b"]), "sklearn.linear_model.LinearRegression"))
    ledger = ledger_in(tmp_path)
    assert ledger.run(killed.id).state is RunState.FAILED
    assert ledger.run(trained.run).state is RunState.SUCCEEDED
    assert list((tmp_path / "training").iterdir()) == []


def test_a_training_that_cannot_be_done_is_recorded(tmp_path: Path) -> None:
    document = spec(tmp_path, rows(["a", "b"]), "sklearn.neighbors.KNeighborsRegressor")
    with pytest.raises(InvalidSpec, match="KNeighborsRegressor"):
        trainer_in(tmp_path).train(document)
    (run,) = ledger_in(tmp_path).runs()
    assert run.state is RunState.FAILED
    assert "KNeighborsRegressor" in (run.error or "")


def test_a_promotion_that_fails_is_what_the_user_sees(tmp_path: Path) -> None:
    def promote(*_: object, **__: object) -> None:
        raise StorageError("the registry's disk is full")

    document = spec(tmp_path, rows(["a", "b"]), "sklearn.linear_model.LinearRegression", promote=True)
    with pytest.raises(StorageError, match="the registry's disk is full"):
        trainer_in(tmp_path, promote).train(document)
    (run,) = ledger_in(tmp_path).runs()
    assert run.state is RunState.FAILED
    assert run.error == "the registry's disk is full (moods:1 is registered all the same)"


def test_an_end_that_cannot_be_recorded_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Ledger, run: str) -> None:
        raise StorageError("the ledger is away")

    def promote(*_: object, **__: object) -> None:
        monkeypatch.setattr(Ledger, "run", refuse)
        raise StorageError("the registry is away")

    document = spec(tmp_path, rows(["a", "b"]), "sklearn.linear_model.LinearRegression", promote=True)
    with pytest.raises(StorageError, match="the registry is away"):
        trainer_in(tmp_path, promote).train(document)


def test_trainings_of_processes_that_are_gone_are_cleared_wherever_they_stood(tmp_path: Path) -> None:
    code = "from shoal.ledger import this_worker; print(this_worker())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    ledger = ledger_in(tmp_path)

    def training(owner: str) -> str:
        return ledger.create_run(
            kind="train", fleet="moods", version=None, spec={}, inputs=(), actor="me",
            shards=[ShardPlan(number=0, source={"owner": owner})],
        ).id  # fmt: skip

    def registering(owner: str) -> str:
        run = training(owner)
        ledger.transition(run, RunState.RUNNING)
        ledger.finish(ledger.claim(run, owner=owner, lease_s=60)[0], Counts(rows=1, scored=1), 9, {})
        ledger.transition(run, RunState.COMMITTING)
        return run

    dead, alive = [training(gone), registering(gone)], [training(this_worker()), registering(this_worker())]
    (tmp_path / "training" / dead[1]).mkdir(parents=True)
    clear_dead_runs(ledger, tmp_path / "training")
    assert [ledger.run(run).state for run in dead] == [RunState.FAILED] * 2
    assert "shoal fleets show moods" in (ledger.run(dead[1]).error or "")
    assert [ledger.run(run).state for run in alive] == [RunState.PLANNED, RunState.COMMITTING]
    assert list((tmp_path / "training").iterdir()) == []
