"""The real ``shoal score`` on inputs several times larger than ``--memory``: its anonymous memory stays below."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from score_world import KNOWN, make_home

import shoal
from shoal.batch.memory import anonymous_bytes

MEMORY = 320 * 2**20
CALL = "import sys; from shoal.cli import main; main(sys.argv[1:])"
COPIES, ROWS = 15, 50_000
IDS = 40_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a workspace."""
    make_home(tmp_path / "home")
    return tmp_path


def rows() -> pl.DataFrame:
    """Rows with long texts: 50 MB of them."""
    rng = np.random.default_rng(1)
    keys = [KNOWN[number] for number in rng.integers(0, 6, ROWS)]
    values = {name: rng.normal(size=ROWS) for name in "ab"}
    notes = [f"{number} " * 100 for number in rng.integers(10**9, 10**10, ROWS)]
    return pl.DataFrame({
        "device": [device for device, _ in keys], "sensor": [sensor for _, sensor in keys], **values,
        "note": [note[:900] for note in notes], "short": rng.integers(0, 9, ROWS),
    })  # fmt: skip


def written(folder: Path, form: str, copies: int = COPIES) -> Path:
    """The rows, so often that they are more than twice the memory that is allowed."""
    path = folder / f"in.{form}"
    frame = rows()
    if form == "parquet":
        pl.concat([frame] * copies).write_parquet(path, row_group_size=ROWS // 5)
        return path
    data = (frame.write_csv() if form == "csv" else frame.write_ndjson()).encode()
    lines = data.partition(b"\n")[2] if form == "csv" else data
    with path.open("wb") as file:
        file.write(data)
        for _ in range(COPIES - 1):
            file.write(lines)
    assert path.stat().st_size > 2 * MEMORY
    return path


def looked_up(folder: Path) -> Path:
    """Rows that lack a feature, which a history of many keys has; and a spec that has something to say of each row."""
    rng = np.random.default_rng(2)
    ids, hours = rng.integers(0, IDS, ROWS), rng.integers(0, 1000, ROWS)
    start = pl.datetime(2026, 1, 1)
    frame = rows().drop("b").with_columns(pl.Series("id", ids), at=start + pl.duration(hours=pl.Series(hours)))
    source = folder / "in.parquet"
    pl.concat([frame] * COPIES).write_parquet(source, row_group_size=ROWS // 5)
    past = pl.DataFrame({"id": np.repeat(np.arange(IDS), 4), "hour": rng.integers(0, 900, 4 * IDS)})
    past = past.select("id", since=start + pl.duration(hours="hour"), b=pl.Series(rng.normal(size=4 * IDS)))
    past.write_parquet(folder / "past.parquet")
    with shoal.open(folder / "home") as workspace:
        workspace.set_source("past", {"kind": "parquet", "path": str(folder / "past.parquet")})
    spec = {
        "lookup": {"source": "past", "keys": ["id"], "key_types": {"id": "integer"}, "features": ["b"],
                   "as_of": "since", "on_missing": "invalid"},
        "checks": {"inputs": {"a": {"max": -100}, "b": {"max": -100}}, "on_input": "report"},
        "rules": {"twice": "prediction * 2", "text": "device || '-' || CAST(prediction AS VARCHAR)"},
    }  # fmt: skip
    (folder / "serving.yaml").write_text(json.dumps(spec))
    return source


def score(folder: Path, source: Path, *more: str) -> tuple[int, int, str]:
    """Run a job; gives its exit code, the highest anonymous memory of its process, and what it said."""
    words = ["--home", folder / "home", "score", "pumps", "--input", source, "--output", folder / "out"]
    command = [sys.executable, "-c", CALL, *map(str, words), "--memory", f"{MEMORY}B", *more]
    peak = 0
    with (folder / "said").open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.003)
    return process.returncode, peak, (folder / "said").read_text()


@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("csv", ()),
        ("jsonl", ()),
        ("parquet", ("--preprocess", "SELECT *, a * 2 AS twice FROM input WHERE short < 9")),
    ],
)
def test_memory_stays_below_its_bound(folder: Path, form: str, more: tuple[str, ...]) -> None:
    code, peak, said = score(folder, written(folder, form), *more)
    assert code == 0, said
    assert 0 < peak <= MEMORY
    (run,) = shoal.open(folder / "home").ledger.runs()
    assert shoal.open(folder / "home").ledger.totals(run.id).counts.rows == COPIES * ROWS
    shutil.rmtree(folder)


def test_a_preprocess_that_cannot_keep_the_bound_ends_with_an_error(folder: Path) -> None:
    source = written(folder, "parquet", 3)
    everything_with_everything = "SELECT a.* FROM input a JOIN input b ON a.short = b.short"
    code, peak, said = score(folder, source, "--preprocess", everything_with_everything)
    assert code == 1
    assert "field 'memory'" in said
    assert 0 < peak <= MEMORY
    assert list((folder / "home" / "runs").glob("*")) == []
    shutil.rmtree(folder)


@pytest.mark.parametrize("more", [(), ("--time", "at")])
def test_checks_and_lookups_stay_below_the_bound(folder: Path, more: tuple[str, ...]) -> None:
    source = looked_up(folder)
    code, peak, said = score(folder, source, "--serving-spec", str(folder / "serving.yaml"), *more)
    assert code == 0, said
    assert 0 < peak <= MEMORY
    found = (
        pl.scan_parquet(folder / "out" / "part-*.parquet")
        .select(pl.len(), pl.col("reason").is_not_null().sum().alias("said"), pl.col("twice").is_not_null().sum())
        .collect()
    )
    assert found["len"].item() == found["said"].item() == COPIES * ROWS
    assert found["twice"].item() > 0.8 * COPIES * ROWS
    shutil.rmtree(folder)


def test_indexing_a_source_that_cannot_keep_the_bound_ends_with_an_error(folder: Path) -> None:
    source = looked_up(folder)
    pl.concat([pl.read_parquet(folder / "past.parquet")] * 30).write_parquet(folder / "past.parquet")
    code, peak, said = score(folder, source, "--serving-spec", str(folder / "serving.yaml"))
    assert code == 1
    assert "field 'memory': indexing" in said
    assert 0 < peak <= MEMORY
    assert shoal.open(folder / "home").ledger.runs() == []
    shutil.rmtree(folder)
