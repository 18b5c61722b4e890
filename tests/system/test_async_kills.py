"""Processes that are killed with SIGKILL wherever it hurts: what was accepted ends exactly once, all the same."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from async_process import OPTIONS, POISON
from async_world import furnish

from shoal.jobs.states import PredictionState
from shoal.serving.payloads import decode_request
from tests.databases import wait_for_the_killed
from tests.unit.serving.deferred_world import process, until

COUNT = 40
PROGRAM = Path(__file__).parent / "async_process.py"
DONE, FAILED = PredictionState.DONE, PredictionState.FAILED


@pytest.fixture
def world(request, tmp_path):
    """A home on a database of its own, with a fleet and a sink."""
    home, url = tmp_path / "home", request.getfixturevalue(f"{request.param}_databases").migrated()
    with furnish(home, url) as workspace:
        yield home, url, workspace, tmp_path / "lake" / "pumps"


def run(home, url, phase, count):
    """A process until its end; what it was told was accepted, and its return code."""
    command = [sys.executable, str(PROGRAM), str(home), url, phase, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout.split(), done.returncode


def delivered(folder):
    frames = [pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    return pl.concat([frame for frame in frames if frame.height], how="diagonal_relaxed")


@pytest.mark.parametrize(
    ("world", "phase"),
    [
        ("sqlite", "accepted"),
        ("postgresql", "claimed"),
        ("sqlite", "kept"),
        ("postgresql", "kept"),
        ("sqlite", "delivered"),
        ("postgresql", "delivered"),
        ("sqlite", "scored"),
        ("postgresql", "settled"),
    ],
    indirect=["world"],
)
def test_a_process_killed_at_any_moment_costs_nothing(world, phase):
    home, url, workspace, folder = world
    told, code = run(home, url, phase, COUNT)
    assert code == -signal.SIGKILL
    wait_for_the_killed(url)
    before = workspace.predictions.listed(limit=1000)
    assert set(told) <= {record.id for record in before}
    assert before, "nothing was accepted: the process died too early"
    asyncio.run(_finish(workspace))
    after = workspace.predictions.listed(limit=1000)
    assert {record.state for record in after} == {DONE}
    assert {record.id for record in after} == {record.id for record in before}
    rows = delivered(folder)
    assert sorted(rows["prediction_id"].to_list()) == sorted(record.id for record in after)
    for record in after:
        (asked,) = decode_request(workspace.predictions.one(record.id).request).inputs[1].data
        (found,) = rows.filter(prediction_id=record.id)["prediction"]
        assert found == pytest.approx(asked, abs=1e-6)


async def _finish(workspace):
    """What another process does with what is left."""
    async with process(workspace, OPTIONS, ["pumps"]) as (deferred, _):
        await until(lambda: not workspace.predictions.backlog().requests)
        assert deferred.counts.failed == 0


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_what_kills_every_process_is_given_up_and_its_neighbours_are_not(world):
    home, url, workspace, folder = world
    told, code = run(home, url, "poison", COUNT)
    deaths = 1
    while code != 0:
        _, code = run(home, url, "poison", 0)
        deaths += code != 0
    records = workspace.predictions.listed(limit=1000)
    failed = [record for record in records if record.state is FAILED]
    assert set(told) <= {record.id for record in records}  # it may have died before it was asked for all of them
    assert [record.state for record in records].count(DONE) == len(records) - 1 > 1
    assert decode_request(workspace.predictions.one(failed[0].id).request).inputs[1].data[0] == POISON
    assert "silent" in failed[0].error
    assert deaths == failed[0].attempts == 5
    assert delivered(folder).height == len(records) - 1
