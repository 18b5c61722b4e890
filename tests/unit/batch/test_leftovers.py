"""What garbage collection removes of score jobs, and what it must keep."""

from pathlib import Path

import pytest

import shoal
from shoal.batch.leftovers import OWNER, files_below, find_leftovers
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, ShardPlan, this_worker
from shoal.storage.sql import Database
from shoal.types import Counts

GONE = this_worker().rpartition(":")[0] + ":0"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ledger(home: Path) -> Ledger:
    database = Database(f"sqlite:///{home / 'shoal.db'}")
    database.migrate()
    return Ledger(database)


def prepared(home: Path, name: str, owner: str = GONE) -> Path:
    folder = home / "runs" / f"prepared-{name}"
    folder.mkdir(parents=True)
    (folder / OWNER).write_text(owner)
    (folder / "rows.parquet").write_bytes(b"rows")
    return folder


def make_run(ledger: Ledger, tmp_path: Path, folder: Path | None = None, policy: str = "leave", **more: object) -> str:
    spec = {"fleet": "f", "input": ["a.csv"], "output": str(tmp_path / "out"), "failure_policy": policy}
    slices = [] if folder is None else [[str(folder / "rows.parquet"), 0, 5]]
    source = {"slices": slices, "prepared": folder is not None, **more}
    record = ledger.create_run(
        kind="score", fleet="f", version=1, spec=spec, inputs=(), actor="ann",
        shards=[ShardPlan(number=0, source=source)],
    )  # fmt: skip
    return record.id


def end(ledger: Ledger, run: str, *, left: bool = False) -> None:
    ledger.transition(run, RunState.RUNNING)
    (claim,) = ledger.claim(run, owner="w", lease_s=60)
    ledger.finish(claim, Counts(rows=5, failed=5), 5, {"left": left})
    ledger.transition(run, RunState.COMMITTING)
    ledger.transition(run, RunState.SUCCEEDED)


def test_prepared_input_goes_when_nobody_will_read_it(home: Path, ledger: Ledger, tmp_path: Path) -> None:
    folders = {name: prepared(home, name) for name in ("dead", "planned", "failed", "left", "taken", "cancelled")}
    alive = prepared(home, "alive", this_worker())
    make_run(ledger, tmp_path, folders["planned"])
    failed, left, taken, cancelled = (
        make_run(ledger, tmp_path, folders[name]) for name in ("failed", "left", "taken", "cancelled")
    )
    ledger.transition(failed, RunState.FAILED, error="disk full")
    ledger.transition(cancelled, RunState.CANCELLED)
    end(ledger, left, left=True)
    end(ledger, taken, left=True)
    end(ledger, make_run(ledger, tmp_path, left_by=[taken, 0]))
    found = find_leftovers(ledger, home)
    assert set(found) == {folders["dead"], folders["taken"], folders["cancelled"]}
    assert alive not in found


def test_of_runs_that_ended_only_the_ledger_per_model_stays(home: Path, ledger: Ledger, tmp_path: Path) -> None:
    succeeded, cancelled, failed = (make_run(ledger, tmp_path, policy="retry-failed") for _ in range(3))
    end(ledger, succeeded)
    ledger.transition(cancelled, RunState.CANCELLED)
    ledger.transition(failed, RunState.FAILED, error="x")
    for run in (succeeded, cancelled, failed):
        (home / "runs" / run).mkdir(parents=True)
        for name in ("models-00000-1.parquet", "errors-00000-1.jsonl"):
            (home / "runs" / run / name).write_text("four")
        (tmp_path / f".out.shoal-{run}").mkdir()
    found = find_leftovers(ledger, home)
    assert set(found) == {
        home / "runs" / succeeded / "errors-00000-1.jsonl", home / "runs" / cancelled,
        tmp_path / f".out.shoal-{succeeded}", tmp_path / f".out.shoal-{cancelled}",
    }  # fmt: skip
    assert sum(files_below(found).values()) == 12


def test_gc_removes_them_and_ends_overdue_runs(home: Path, ledger: Ledger) -> None:
    folder = prepared(home, "dead")
    with shoal.open(home) as workspace:
        planned = workspace.gc(dry_run=True)
        assert folder.is_dir()
        assert workspace.gc() == planned
    assert set(planned.files) == {folder / OWNER, folder / "rows.parquet"}
    assert not folder.exists()
