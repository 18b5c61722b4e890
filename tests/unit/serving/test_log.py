"""The prediction log: what is written is what was asked and answered, and nothing ever waits for it."""

import datetime as dt
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import msgspec
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from shoal.errors import StorageError
from shoal.fleet import Fleet
from shoal.serving.log import PIECE_ROWS, PredictionLog, scan_log
from shoal.serving.log_intake import TOGETHER
from shoal.serving.logged import OWN_COLUMNS, REQUEST_BYTES
from tests.unit.serving.fleets import FLEETS, pumps, rows_for
from tests.unit.serving.logged import Asked, pieces


@pytest.mark.parametrize("size", [1, 4, 60])
@pytest.mark.parametrize("kind", FLEETS)
def test_every_row_is_logged_with_what_was_asked_and_answered(tmp_path, kind, size):
    """So many that small ones are converted where they are offered, but for the last; large ones in the thread."""
    fleet, count = FLEETS[kind](), size * (2 * TOGETHER + 20)
    asked, frame = Asked(fleet, version=3), rows_for(fleet, np.random.default_rng(5), count)
    log = PredictionLog(tmp_path, pause_s=0.01)
    assert all(log.offer(one) for one in asked.logged(pieces(frame, size)))
    log.close()
    found = scan_log(tmp_path, fleet.name).collect().sort(pl.col("request_id").str.slice(1).cast(pl.Int64), "row")
    truth = fleet.predict(frame, outcome=True, model_level=True)
    assert log.statistics().written_rows == found.height == count
    assert log.statistics().waiting_bytes == 0
    names = [*(key.name for key in fleet.keys), *(feature.name for feature in fleet.features)]
    answers = [output.name for output in asked.outputs.outputs if output.name not in OWN_COLUMNS and output.usual]
    assert found.columns == [
        *("time", "request_id", "row", "principal", "version", "model"),
        *names,
        *answers,
        *("outcome", "reason", "model_level", "latency_ms", "fleet", "date"),
    ]
    for name in names:
        told = frame[name].cast(pl.String) if frame[name].dtype == pl.Date else frame[name]
        assert found[name].to_list() == told.to_list()
    for name in answers:
        assert found[name].to_list() == truth[name].to_list()
    assert found["outcome"].to_list() == truth["outcome"].cast(pl.String).to_list()
    assert found["model_level"].to_list() == truth["model_level"].cast(pl.String).to_list()
    assert found["request_id"].to_list() == [f"r{row // size}" for row in range(count)]
    assert found["row"].to_list() == [row % size for row in range(count)]
    assert found["latency_ms"].to_list() == [0.5 + row // size for row in range(count)]
    assert set(found["version"]) == {3}
    assert set(found["fleet"]) == {fleet.name}


def test_large_requests_are_cut_and_numbered_through(tmp_path):
    """One that is larger than a piece of conversion, scored in parts, between small ones and an empty one."""
    fleet = pumps()
    asked, rng = Asked(fleet), np.random.default_rng(5)
    frames = [rows_for(fleet, rng, rows) for rows in (1, 3 * PIECE_ROWS + 5, 0, 2)]
    first, large, empty, last = asked.logged(frames)
    (batch, start, stop), middle = large.parts[0], 1000
    large = msgspec.structs.replace(large, parts=[(batch, start, start + middle), (batch, start + middle, stop)])
    log = PredictionLog(tmp_path, pause_s=0.01)
    for one in (first, large, empty, last):
        log.offer(one)
    log.close()
    found = scan_log(tmp_path, "pumps").collect().sort("request_id", "row")
    assert found["row"].to_list() == [0, *range(3 * PIECE_ROWS + 5), 0, 1]
    assert found["prediction"].to_list() == fleet.predict(pl.concat(frames))["prediction"].to_list()
    assert found["x"].to_list() == pl.concat(frames)["x"].to_list()
    assert (log.statistics().written_rows, log.statistics().waiting_bytes) == (3 * PIECE_ROWS + 8, 0)


def test_names_that_the_log_needs_for_itself_are_set_apart(tmp_path):
    models = {("a",): Ridge().fit([[0.0, 1.0], [1.0, 3.0]], [1.0, 2.0])}
    fleet = Fleet.from_estimators(
        keys=["date"], models=models, features=["time", "prediction"], task="regression", name="odd"
    )
    frame = pl.DataFrame({"date": ["a"], "time": [0.5], "prediction": [1.5]})
    log = PredictionLog(tmp_path, pause_s=0.01)
    log.offer(Asked(fleet).logged([frame])[0])
    log.close()
    found = scan_log(tmp_path, "odd").collect()
    assert found.select("input.date", "input.time", "prediction").rows() == [("a", 0.5, 1.5)]
    assert found["output.prediction"].to_list() == fleet.predict(frame)["prediction"].to_list()


def test_snapshots_with_other_columns_are_read_together(tmp_path):
    log = PredictionLog(tmp_path, pause_s=0.01)
    fleet = pumps()
    frame = rows_for(fleet, np.random.default_rng(1), 3)
    log.offer(Asked(fleet, version=1, columns=["x", "prediction"]).logged([frame])[0])
    log.offer(Asked(fleet, version=2).logged([frame])[0])
    log.offer(Asked(fleet, version=3, columns=[]).logged([frame])[0])
    log.close()
    found = scan_log(tmp_path, "pumps").collect().sort("version")
    assert found["version"].to_list() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert found["x"].to_list() == [*frame["x"], *frame["x"], None, None, None]
    assert found["y"].to_list() == [None, None, None, *frame["y"], None, None, None]
    assert log.statistics().files == 3


@pytest.mark.parametrize("count", [1, TOGETHER + 1])
def test_what_comes_too_seldom_to_be_converted_together_is_written_all_the_same(tmp_path, count):
    fleet = pumps()
    asked, frame = Asked(fleet, file_s=0.01), rows_for(fleet, np.random.default_rng(1), count)
    log = PredictionLog(tmp_path, pause_s=0.01)
    for one in asked.logged(pieces(frame, 1)):
        log.offer(one)
    deadline = time.monotonic() + 20
    while log.statistics().written_rows < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert scan_log(tmp_path, "pumps").collect()["x"].sort().to_list() == frame["x"].sort().to_list()
    log.close()


def test_the_thread_takes_what_is_left_while_more_is_offered_and_nothing_is_lost(tmp_path):
    fleet, rounds = pumps(), 200
    made = Asked(fleet).logged(pieces(rows_for(fleet, np.random.default_rng(1), 50), 1))
    log = PredictionLog(tmp_path, pause_s=0.0001)
    for number in range(rounds):
        for one in made:
            assert log.offer(one)
        time.sleep(0.0005 * (number % 3))
    log.close()
    assert log.statistics().dropped_requests == log.statistics().waiting_bytes == 0
    found = scan_log(tmp_path, "pumps").collect()
    assert dict(found["request_id"].value_counts().iter_rows()) == {f"r{number}": rounds for number in range(50)}


@pytest.mark.parametrize("count", [5, TOGETHER])
def test_requests_that_cannot_be_converted_are_counted_and_the_log_goes_on(tmp_path, caplog, count):
    fleet = pumps()
    frame = rows_for(fleet, np.random.default_rng(1), 1)
    [one] = Asked(fleet, version=1).logged([frame])
    odd = msgspec.structs.replace(one, rows=msgspec.structs.replace(one.rows, columns=([object()],) * 3))
    log = PredictionLog(tmp_path, pause_s=0.01)
    for _ in range(count):
        log.offer(odd)
    log.offer(Asked(fleet, version=2).logged([frame])[0])
    log.close()
    assert (log.statistics().dropped_requests, log.statistics().waiting_bytes) == (count, 0)
    assert scan_log(tmp_path, "pumps").collect()["version"].to_list() == [2]
    assert "could not be logged" in caplog.text


def test_none_that_was_taken_while_the_log_ends_is_lost(tmp_path):
    fleet = pumps()
    made = Asked(fleet).logged(pieces(rows_for(fleet, np.random.default_rng(1), 40), 1))
    for number in range(20):
        log, taken, threads = PredictionLog(tmp_path / str(number), pause_s=0.001), [], []
        ends = threading.Event()

        def offering(log=log, taken=taken, ends=ends):
            while not ends.is_set():
                taken.append(sum(log.offer(one) for one in made))

        threads = [threading.Thread(target=offering)]
        threads[0].start()
        time.sleep(0.01)
        log.close()
        ends.set()
        threads[0].join()
        assert (log.statistics().written_rows, log.statistics().waiting_bytes) == (sum(taken), 0)


def test_days_lie_in_folders_of_their_own(tmp_path):
    fleet = pumps()
    asked, frame = Asked(fleet), rows_for(fleet, np.random.default_rng(1), 2)
    midnight = dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
    log = PredictionLog(tmp_path, pause_s=0.01)
    for at_s in (midnight - 0.5, midnight + 0.5):
        log.offer(asked.logged([frame], at_s=at_s)[0])
    log.close()
    assert sorted(path.name for path in (tmp_path / "fleet=pumps").iterdir()) == ["date=2026-02-28", "date=2026-03-01"]
    found = scan_log(tmp_path, "pumps").filter(pl.col("date") == dt.date(2026, 3, 1)).collect()
    assert set(found["time"]) == {dt.datetime.fromtimestamp(midnight + 0.5, dt.UTC)}


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path):
    fleet = pumps()
    one = Asked(fleet).logged([rows_for(fleet, np.random.default_rng(1), 10)])[0]
    log = PredictionLog(tmp_path, queue_bytes=5 * (one.rows.size_bytes + REQUEST_BYTES), pause_s=30)
    taken = [log.offer(one) for _ in range(50)]
    assert taken == [True] * 5 + [False] * 45
    assert log.statistics().dropped_requests == 45
    log.close()
    assert log.statistics().written_rows == 50
    assert not log.offer(one)


def test_files_are_cut_by_size_and_by_age(tmp_path):
    fleet = pumps()
    asked, frame = Asked(fleet), rows_for(fleet, np.random.default_rng(1), 1000)
    log = PredictionLog(tmp_path / "size", pause_s=0.01, file_bytes=20_000)
    for one in asked.logged([frame] * 10):
        log.offer(one)
    log.close()
    assert log.statistics().files > 2
    assert scan_log(tmp_path / "size", "pumps").collect().height == 10_000
    log = PredictionLog(tmp_path / "age", pause_s=0.01)
    log.offer(Asked(fleet, file_s=0.02).logged([frame])[0])
    deadline = time.monotonic() + 20
    while not log.statistics().files:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert scan_log(tmp_path / "age", "pumps").collect().height == 1000
    log.close()


def test_what_cannot_be_written_is_counted_and_the_log_goes_on(tmp_path):
    fleet = pumps()
    asked, frame = Asked(fleet, file_s=0.01), rows_for(fleet, np.random.default_rng(1), 100)
    (tmp_path / "fleet=pumps").write_text("in the way")
    log = PredictionLog(tmp_path, pause_s=0.01)
    log.offer(asked.logged([frame])[0])
    deadline = time.monotonic() + 20
    while not log.statistics().dropped_requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "fleet=pumps").unlink()
    log.offer(asked.logged([frame], first=7)[0])
    log.close()
    assert set(scan_log(tmp_path, "pumps").collect()["request_id"]) == {"r7"}
    assert log.statistics().dropped_requests == 1


def test_a_full_disk_costs_nothing_but_the_log(tmp_path):
    """The limit on file sizes stands in for the disk; each process has its own."""
    script = f"""
import resource, signal, sys, time
import numpy as np
from pathlib import Path
from shoal.serving.log import PredictionLog
from tests.unit.serving.fleets import pumps, rows_for
from tests.unit.serving.logged import Asked
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
fleet = pumps()
log = PredictionLog(Path({str(tmp_path)!r}), pause_s=0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
one = Asked(fleet, file_s=0.01).logged([rows_for(fleet, np.random.default_rng(1), 500)])[0]
assert log.offer(one)
deadline = time.monotonic() + 20
while not log.statistics().dropped_requests:
    assert time.monotonic() < deadline
    time.sleep(0.01)
log.close()
print(log.statistics().dropped_requests, log.statistics().files)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_killed_process_leaves_only_complete_files(tmp_path):
    script = f"""
import itertools, time
import numpy as np
from pathlib import Path
from shoal.serving.log import PredictionLog
from tests.unit.serving.fleets import pumps, rows_for
from tests.unit.serving.logged import Asked
fleet = pumps()
log = PredictionLog(Path({str(tmp_path)!r}), pause_s=0.001)
asked, frame = Asked(fleet, file_s=0.0), rows_for(fleet, np.random.default_rng(1), 300)
for number in itertools.count():
    log.offer(asked.logged([frame], first=number)[0])
    if log.statistics().files > 5:
        print("ready", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = scan_log(tmp_path, "pumps").collect()
    assert set(found.group_by("request_id").len()["len"]) == {300}


def test_what_a_killed_process_left_unfinished_is_removed_later(tmp_path):
    folder = tmp_path / "fleet=pumps" / "date=2026-01-01"
    folder.mkdir(parents=True)
    old, fresh = folder / ".a.parquet.1.part", folder / ".b.parquet.2.part"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    log = PredictionLog(tmp_path, pause_s=0.01)
    log.close()
    assert [path.name for path in folder.iterdir()] == [fresh.name]
    with pytest.raises(StorageError, match="nothing was logged"):
        scan_log(tmp_path, "pumps")


def test_offering_goes_on_while_files_are_written(tmp_path):
    """Many more rows than the queue holds: memory stays bounded, and what is not written is counted."""
    fleet, threads = pumps(), set(threading.enumerate())
    asked, frame = Asked(fleet), rows_for(fleet, np.random.default_rng(1), 200)
    made = asked.logged([frame] * 20)
    size_bytes = made[0].rows.size_bytes + REQUEST_BYTES
    log = PredictionLog(tmp_path, pause_s=0.001, file_bytes=200_000, queue_bytes=10 * size_bytes)
    taken = 0
    for _ in range(30):
        taken += sum(log.offer(one) for one in made)
        assert log.statistics().waiting_bytes <= 10 * size_bytes + 200_000 + 64 * 200 * 300
        time.sleep(0.002)
    log.close()
    assert log.statistics().dropped_requests == 600 - taken
    assert scan_log(tmp_path, "pumps").select(pl.len()).collect().item() == 200 * taken
    assert set(threading.enumerate()) <= threads  # others may end meanwhile
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20
