"""The whole job: from a file of rows to a folder of predictions, and how much memory that takes."""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.case import Bound, Case, Effort, Result, median_s, seconds
from benchmarks.fleets import MACHINES, OTHERS, Race
from benchmarks.population import FEATURES, KEYS, populate, segment
from shoal.fleet import Fleet
from shoal.types import Outcome
from shoal.workspace import Workspace, open_workspace

MODELS = 10_000
ROWS = 6_000_000
MEMORY_BYTES = 1024 * 2**20
OUTPUT_COLUMNS = 9
SELECTION = f"SELECT * FROM input WHERE {FEATURES[0]} > -2"
NOTE = (
    "Parquet in, Parquet out; plan, digests of the input, ledger, digests of the output and one atomic commit "
    "included; the peer writes the same nine columns, an input column in the prediction's place. Profile of the Ridge "
    "job, in CPU time per row, with one shard at a time on a machine busy with other work: 109 ns writing, 41 ns "
    "finding the model, 36 ns reading, 32 ns gathering features and scoring, 25 ns digests, 17 ns grouping, outcomes "
    "and their tallies per model, 8 ns ledger, 7 ns the frame; the peer's 155 ns are reading and writing alone"
)


def job(race: Race, name: str, limit: float) -> Case:
    """A case: score six million rows from Parquet to Parquet."""

    def measure(effort: Effort) -> list[Result]:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            rows = home / "rows.parquet"
            write_rows(rows, round(ROWS * effort.scale), effort.models(MODELS))
            with open_workspace(home / "home") as workspace:
                register(workspace, race, effort.models(MODELS))
                ours, theirs = zip(*(_round(workspace, home, rows) for _ in range(effort.repeats)), strict=True)
        shoal_s, peer_s = statistics.median(ours), statistics.median(theirs)
        return [
            Result(
                case=f"whole job, {round(ROWS * effort.scale):,} rows, {effort.models(MODELS):,} {name}",
                against="Polars reading the input and writing as many columns",
                shoal=seconds(shoal_s),
                peer=seconds(peer_s),
                figure=shoal_s / peer_s,
                unit="x",
                limit=limit,
                bound=Bound.AT_MOST,
                note=f"process start, imports and loading of kernels ({seconds(_start_s())}) are not in it; {NOTE}",
            )
        ]

    return measure


def _start_s() -> float:
    """What a process takes before it can score: start, imports, compiled kernels from their cache."""
    script = "import shoal.workspace; from shoal.scoring.warming import warm_kernels; warm_kernels()"
    return median_s(3, lambda: subprocess.run([sys.executable, "-c", script], check=True))


def write_rows(path: Path, rows: int, models: int) -> None:
    """Rows in no order, keyed by two strings."""
    generator = np.random.default_rng(11)
    keys = [segment(number) for number in range(models)]
    chosen = generator.integers(0, models, rows)
    columns = {
        "device": pl.Series([device for device, _ in keys]).gather(chosen),
        "sensor": pl.Series([sensor for _, sensor in keys]).gather(chosen),
        **{name: generator.normal(size=rows) for name in FEATURES},
    }
    pl.DataFrame(columns).write_parquet(path)


def register(workspace: Workspace, race: Race, models: int) -> None:
    """A fleet under the name ``pumps``."""
    population = populate(race.fit, models=models, rows_each=1, distinct=200)
    by_segment = {segment(number): model for number, model in enumerate(population.models.values())}
    fleet = Fleet.from_estimators(keys=KEYS, models=by_segment, features=FEATURES, task=race.task)
    workspace.register(fleet, "pumps")
    workspace.promote("pumps", 1)
    workspace.fleet("pumps").predict(population.frame.head(100))  # kernels are compiled or loaded from here on


def _round(workspace: Workspace, home: Path, rows: Path) -> tuple[float, float]:
    """One job and its peer, side by side in time so that both see the same machine."""
    output = home / "scores"
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    summary = workspace.score({"fleet": "pumps", "input": str(rows), "output": str(output)})
    ours = time.perf_counter() - started
    assert summary.ledger.balanced
    started = time.perf_counter()
    read_and_write(rows, home / "copy.parquet")
    return ours, time.perf_counter() - started


def read_and_write(rows: Path, target: Path) -> None:
    """What any job has to do at the least: read the input, write an output of the same columns."""
    outcomes = pl.Enum([outcome.word for outcome in Outcome])
    frame = pl.read_parquet(rows).select(
        pl.lit(str(rows)).alias("_file"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("_row"),
        *KEYS,
        pl.col(FEATURES[0]).alias("prediction"),
        pl.lit("scored", dtype=outcomes).alias("outcome"),
        pl.lit(None, dtype=pl.String).alias("reason"),
        pl.lit("device+sensor", dtype=pl.Enum(["device+sensor"])).alias("model_level"),
        pl.lit(1, dtype=pl.Int32).alias("snapshot"),
    )
    assert frame.width == OUTPUT_COLUMNS
    frame.write_parquet(target)


def memory(effort: Effort) -> list[Result]:
    """The most anonymous memory of streaming jobs, looked at from outside every few milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        count = 3 * round(ROWS * effort.scale)
        write_rows(home / "rows.parquet", count, effort.models(MODELS))
        with open_workspace(home / "home") as workspace:
            register(workspace, MACHINES, effort.models(MODELS))
        results = [_memory_of(home, "rows.parquet", "Parquet", count)]
        results.append(
            _memory_of(home, "rows.parquet", "Parquet through a preprocess", count, "--preprocess", SELECTION)
        )
        fewer = pl.scan_parquet(home / "rows.parquet").head(count // 3)
        fewer.sink_csv(home / "rows.csv")
        results.append(_memory_of(home, "rows.csv", "CSV", count // 3))
        (home / "rows.csv").unlink()
        fewer.sink_ndjson(home / "rows.jsonl")
        results.append(_memory_of(home, "rows.jsonl", "JSON lines", count // 3))
    return results


def _memory_of(home: Path, name: str, what: str, count: int, *more: str) -> Result:
    sample = pl.scan_parquet(home / "rows.parquet").head(100_000).collect()
    in_memory = sample.estimated_size() / sample.height * count
    peak = _peak_of_job(home, home / name, MEMORY_BYTES, *more)
    return Result(
        case=f"anonymous memory of a job on {count:,} rows of {what} ({in_memory / 2**20:,.0f} MiB in memory)",
        against=f"its setting, --memory {MEMORY_BYTES // 2**20}MiB",
        shoal=f"{peak / 2**20:,.0f} MiB",
        figure=peak / MEMORY_BYTES * 100,
        unit="%",
        limit=100,
        bound=Bound.AT_MOST,
        note="RssAnon of the process of `shoal score`, its highest value",
    )


def _peak_of_job(home: Path, rows: Path, limit: int, *more: str) -> int:
    script = "import sys; from shoal.cli import main; sys.exit(main())"
    output = home / "out"
    options = ["--home", str(home / "home"), "score", "pumps", "--input", str(rows), "--output", str(output)]
    command = [sys.executable, "-c", script, *options, "--memory", f"{limit}b", *more]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.005)
        if process.returncode != 0:
            raise RuntimeError(process.stderr.read().decode() if process.stderr else "the job failed")
    shutil.rmtree(output)
    return peak


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


CASES = {
    "job-ridge": job(OTHERS["ridge"], "Ridge pipelines", 2),
    "job-kernel-machines": job(MACHINES, "one-class SVM pipelines", 3),
    "memory": memory,
}
