"""What runs have left below the home and beside their outputs, and nobody needs any more."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from shoal.batch.leaving import waiting_shards
from shoal.batch.publishing import Destination
from shoal.batch.source import slices_of
from shoal.batch.spec import KIND, load_planned
from shoal.errors import InvalidSpec
from shoal.jobs.states import FINAL_RUN_STATES, RunState
from shoal.ledger import Ledger, RunRecord, is_gone

OWNER = "owner"
"""File in a folder of prepared input that says which process prepares or prepared it."""

_ALL = 1_000_000


def find_leftovers(ledger: Ledger, home: Path) -> tuple[Path, ...]:
    """Files and folders of score jobs that no run, now or later, will read.

    These are the parts and lists of runs that have ended and the prepared input that no run waits for. A run that
    failed may be resumed, so everything of it stays; the outcomes per model of a run that succeeded stay too, for
    they belong to its ledger.

    Parameters
    ----------
    ledger : Ledger
        Says which runs have ended.
    home : Path
        The workspace's folder.
    """
    ended = [run for run in ledger.runs(kind=KIND, limit=_ALL) if run.state in FINAL_RUN_STATES]
    of_runs = [path for run in ended for path in _of_run(run, home)]
    return tuple(sorted([*of_runs, *unneeded_preparations(ledger, home / "runs")]))


def files_below(paths: Iterable[Path]) -> dict[Path, int]:
    """The files that paths stand for, and their sizes in bytes."""
    sizes: dict[Path, int] = {}
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            with contextlib.suppress(FileNotFoundError):  # somebody else was tidier
                if file.is_file():
                    sizes[file] = file.stat().st_size
    return sizes


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders; what is gone already does not matter."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def unneeded_preparations(ledger: Ledger, folder: Path) -> list[Path]:
    """Prepared input whose process is gone and that neither a run under way nor rows left to the next one lie in."""
    ownerless = [path for path in folder.glob("prepared-*") if _is_ownerless(path)]
    if not ownerless:
        return []
    needed = _needed_preparations(ledger)
    return [path for path in ownerless if path not in needed]


def _is_ownerless(preparation: Path) -> bool:
    try:
        return is_gone((preparation / OWNER).read_text())
    except OSError:
        return False  # made this very moment, or removed


def _of_run(run: RunRecord, home: Path) -> Iterator[Path]:
    folder = home / "runs" / run.id
    if run.state is RunState.SUCCEEDED:
        yield from (path for path in folder.glob("*") if not path.name.startswith("models-"))
    elif folder.is_dir():
        yield folder
    with contextlib.suppress(InvalidSpec):  # written by another version of Shoal
        staging = Destination(load_planned(run.spec), run.id, home / "locks").staging
        if staging.is_dir():
            yield staging


def _needed_preparations(ledger: Ledger) -> set[Path]:
    runs = ledger.runs(kind=KIND, limit=_ALL)
    active = [run for run in runs if run.state not in FINAL_RUN_STATES]
    leaving = [run for run in runs if run.state is RunState.SUCCEEDED and run.spec.get("failure_policy") == "leave"]
    shards = [shard for run in active for shard in ledger.shards(run.id)]
    shards += waiting_shards([shard for run in leaving for shard in ledger.shards(run.id)])
    read = [shard for shard in shards if shard.source.get("prepared")]
    return {Path(piece.path).parent for shard in read for piece in slices_of(shard.source)}
