"""What a job may not do to its own input, and what it leaves when it loses a race."""

import shutil
import time

import polars as pl
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.batch.publishing import Destination
from shoal.batch.run import Scorer
from shoal.batch.spec import load
from shoal.errors import InvalidInput, InvalidSpec, OutputExists, StorageError


@pytest.fixture
def workspace(tmp_path):
    model = Ridge().fit([[0.0], [1.0]], [0.0, 2.0])
    fleet = shoal.Fleet.from_estimators(keys=["k"], models={("a",): model}, features=["x"], task="regression")
    with shoal.open(tmp_path / "home") as opened:
        opened.register(fleet, "f")
        opened.promote("f", 1)
        yield opened


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "rows.parquet"
    pl.DataFrame({"k": ["a", "a"], "x": [0.0, 1.0]}).write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("in/rows.parquet", "in/rows.parquet"),
        ("in", "in/out.parquet"),
        ("in", "in/deep/er"),
        ("in", "in"),
        ("in/rows.parquet", "in"),
        ("in/*.parquet", "in/out.parquet"),
    ],
)
def test_an_output_never_takes_the_place_of_input(workspace, rows, tmp_path, given, output):
    before = rows.read_bytes()
    job = {"fleet": "f", "input": str(tmp_path / given), "output": str(tmp_path / output), "if_exists": "replace"}
    with pytest.raises((InvalidSpec, OutputExists), match=r"overlap|holds files"):
        workspace.score(job)
    assert rows.read_bytes() == before
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["rows.parquet"]


def test_who_loses_the_race_for_a_file_leaves_nothing_beside_it(workspace, rows, tmp_path):
    output = tmp_path / "out.parquet"
    pl.DataFrame({"k": ["a", "a"], "x": ["1", "bad"]}).write_parquet(rows)

    def somebody_else(step):
        if step == "described":
            output.write_text("mine")

    scorer = Scorer(
        ledger=workspace.ledger,
        open_fleet=workspace.fleet,
        serving_of=workspace.serving_of,
        find_source=workspace.source,
        actor="t",
        home=tmp_path / "home",
        checkpoint=somebody_else,
    )
    with pytest.raises(OutputExists, match="meanwhile"):
        scorer.score({"fleet": "f", "input": str(rows), "output": str(output)})
    assert output.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out.parquet"]


def test_renaming_a_column_that_is_not_there_is_an_error(workspace, rows, tmp_path):
    job = {"fleet": "f", "input": str(rows), "output": str(tmp_path / "out.parquet"), "rename": {"q": "z"}}
    with pytest.raises(InvalidInput, match="'q'"):
        workspace.score(job)


def fails(frame):
    return frame / 0


def test_a_preprocess_that_fails_is_named(workspace, rows, tmp_path):
    job = {"fleet": "f", "input": str(rows), "output": str(tmp_path / "o.csv"), "preprocess": f"{__name__}:fails"}
    with pytest.raises(InvalidInput, match=r"fails failed: TypeError"):
        workspace.score(job)


def test_the_bits_of_a_job_are_those_of_predict(workspace, tmp_path):
    """Batch and in-process answers agree to the bit, row by row."""
    frame = pl.DataFrame({"k": ["a"] * 5000, "x": pl.Series(range(5000)) / 7})
    frame.write_parquet(tmp_path / "many.parquet")
    out = tmp_path / "out.parquet"
    workspace.score({"fleet": "f", "input": str(tmp_path / "many.parquet"), "output": str(out), "shard_rows": 700})
    assert pl.read_parquet(out)["prediction"].equals(workspace.fleet("f").predict(frame)["prediction"])


def test_a_promotion_in_the_middle_of_a_run_does_not_change_it(workspace, rows, tmp_path):
    """A run pins its snapshot: version 2 becomes the champion while version 1 is scoring."""
    model = Ridge().fit([[0.0], [1.0]], [5.0, 9.0])
    other = shoal.Fleet.from_estimators(keys=["k"], models={("a",): model}, features=["x"], task="regression")
    workspace.register(other, "f")
    want = workspace.fleet("f:1").predict(pl.read_parquet(rows))["prediction"]

    def promote(step):
        if step == "read":
            workspace.promote("f", 2)

    scorer = Scorer(
        ledger=workspace.ledger,
        open_fleet=workspace.fleet,
        serving_of=workspace.serving_of,
        find_source=workspace.source,
        actor="t",
        home=tmp_path / "home",
        checkpoint=promote,
    )
    summary = scorer.score({"fleet": "f", "input": str(rows), "output": str(tmp_path / "out.parquet")})
    got = pl.read_parquet(tmp_path / "out.parquet")
    assert summary.version == 1
    assert set(got["snapshot"]) == {1}
    assert got["prediction"].equals(want)
    assert workspace.fleet("f").version == 2


def test_an_append_beside_its_own_earlier_output_is_fine(workspace, rows, tmp_path):
    job = {"fleet": "f", "input": str(rows), "output": str(tmp_path / "scores"), "if_exists": "append"}
    first, second = workspace.score(job), workspace.score(job)
    assert first.run != second.run
    assert pl.read_parquet(tmp_path / "scores" / "run=*" / "*.parquet").height == 4
    shutil.rmtree(tmp_path / "scores")
    assert Destination(load(job), "x", tmp_path).path == tmp_path / "scores"


@pytest.mark.parametrize("name", ["scores.parqet", "scores.csv.gz", "scores.json", "scores.jsonll"])
def test_a_mistyped_ending_does_not_make_a_folder(name):
    with pytest.raises(InvalidSpec, match="for a folder"):
        load({"fleet": "f", "input": "rows.parquet", "output": name})
    assert not load({"fleet": "f", "input": "rows.parquet", "output": f"{name}/"}).single_file


def test_leases_outlive_a_database_that_is_away_for_a_moment(workspace, rows, tmp_path, monkeypatch):
    """The first renewal fails; the next ones must still come, so that nobody else takes the shard over."""
    monkeypatch.setattr("shoal.batch.worker.LEASE_S", 0.6)
    renew, calls = workspace.ledger.renew, []

    def away_once(claims, lease_s):
        calls.append(len(claims))
        if len(calls) == 1:
            raise StorageError("the database is away")
        return renew(claims, lease_s)

    def outlive(step):
        """Take longer than a lease, and until it was renewed after the failure."""
        if step == "write":
            time.sleep(1.5)
            until_s = time.monotonic() + 60
            while len(calls) < 3 and time.monotonic() < until_s:
                time.sleep(0.02)

    monkeypatch.setattr(workspace.ledger, "renew", away_once)
    scorer = Scorer(
        ledger=workspace.ledger,
        open_fleet=workspace.fleet,
        serving_of=workspace.serving_of,
        find_source=workspace.source,
        actor="t",
        home=tmp_path / "home",
        checkpoint=outlive,
    )
    summary = scorer.score({"fleet": "f", "input": str(rows), "output": str(tmp_path / "out.parquet")})
    assert summary.ledger.balanced
    assert len(calls) >= 3
