"""Act four: a job is killed half-way, resumed, and every row is counted again."""

import subprocess
import sys
import time
from pathlib import Path

import polars as pl

from shoal.errors import ShoalError
from shoal.jobs.states import ShardState
from shoal.quickstart import flights, nycflights
from shoal.quickstart.findings import PowerCut
from shoal.quickstart.stage import Stage
from shoal.workspace import Workspace

COPIES = 4
"""The year is scored so many times over, which keeps the job going long enough to be killed."""

SHARD_ROWS = 20_000
PATIENCE_S = 60.0
POLL_S = 0.005
TRIES = 3
"""On a machine that is busy, whoever is to kill the process may come too late."""


def run(stage: Stage, workspace: Workspace, folder: Path) -> PowerCut:
    """Start a job in a process of its own, kill that process with SIGKILL, resume the job, and recount."""
    source, output = folder / "year", folder / "year-scored"
    rows = _write_year(source)
    stage.open(4, "The power cut", f"{rows:,} flights in {COPIES * 12} files, and a process that does not survive it.")
    killed, shards, done = _killed_half_way(stage, workspace, source, output)
    stage.say(f"Killed with SIGKILL when {done} of {shards} shards were done. Nothing is visible: ", _visible(output))
    workspace.resume(killed, stage.progress)
    written = pl.scan_parquet(output / "**/*.parquet").select("_file", "_row").collect()
    power_cut = PowerCut(
        shards=shards,
        done_before=done,
        ledger=flights.ledger_entry(workspace, killed),
        recounted=written.height,
        input_rows=rows,
        repeated=written.height - written.n_unique(),
    )
    _print(stage, power_cut)
    return power_cut


def _write_year(source: Path) -> int:
    """Write the flights by month, several times over; the number of rows."""
    source.mkdir(parents=True, exist_ok=True)
    year = nycflights.flights()
    for month in range(1, 13):
        rows = year.filter(pl.col("date").dt.month() == month)
        for copy in range(COPIES):
            rows.write_parquet(source / f"{copy}-{month:02}.parquet")
    return year.height * COPIES


def _killed_half_way(stage: Stage, workspace: Workspace, source: Path, output: Path) -> tuple[str, int, int]:
    """As :func:`_start_and_kill`; one that had done all its shards is brought to its end, and another one is tried."""
    for _ in range(TRIES - 1):
        killed, shards, done = _start_and_kill(stage, workspace, source, output)
        if done < shards:
            return killed, shards, done
        workspace.resume(killed)
    return _start_and_kill(stage, workspace, source, output)


def _start_and_kill(stage: Stage, workspace: Workspace, source: Path, output: Path) -> tuple[str, int, int]:
    """Let a child score until half of its shards are done; its run, its shards, and how many were done."""
    known = {record.id for record in workspace.runs(fleet=flights.FLEET)}
    task = "Scoring in another process"
    with subprocess.Popen(_command(workspace, source, output), stdout=subprocess.DEVNULL) as child:  # noqa: S603 - ours
        try:
            begun = _await_run(workspace, known, child)
            shards = len(workspace.ledger.shards(begun))
            stage.progress.start(task, shards)
            _await_half(stage, workspace, begun, child, shards, task)
        finally:
            child.kill()
    stage.progress.finish(task)
    return begun, shards, _done(workspace, begun)


def _command(workspace: Workspace, source: Path, output: Path) -> list[str]:
    """What a user would type, by the interpreter that runs this."""
    shoal = [sys.executable, "-c", "from shoal.cli import main; main()", "--home", str(workspace.settings.home)]
    job = ["--input", str(source), "--output", str(output), "--shard-rows", str(SHARD_ROWS), "--if-exists", "replace"]
    return [*shoal, "score", flights.FLEET, *job]


def _await_run(workspace: Workspace, known: set[str], child: subprocess.Popen[bytes]) -> str:
    """The id of the child's run, as soon as it is planned."""
    deadline = time.monotonic() + PATIENCE_S
    waits = True
    while waits:
        waits = child.poll() is None and time.monotonic() < deadline  # asked first: it may begin and end in between
        for record in workspace.runs(fleet=flights.FLEET, limit=3):
            if record.id not in known and workspace.ledger.shards(record.id):
                return record.id
        time.sleep(POLL_S)
    raise ShoalError("The job of the power cut did not start; try it by itself: shoal score --help")


def _await_half(
    stage: Stage, workspace: Workspace, run: str, child: subprocess.Popen[bytes], shards: int, task: str
) -> None:
    """Watch the ledger until half of the shards are done."""
    seen = 0
    while child.poll() is None and seen < shards // 2:
        done = _done(workspace, run)
        stage.progress.advance(task, done - seen)
        seen = done
        time.sleep(POLL_S)


def _done(workspace: Workspace, run: str) -> int:
    return workspace.ledger.totals(run).shards[ShardState.DONE]


def _visible(output: Path) -> str:
    return "the output is not there yet." if not output.exists() else "the output is the one from before."


def _print(stage: Stage, power_cut: PowerCut) -> None:
    flights.show_ledger(stage, power_cut.ledger)
    verdict = ("They agree.", "bold") if power_cut.whole else ("They do not agree.", "bold red")
    stage.say(
        f"Recounted from the files: {power_cut.input_rows:,} rows in, {power_cut.recounted:,} rows out, "
        f"{power_cut.repeated:,} repeated. ",
        verdict,
    )
