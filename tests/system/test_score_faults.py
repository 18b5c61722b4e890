"""Score jobs over bad input, hostile values and full disks: what goes wrong costs only itself."""

import datetime as dt
import json
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from score_process import CONTEXT, kill
from score_world import (
    estimators,
    fallback,
    leftovers,
    make_home,
    read_output,
    recount,
    rows,
    run,
    scorer,
    spec,
    write_inputs,
)  # fmt: skip

import shoal
from shoal.batch import worker
from shoal.errors import InputChanged, InvalidInput, InvalidSpec, NotFound, OutputExists, StorageError, TooManyErrors
from shoal.jobs.states import RunState
from shoal.types import Counts


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_home(folder / "home")
    return folder


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template / "home", tmp_path / "home"))


def reasons(output: Path) -> dict[int, str | None]:
    frame = read_output(output)
    return dict(zip(frame["_row"].to_list(), frame["reason"].to_list(), strict=True))


def listed(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


CSV = [
    "device,sensor,a,b", "d0,1,1.5,2", "d0,1,abc,3", "d0,1,1,2,9", "d0,1,1", '"007",1,4,5', "d0,1,,5", "d0,x,1,5",
    "d0,1,inf,1", '"d0"x,1,1,1', "d1,2,0.5,0.25",
]  # fmt: skip
CSV_REASONS = {
    0: None, 1: "wrong type in 'a'", 2: "unreadable line", 3: "missing value in 'b'", 4: None,
    5: "missing value in 'a'", 6: "wrong key type in 'sensor'", 7: "infinite value in 'a'", 8: "unreadable line",
    9: None,
}  # fmt: skip


def test_a_bad_line_of_csv_costs_itself(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out"
    source.write_text("\n".join(CSV) + "\n")
    summary = run(home, spec(source, output))
    assert reasons(output) == CSV_REASONS
    frame = read_output(output)
    assert frame["device"][4] == "007"
    model = estimators()["007", 1]
    assert frame["prediction"][4] == pytest.approx(model.predict(np.array([[4.0, 5.0]]))[0])
    assert summary.errors is not None
    bad = {row["_row"]: row for row in listed(summary.errors)}
    assert set(bad) == {1, 2, 3, 5, 6, 7, 8}
    assert bad[1]["a"] == "abc"
    assert bad[2]["_line"] == "d0,1,1,2,9"
    assert bad[7]["a"] == "inf"


def test_a_text_among_numbers_does_not_stop_where(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out"
    source.write_text("device,sensor,a,b\nd0,1,1.5,2\nd0,1,abc,3\nd0,1,-1,oops\nd0,1,2,oops\n")
    run(home, spec(source, output, where="a > 0"))
    assert reasons(output) == {0: None, 3: "wrong type in 'b'"}


def test_a_quote_that_is_never_closed_is_named(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('device,sensor,a,b\nd0,1,1,2\n"d0,1,1,2\nd0,1,1,2\n')
    with pytest.raises(InvalidInput, match=r"in\.csv, line 3: a quote"):
        run(home, spec(source, tmp_path / "out"))
    assert list((home / "runs").glob("*")) == []


def test_a_bad_json_line_costs_itself(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        '{"device": "007", "sensor": 1, "a": 1, "b": 2}', "{oops", '{"device": "d0", "sensor": 1, "a": "x", "b": 2}',
        "[1, 2]", "", '{"sensor": 2, "b": 0.5, "device": "d1", "a": 0.25, "more": {"x": [1]}}',
    ]  # fmt: skip
    source.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    summary = run(home, spec(source, output))
    found = listed(output)
    assert [row["reason"] for row in found] == [
        None, "unreadable line", "wrong type in 'a'", "unreadable line", None, "unreadable line",
    ]  # fmt: skip
    assert [row["_row"] for row in found] == list(range(6))
    assert summary.ledger.totals.counts == Counts(rows=6, scored=2, invalid=4)


def test_columns_in_any_order_and_of_other_types(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    inputs = write_inputs(folder, (120, 130))
    frame = pl.read_parquet(inputs[1])
    other = frame.select("b", pl.col("sensor").cast(pl.UInt8), "a", pl.col("n").cast(pl.String), "device", "kind")
    other.write_parquet(inputs[1])
    for output in (tmp_path / "out", tmp_path / "out.parquet", tmp_path / "out.csv"):
        run(home, spec(inputs, output, carry=["n", "kind"]))
    for output in (tmp_path / "out", tmp_path / "out.parquet"):
        recount(output, inputs)
        assert read_output(output)["n"].to_list() == [str(n) for n in [*range(120), *range(130)]]
    assert pl.read_csv(tmp_path / "out.csv").height == 250


def test_a_missing_column_is_named_with_its_file(home: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in")
    pl.read_parquet(inputs[2]).drop("b").write_parquet(inputs[2])
    with pytest.raises(InvalidInput, match=r"in-2\.parquet.*'b'"):
        run(home, spec(inputs, tmp_path / "out"))
    with pytest.raises(InvalidInput, match="'gone'"):
        run(home, spec(inputs[:1], tmp_path / "out", carry=["gone"]))
    assert not (tmp_path / "out").exists()


def test_nothing_to_score(home: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in", (0, 150))
    empty = run(home, spec(inputs[:1], tmp_path / "empty"))
    assert empty.ledger.totals.counts == Counts()
    assert read_output(tmp_path / "empty").height == 0
    for name in ("none", "none.parquet", "none.csv", "none.jsonl"):
        summary = run(home, spec(inputs, tmp_path / name, where="n > 1000", carry=["kind"]))
        assert summary.ledger.totals.counts == Counts()
        assert summary.ledger.totals.source_rows == 150
        assert summary.errors is None
    assert read_output(tmp_path / "none.parquet").height == 0
    assert (tmp_path / "none.csv").read_text().startswith("_file,_row,device,sensor,prediction,outcome,")
    for name in ("header.csv", "nothing.csv"):
        (tmp_path / name).write_text("device,sensor,a,b\n" if name == "header.csv" else "")
    assert run(home, spec(tmp_path / "header.csv", tmp_path / "h")).ledger.totals.counts == Counts()
    with pytest.raises(InvalidInput, match="device"):
        run(home, spec(tmp_path / "nothing.csv", tmp_path / "n"))


def test_no_such_input(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        run(home, spec(tmp_path / "*.parquet", tmp_path / "out"))


def test_changed_input_is_refused(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    kill(home, spec(inputs, output), "finished", 2)
    rows(350, 99).write_parquet(inputs[0], row_group_size=130)
    identity = shoal.open(home).ledger.runs()[0].id
    with pytest.raises(InputChanged, match=r"in-0\.parquet"):
        scorer(home).resume(identity)
    assert not output.exists()
    rows(350, 0).write_parquet(inputs[0], row_group_size=130)
    scorer(home).resume(identity)
    recount(output, inputs)


def test_the_output_of_one_job_is_the_input_of_another(home: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in")
    run(home, spec(inputs, tmp_path / "first.parquet", carry=["a", "b"]))
    run(home, spec(tmp_path / "first.parquet", tmp_path / "second"))
    assert read_output(tmp_path / "second")["_file"].unique().to_list() == [str(tmp_path / "first.parquet")]


HOSTILE = ["../../evil", "/etc/passwd", "..", ".", "", None, "a/b", "_shoal.json", ".hidden", "x" * 400, "nul\0", "ä\n"]


def test_hostile_partition_values_stay_inside(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "deep" / "out"
    frame = rows(len(HOSTILE) * 3).with_columns(kind=pl.Series(HOSTILE * 3))
    frame.write_parquet(source)
    run(home, spec(source, output, partition="kind={kind}/{sensor}", carry=["n"]))
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "home", "in.parquet"}
    found = read_output(output)
    assert sorted(found["n"].to_list()) == list(range(len(HOSTILE) * 3))
    assert len({path.parent.parent for path in output.rglob("part-*")}) == len(HOSTILE)
    assert "kind" not in found.columns


def test_partitions_by_outcome_and_date(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out"
    days = [dt.date(2026, 1, 1) + dt.timedelta(days=n % 3) for n in range(200)]
    rows(200).with_columns(day=pl.Series(days)).write_parquet(source)
    run(home, spec(source, output, partition="{outcome}/{day}", carry=["day"], date="day", **{"from": "2026-01-02"}))
    assert {path.parent.name for path in output.rglob("part-*")} == {"2026-01-02", "2026-01-03"}
    for path in output.rglob("part-*"):
        assert set(pl.read_parquet(path)["outcome"].cast(str)) == {path.parent.parent.name}


def test_too_many_errors_leave_nothing_but_the_errors(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    for limit in (3, "0.5%"):
        with pytest.raises(TooManyErrors, match="shoal runs errors"):
            run(home, spec(inputs, output, max_errors=limit))
        record = shoal.open(home).ledger.runs()[0]
        assert record.state is RunState.FAILED
        kept = home / "runs" / record.id / "errors.jsonl"
        assert {row["outcome"] for row in listed(kept)} == {"invalid"}
        assert not output.exists()
        with pytest.raises(TooManyErrors):
            scorer(home).resume(record.id)
        assert not output.exists()
    run(home, spec(inputs, output, max_errors="50%"))
    recount(output, inputs)


def test_a_share_of_errors_is_of_the_rows_that_where_leaves(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    rows(400).with_columns(a=pl.when(pl.col("n") < 20).then(None).otherwise(0.0), b=pl.lit(1.0)).write_parquet(source)
    with pytest.raises(TooManyErrors):
        run(home, spec(source, tmp_path / "out", where="n < 40", max_errors="10%", missing_model="null"))


@pytest.mark.parametrize("policy", ["null", "fail"])
def test_a_missing_model(home: Path, tmp_path: Path, policy: str) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out"
    frame = rows(200).with_columns(a=pl.lit(1.0), b=pl.lit(1.0)).filter(pl.col("device") != "d9")
    frame.write_parquet(source)
    job = spec(source, output, missing_model=policy)
    if policy == "fail":
        with pytest.raises(NotFound, match="'007', 2"):
            run(home, job)
        assert not output.exists()
        return
    counts = run(home, job).ledger.totals.counts
    without = frame.filter(device="007", sensor=2).height
    assert counts == Counts(rows=frame.height, scored=frame.height - without, no_model=without)
    found = read_output(output).filter(device="007", sensor=2)
    assert found["prediction"].null_count() == found["model_level"].null_count() == without > 0


def test_a_fallback_answers(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pl.DataFrame({"device": ["007"], "sensor": [2], "a": [1.0], "b": [2.0]}).write_parquet(source)
    run(home, spec(source, tmp_path / "out"))
    found = read_output(tmp_path / "out")
    assert found["prediction"][0] == pytest.approx(fallback().predict(np.array([[1.0, 2.0]]))[0])
    assert (found["outcome"][0], found["model_level"][0]) == ("fallback", "device")


def test_rows_made_by_a_preprocess_are_numbered_anew(home: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in")
    sql = "SELECT device, sensor, AVG(n) AS a, 1.0 AS b FROM input GROUP BY device, sensor ORDER BY device, sensor"
    summary = run(home, spec(inputs, tmp_path / "out", preprocess=sql))
    found = read_output(tmp_path / "out")
    assert found["_file"].unique().to_list() == ["preprocessed"]
    assert found["_row"].to_list() == list(range(10))
    assert (summary.ledger.totals.source_rows, summary.ledger.totals.counts.rows) == (571, 10)
    kept = run(home, spec(inputs, tmp_path / "kept", preprocess="SELECT * FROM input WHERE n % 2 = 0"))
    assert kept.ledger.totals.source_rows == 571
    assert set(read_output(tmp_path / "kept")["_row"]) == set(range(0, 350, 2))


def test_hostile_sql_is_refused_before_it_reads(home: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    hostile = [
        f"SELECT * FROM read_csv('{secret}')", f"SELECT * FROM input, read_CSV('{secret}')", "DROP TABLE input",
        f'WITH x AS (SELECT * FROM "read_csv"(\'{secret}\')) SELECT * FROM x', "SELECT * FROM other",
    ]  # fmt: skip
    for sql in hostile:
        with pytest.raises(InvalidSpec, match="preprocess"):
            run(home, spec(inputs, tmp_path / "out", preprocess=sql))
    with pytest.raises(InvalidSpec, match="where"):
        run(home, spec(inputs, tmp_path / "out", where=f"a IN (SELECT a FROM read_csv('{secret}'))"))
    assert not (tmp_path / "out").exists()


def test_append_replace_fail(home: Path, tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    run(home, spec(inputs[:1], output, if_exists="append"))
    run(home, spec(inputs[1:], output, if_exists="append"))
    recount(output, inputs, ordered=False)
    with pytest.raises(OutputExists, match="replace or append"):
        run(home, spec(inputs, output))
    run(home, spec(inputs[:1], output, if_exists="replace"))
    recount(output, inputs[:1])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    for policy in ("replace", "append", "fail"):
        with pytest.raises(OutputExists):
            run(home, spec(inputs, foreign, if_exists=policy))
    assert (foreign / "letter.txt").read_text() == "dear"
    assert shoal.open(home).ledger.runs(state=RunState.RUNNING) == []


def _with_small_files(home: Path, job: dict[str, object], most_bytes: int, words: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    one = scorer(home)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    try:
        one.score(job)
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        words.write_text(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("name", ["out", "out.parquet", "out.csv"])
def test_a_full_disk_leaves_nothing_visible_and_can_be_resumed(home: Path, tmp_path: Path, name: str) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / name
    rows(150_000).write_parquet(source)
    shoal.open(home).ledger.runs()
    job = spec(source, output, shard_rows=50_000, carry=["a", "b"])
    words = tmp_path / "words"
    process = CONTEXT.Process(target=_with_small_files, args=(home, job, 600_000, words))
    process.start()
    process.join(120)
    assert words.read_text().startswith("StorageError"), words.read_text()
    assert not output.exists()
    record = shoal.open(home).ledger.runs()[0]
    assert record.state is RunState.FAILED
    scorer(home).resume(record.id)
    frame = pl.read_csv(output) if name == "out.csv" else read_output(output)
    assert frame["_row"].to_list() == list(range(150_000))
    assert leftovers(output) == []


def _cannot_write(home: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Make writing the second shard's part fail so often."""
    write, failures = worker.write_part, []

    def failing(*arguments: object) -> object:
        if arguments[4] == 1 and len(failures) < times:
            failures.append("no")
            raise StorageError("the disk is in a bad mood")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "write_part", failing)
    monkeypatch.setattr(worker, "BACKOFF_S", 0.001)
    return failures


def test_an_error_that_passes_is_tried_again(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    assert len(_cannot_write(home, monkeypatch, 2)) == 0
    run(home, spec(inputs, output))
    recount(output, inputs)


def test_only_failed_shards_are_retried(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, output = write_inputs(tmp_path / "in"), tmp_path / "out"
    with monkeypatch.context() as patch:
        _cannot_write(home, patch, 1000)
        with pytest.raises(StorageError, match=r"bad mood.*--resume"):
            run(home, spec(inputs, output))
    assert not output.exists()
    steps: list[str] = []
    scorer(home, steps.append).resume(shoal.open(home).ledger.runs()[0].id)
    assert steps.count("read") == 1
    recount(output, inputs)


def test_csv_columns_get_the_types_of_all_their_values(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    lines = ["device,sensor,a,b,whole,share,yes,day,time,word,none"]
    lines += [
        f"d0,1,1,2,{n},{n}.5,{'true' if n % 2 else 'false'},2026-01-0{n + 1},2026-01-01 0{n}:00:00,w{n},"
        for n in range(5)
    ]
    source.write_text("\n".join([*lines, "d0,1,1,2,,,,,,,"]) + "\n")
    carried = ["whole", "share", "yes", "day", "time", "word", "none"]
    run(home, spec(source, tmp_path / "out", carry=carried, where="whole >= 1 OR whole IS NULL"))
    found = read_output(tmp_path / "out")
    assert [found.schema[name] for name in carried] == [
        pl.Int64, pl.Float64, pl.Boolean, pl.Date, pl.Datetime("us"), pl.String, pl.String,
    ]  # fmt: skip
    assert found["_row"].to_list() == [1, 2, 3, 4, 5]
    assert found["share"].to_list() == [1.5, 2.5, 3.5, 4.5, None]


def test_outputs_as_csv_and_json_lines(home: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "in")
    for form in ("csv", "jsonl"):
        run(home, spec(inputs, tmp_path / f"one.{form}", carry=["kind"]))
        run(home, spec(inputs, tmp_path / form, output_format=form, carry=["kind"]))
    whole = pl.read_csv(tmp_path / "one.csv", infer_schema_length=None)
    parts = [pl.read_csv(p, infer_schema_length=None) for p in sorted((tmp_path / "csv").glob("part-*.csv"))]
    assert whole.equals(pl.concat(parts, how="vertical_relaxed").cast(whole.schema))  # type: ignore[arg-type]
    assert listed(tmp_path / "one.jsonl") == [
        row for path in sorted((tmp_path / "jsonl").glob("part-*.jsonl")) for row in listed(path)
    ]
    assert whole.height == len(listed(tmp_path / "one.jsonl")) == 571
    record = json.loads((tmp_path / "csv" / "_shoal.json").read_text())
    assert sum(file["rows"] for file in record["files"]) == record["rows"] == 571
