"""Old days of the prediction log go, and nothing else does, however many processes are about it."""

import asyncio
import datetime as dt
import os
import subprocess
import sys
import threading
import time

import polars as pl
import pytest

from shoal.errors import StorageError
from shoal.serving.log import scan_log
from shoal.serving.log_retention import MARK, MOST_DAYS, LogRetention, logged_files, remove_old_days
from shoal.serving.options import ServingOptions
from tests.unit.serving.fleets import constant

NOW = dt.datetime(2026, 5, 20, 15, 0, tzinfo=dt.UTC)
TODAY = NOW.date()
GRACE_S = 600.0


def day_of(folder, ago, fleet="pumps", rows=3, today=TODAY):
    """A day of the log with two files."""
    day = today - dt.timedelta(days=ago)
    place = folder / f"fleet={fleet}" / f"date={day}"
    place.mkdir(parents=True)
    for number in range(2):
        pl.DataFrame({"x": [float(number)] * rows}).write_parquet(place / f"{number:06}-a-{number:05}.parquet")
    return place


def aged(place, seconds=GRACE_S + 1, now=NOW):
    """As if the day had been marked so long ago."""
    at = now.timestamp() - seconds
    os.utime(place / MARK, (at, at))


def removed(folder, days, fleet="pumps", now=NOW):
    return remove_old_days(folder, fleet, days, now_s=now.timestamp(), grace_s=GRACE_S)


def seen(folder, fleet="pumps"):
    return sorted({file.parent.name.removeprefix("date=") for file in logged_files(folder, fleet)})


def test_a_day_is_marked_and_when_its_readers_are_done_removed(tmp_path):
    places = {ago: day_of(tmp_path, ago) for ago in (0, 1, 2, 3, 4)}
    assert removed(tmp_path, 2) == []
    assert seen(tmp_path) == ["2026-05-18", "2026-05-19", "2026-05-20"]
    aged(places[4], GRACE_S - 1)
    aged(places[3])
    assert removed(tmp_path, 2) == [dt.date(2026, 5, 17)]
    assert [ago for ago, place in places.items() if place.exists()] == [0, 1, 2, 4]
    aged(places[4])
    assert removed(tmp_path, 2) == [dt.date(2026, 5, 16)]
    assert removed(tmp_path, 2) == []
    assert seen(tmp_path) == ["2026-05-18", "2026-05-19", "2026-05-20"]


@pytest.mark.parametrize(
    ("days", "now", "kept"),
    [
        (1, dt.datetime(2026, 5, 20, 0, 0, tzinfo=dt.UTC), 2),  # the day before yesterday ended a day ago
        (1, dt.datetime(2026, 5, 19, 23, 59, 59, tzinfo=dt.UTC), 3),
        (1.5, dt.datetime(2026, 5, 20, 11, 59, tzinfo=dt.UTC), 3),
        (1.5, dt.datetime(2026, 5, 20, 12, 0, tzinfo=dt.UTC), 2),
        (0.0, dt.datetime(2026, 5, 20, 23, 59, tzinfo=dt.UTC), 2),  # less than a day is a day
        (1e300, NOW, 5),
        (float("inf"), NOW, 5),
    ],
)
def test_days_are_kept_from_their_end(tmp_path, days, now, kept):
    for ago in range(5):
        day_of(tmp_path, ago)
    assert removed(tmp_path, days, now=now) == []
    assert len(seen(tmp_path)) == kept


def test_a_clock_that_was_set_back_removes_nothing(tmp_path):
    day_of(tmp_path, 0)
    removed(tmp_path, 1, now=NOW - dt.timedelta(days=400))
    assert seen(tmp_path) == ["2026-05-20"]


def test_nothing_but_the_days_of_the_fleet_is_touched(tmp_path):
    outside = tmp_path / "outside"
    precious = day_of(outside, 30)
    log = tmp_path / "log"
    old = day_of(log, 30)
    other = day_of(log, 30, fleet="fans")
    fleet = log / "fleet=pumps"
    odd = [fleet / name for name in ("date=2025-13-01", "date=2020-01-01.old", "date=20200101", "2020-01-01", "date=")]
    for folder in odd:
        folder.mkdir()
        (folder / "x.parquet").write_bytes(b"x")
    (fleet / "date=2020-01-02").symlink_to(precious, target_is_directory=True)
    (fleet / "date=2020-01-03").write_bytes(b"a file")
    shared = day_of(log, 31)
    (shared / "notes.txt").write_text("mine")
    (shared / "more").mkdir()
    (shared / "more" / "x.parquet").write_bytes(b"x")
    (shared / "link.parquet").symlink_to(precious / "000000-a-00000.parquet")
    writing = day_of(log, 32)
    (writing / ".new.parquet.abc.part").write_bytes(b"half")
    (log / "fleet=linked").symlink_to(outside / "fleet=pumps", target_is_directory=True)
    for _ in range(2):
        removed(log, 1)
        for place in (old, shared, writing):
            if (place / MARK).exists():
                aged(place)
    assert removed(log, 1, fleet="linked") == removed(log, 1, fleet="nobody") == []
    assert not old.exists()
    assert sorted(entry.name for entry in shared.iterdir() if entry.name != MARK) == [
        "link.parquet",
        "more",
        "notes.txt",
    ]
    assert (shared / "more" / "x.parquet").exists()
    assert (writing / ".new.parquet.abc.part").exists()
    assert len(list(precious.iterdir())) == len(list(other.iterdir())) == 2
    assert all((folder / "x.parquet").exists() for folder in odd)
    assert (fleet / "date=2020-01-02").is_symlink()
    assert (fleet / "date=2020-01-03").read_bytes() == b"a file"


def test_what_a_killed_writer_left_goes_with_its_day(tmp_path):
    place = day_of(tmp_path, 9)
    left = place / ".new.parquet.abc.part"
    left.write_bytes(b"half")
    os.utime(left, (NOW.timestamp() - 7200,) * 2)
    removed(tmp_path, 1)
    aged(place)
    assert removed(tmp_path, 1) == [dt.date(2026, 5, 11)]
    assert not place.exists()


def test_whoever_reads_already_can_finish(tmp_path):
    place = day_of(tmp_path, 5)
    day_of(tmp_path, 0)
    reading = scan_log(tmp_path, "pumps")
    removed(tmp_path, 1)
    assert removed(tmp_path, 1) == []
    assert reading.collect().height == 12
    assert scan_log(tmp_path, "pumps").collect().height == 6
    aged(place)
    assert removed(tmp_path, 1) == [dt.date(2026, 5, 15)]
    assert scan_log(tmp_path, "pumps").collect().height == 6


def test_a_day_that_is_to_be_kept_after_all_is_there_again(tmp_path):
    day_of(tmp_path, 5)
    removed(tmp_path, 1)
    with pytest.raises(StorageError):
        scan_log(tmp_path, "pumps")
    removed(tmp_path, 30)
    assert scan_log(tmp_path, "pumps").collect().height == 6
    removed(tmp_path, 1)
    LogRetention(tmp_path).keep("pumps", None)
    assert scan_log(tmp_path, "pumps").collect().height == 6


def test_a_look_removes_no_more_than_it_may(tmp_path):
    for ago in range(2, MOST_DAYS + 5):
        day_of(tmp_path, ago, rows=1)
    removed(tmp_path, 1)
    for place in (tmp_path / "fleet=pumps").iterdir():
        aged(place)
    assert len(removed(tmp_path, 1)) == MOST_DAYS
    assert len(removed(tmp_path, 1)) == 3


REMOVER = """
import sys, time
from pathlib import Path
from shoal.serving.log_retention import remove_old_days
def remove():
    return len(remove_old_days(Path(sys.argv[1]), "pumps", 1, now_s=time.time(), grace_s=0.0))
def say(word):
    print(word, flush=True)
    sys.stdin.readline()
say("ready")
count = remove()
say("begun")
until = time.monotonic() + 60
while time.monotonic() < until and list(Path(sys.argv[1], "fleet=pumps").glob("date=2025-*")):
    count += remove()
print(count)
"""


def test_several_processes_remove_each_day_once_while_others_read(tmp_path):
    days = 4 * MOST_DAYS  # more than all three remove in their first looks
    for ago in range(days):
        day_of(tmp_path, ago, rows=1, today=dt.date(2025, 12, 1))
    newest = day_of(tmp_path, 0, today=dt.datetime.now(dt.UTC).date())
    line = [sys.executable, "-c", REMOVER, str(tmp_path)]
    removers = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    def look():
        files = logged_files(tmp_path, "pumps")
        assert [file for file in files if file.parent == newest] == sorted(newest.iterdir())

    for word in ("ready", "begun"):
        for process in removers:
            assert process.stdout.readline() == f"{word}\n"
        assert list((tmp_path / "fleet=pumps").glob("date=2025-*"))
        look()
        for process in removers:
            process.stdin.write("go\n")
            process.stdin.flush()
    while any(process.poll() is None for process in removers):
        look()
    counts = [int(process.communicate()[0]) for process in removers]
    assert [process.returncode for process in removers] == [0, 0, 0]
    assert sum(counts) == days
    assert [place.name for place in (tmp_path / "fleet=pumps").iterdir()] == [newest.name]


def test_the_thread_removes_by_itself_and_says_so(tmp_path, caplog):
    today = dt.datetime.now(dt.UTC).date()
    pumps = [day_of(tmp_path, ago, today=today) for ago in (0, 5, 6)]
    fans = day_of(tmp_path, 5, fleet="fans", today=today)
    threads = set(threading.enumerate())
    retention = LogRetention(tmp_path, grace_s=0.0, look_s=0.02)
    retention.keep("fans", None)
    assert set(threading.enumerate()) <= threads  # others may end meanwhile
    with caplog.at_level("INFO", logger="shoal.serving"):
        retention.keep("pumps", 2)
        wait_until(lambda: not pumps[1].exists() and not pumps[2].exists() and "removed" in caplog.text)
    assert "2 days of the prediction log of fleet pumps were removed" in caplog.text
    assert pumps[0].exists()
    assert fans.exists()
    retention.close()
    wait_until(lambda: set(threading.enumerate()) <= threads)


def test_a_folder_that_cannot_be_read_stops_nobody(tmp_path, caplog):
    today = dt.datetime.now(dt.UTC).date()
    (tmp_path / "fleet=aaa").mkdir()
    (tmp_path / "fleet=aaa" / f"date={today - dt.timedelta(days=9)}").mkdir()
    (tmp_path / "fleet=aaa" / f"date={today - dt.timedelta(days=9)}" / MARK).mkdir()  # a mark that cannot be removed
    place = day_of(tmp_path, 5, today=today)
    retention = LogRetention(tmp_path, grace_s=0.0, look_s=0.02)
    retention.keep("aaa", 2)
    retention.keep("pumps", 2)
    wait_until(lambda: not place.exists())
    wait_until(lambda: "fleet aaa stay for now" in caplog.text)
    retention.close()


def test_a_server_removes_what_the_serving_spec_says(publish):
    workspace = publish(constant(7.0))
    folder = workspace.settings.home / "predictions"
    today = dt.datetime.now(dt.UTC).date()
    old, recent = (day_of(folder, ago, today=today) for ago in (9, 1))
    workspace.set_serving("pumps", {"log": {"sample": 0}})

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(poll_s=0.01))
        await plane.start()
        assert not (old / MARK).exists()
        workspace.set_serving("pumps", {"log": {"sample": 0, "keep_days": 3}})
        await asyncio.to_thread(wait_until, (old / MARK).exists)
        workspace.set_serving("pumps", {})
        await asyncio.to_thread(wait_until, lambda: not (old / MARK).exists())
        workspace.set_serving("pumps", {"log": {"sample": 0, "keep_days": 3}})
        await asyncio.to_thread(wait_until, (old / MARK).exists)
        await plane.drain(1)
        aged(old, now=dt.datetime.now(dt.UTC))
        again = workspace.data_plane(["pumps"])
        await again.start()
        await asyncio.to_thread(wait_until, lambda: not old.exists())
        await again.drain(1)

    asyncio.run(main())
    assert len(list(recent.iterdir())) == 2


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
