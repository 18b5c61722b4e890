"""The policy ``leave``: what a run cannot read it owes to the next one, which takes it on once and only once."""

import datetime as dt
import shutil
import types
from pathlib import Path

import polars as pl
import pytest
from score_process import start
from score_world import SHARD_ROWS, make_home, read_output, rows, run, spec

import shoal
from shoal.batch import leaving, worker
from shoal.batch.leaving import DROPPED
from shoal.batch.summary import ScoreSummary
from shoal.errors import TooManyErrors
from shoal.jobs.states import RunState
from shoal.ledger import ShardRecord
from shoal.storage import files

DAY_ROWS = 250


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_home(folder / "home")
    return folder


class Nights:
    """A nightly job over a folder in which each day has its file, and whose disk has bad sectors."""

    def __init__(self, home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
        self.home, self.output = home, folder / "out"
        self.incoming = folder / "incoming"
        self.incoming.mkdir()
        self.more = {"failure_policy": "leave", "if_exists": "append", "date": "day", **more}
        self.bad: set[tuple[str, int]] = set()
        monkeypatch.setattr(worker, "BACKOFF_S", 0.001)
        read = leaving.read_rows

        def reading(job: object, slices: list[object], *rest: object, **options: object) -> pl.DataFrame:
            for piece in slices:
                if (piece.path, piece.offset) in self.bad:  # type: ignore[attr-defined]
                    raise files.StorageError(f"{piece.path}: bad sector")  # type: ignore[attr-defined]
            return read(job, slices, *rest, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(leaving, "read_rows", reading)

    def deliver(self, day: int) -> str:
        path = self.incoming / f"day-{day}.parquet"
        frame = rows(DAY_ROWS, day).with_columns(day=pl.lit(dt.date(2026, 11, day)))
        frame.write_parquet(path, row_group_size=SHARD_ROWS)
        return str(path)

    def job(self, day: int, **more: object) -> dict[str, object]:
        window = {"from": f"2026-11-{day:02d}", "until": f"2026-11-{day + 1:02d}"}
        return spec(self.incoming, self.output, **{**self.more, **window, **more})

    def score(self, day: int, **more: object) -> ScoreSummary:
        return run(self.home, self.job(day, **more))

    def rows_of(self, summary: ScoreSummary) -> list[tuple[str, int]]:
        return read_output(self.output / f"run={summary.run}").select("_file", "_row").rows()

    def dropped(self, summary: ScoreSummary) -> list[str]:
        found = [shard.source.get(DROPPED) for shard in self.shards(summary)]
        return [str(why) for why in found if why is not None]

    def shards(self, summary: ScoreSummary) -> list[ShardRecord]:
        return shoal.open(self.home).ledger.shards(summary.run)


@pytest.fixture
def nights(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    home = Path(shutil.copytree(template / "home", tmp_path / "home"))
    return Nights(home, tmp_path, monkeypatch)


def ids(path: str, start: int = 0, stop: int = DAY_ROWS) -> list[tuple[str, int]]:
    return [(path, row) for row in range(start, stop)]


def test_left_rows_are_taken_on_once(nights: Nights) -> None:
    one = nights.deliver(1)
    nights.bad.add((one, 100))
    first = nights.score(1)
    counts = first.ledger.totals.counts
    assert (counts.rows, counts.failed, first.ledger.totals.source_rows) == (250, 100, 250)
    assert nights.rows_of(first) == ids(one, 0, 100) + ids(one, 200)
    nights.bad.clear()
    two = nights.deliver(2)
    second = nights.score(2)
    assert sorted(nights.rows_of(second)) == sorted(ids(two) + ids(one, 100, 200))
    assert second.ledger.totals.counts.failed == 0
    nights.deliver(3)
    third = nights.score(3)
    assert third.ledger.totals.counts.rows == DAY_ROWS
    assert sorted(read_output(nights.output).select("_file", "_row").rows()) == sorted(
        ids(one) + ids(two) + ids(two.replace("day-2", "day-3"))
    )
    assert all(summary.ledger.balanced for summary in (first, second, third))


def test_what_fails_again_is_left_again_until_it_expires(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    one = nights.deliver(1)
    nights.bad.add((one, 100))
    for day in (1, 2):
        nights.deliver(day)
        summary = nights.score(day, expires="7d")
        assert summary.ledger.balanced
    # Shard 1 of the second night's own and the one taken on: of neither it is known which rows its dates would leave.
    assert summary.ledger.totals.counts.failed == 200
    nights.bad.clear()
    nights.deliver(3)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=8)

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return later

    with monkeypatch.context() as patch:
        patch.setattr(leaving, "dt", types.SimpleNamespace(datetime=Later, UTC=dt.UTC))
        third = nights.score(3, expires="7d")
    assert third.ledger.totals.counts.rows == DAY_ROWS
    assert third.ledger.balanced
    assert ["longer than 7d" in why for why in nights.dropped(third)] == [True, True]
    assert nights.dropped(nights.score(4, expires="7d")) == []


def test_rows_of_a_changed_file_are_dropped(nights: Nights) -> None:
    one = nights.deliver(1)
    nights.bad.add((one, 0))
    nights.score(1)
    nights.bad.clear()
    rows(10, 9).with_columns(day=pl.lit(dt.date(2026, 11, 1))).write_parquet(one)
    nights.deliver(2)
    second = nights.score(2)
    assert second.ledger.totals.counts.rows == DAY_ROWS
    (why,) = nights.dropped(second)
    assert "no longer what was left: day-1.parquet" in why


def test_a_row_id_is_there_once_in_a_run(nights: Nights) -> None:
    one = nights.deliver(1)
    nights.bad.add((one, 200))
    nights.score(1)
    nights.bad.clear()
    second = nights.score(1)  # the same rows again: nothing is owed beside them
    assert nights.rows_of(second) == ids(one)
    assert nights.dropped(second) == ["the run reads these rows itself"]
    assert nights.dropped(nights.score(1)) == []


def test_ranges_of_dates_that_overlap_share_no_row(nights: Nights) -> None:
    one, two = nights.deliver(1), nights.deliver(2)
    nights.bad.update({(one, 0), (two, 0)})
    nights.score(1, until="2026-11-03")
    nights.bad.clear()
    second = nights.score(2)
    assert sorted(nights.rows_of(second)) == sorted(ids(one, 0, 100) + ids(two))


def test_two_runs_planned_at_once_take_on_nothing_twice(nights: Nights) -> None:
    one = nights.deliver(1)
    nights.bad.add((one, 100))
    nights.score(1)
    nights.deliver(2)
    workers = [start(nights.home, nights.job(2)) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0], [worker.said for worker in workers]
    found = read_output(nights.output).filter(pl.col("_file") == one)["_row"].to_list()
    assert sorted(found) == list(range(DAY_ROWS))


def test_left_rows_count_as_errors(nights: Nights) -> None:
    one = nights.deliver(1)
    nights.bad.add((one, 100))
    with pytest.raises(TooManyErrors):
        nights.score(1, max_errors=99)
    assert not nights.output.exists()
    (record,) = shoal.open(nights.home).ledger.runs()
    assert record.state is RunState.FAILED


def test_left_rows_of_text_files_lie_in_the_prepared_copy(nights: Nights) -> None:
    path = nights.incoming / "day-1.csv"
    frame = rows(DAY_ROWS, 1).with_columns(pl.lit(dt.date(2026, 11, 1)).alias("day"))
    frame.write_csv(path)
    original = worker.write_part

    def failing(*arguments: object) -> object:
        if arguments[4] == 1:
            raise files.StorageError("no room")
        return original(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "write_part", failing)
        assert nights.score(1).ledger.totals.counts.failed == 100
    prepared = list((nights.home / "runs").glob("prepared-*"))
    assert len(prepared) == 1
    second = nights.score(2)
    assert nights.rows_of(second) == ids(str(path), 100, 200)
    assert list((nights.home / "runs").glob("prepared-*")) == []
