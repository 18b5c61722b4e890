"""Input that is prepared in small pieces is what Polars reads in one."""

import contextlib
import datetime as dt
import json
import os
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.exceptions import PolarsError
from polars.testing import assert_frame_equal

from shoal.batch.memory import PieceBudget, anonymous_bytes, plan_pieces
from shoal.batch.origin import Origin, Origins
from shoal.batch.preparation import prepare
from shoal.batch.source import FILE, LINE, ROW
from shoal.batch.spec import ScoreSpec
from shoal.batch.text import copy_text
from shoal.errors import InvalidInput, InvalidSpec
from shoal.storage.query import looks_at_single_rows
from shoal.types import InputFile

AMPLE = 2**40


def read(path: Path, piece_bytes: int, declared: dict[str, str] | None = None, form: str = "") -> pl.DataFrame:
    """A text file through small pieces, with its row ids."""
    budget = PieceBudget(limit_bytes=AMPLE, piece_bytes=piece_bytes)
    copy = path.with_name("copy.parquet")
    each = copy_text(path, form or path.suffix[1:], declared or {}, copy, budget)
    origins = Origins(each=each, declared=declared or {})
    frame = pl.concat(origins.pieces(piece_bytes))
    assert_frame_equal(frame, origins.frame().collect())
    assert frame[ROW].to_list() == list(range(frame.height))
    assert frame[FILE].unique().to_list() in ([str(path)], [])
    return frame.drop(FILE, ROW)


def plain_csv(path: Path) -> pl.DataFrame:
    """The same in one piece: all texts, then each column in the first type all its values have."""
    frame = pl.read_csv(path, infer_schema=False, glob=False)
    return frame.with_columns(typed(frame[name]) for name in frame.columns)


def typed(texts: pl.Series) -> pl.Series:
    def fits(values: pl.Series) -> bool:
        return values.null_count() == texts.null_count() < len(texts)

    tries: list[Callable[[], pl.Series]] = [
        lambda: texts.cast(pl.Int64, strict=False),
        lambda: texts.cast(pl.Float64, strict=False),
        lambda: texts.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean),
        lambda: texts.str.to_date("%Y-%m-%d", strict=False),
        lambda: texts.str.replace(" ", "T").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False),
    ]
    return next((found for attempt in tries if fits(found := attempt())), texts)


VALUES = ["", "1", "-7", "+3", "007", "1.5", "nan", "true", "false", "2026-01-05", "2026-01-05 07:00:00", "x", "é",
          '"a,b"', '"a\nb"', '"a\r\nb"', '"say ""so"""', '""', " 1", "1e3", "inf", "12345678901234567890"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from(VALUES), min_size=1, max_size=3), max_size=30),
    ending=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    closed=st.booleans(),
    piece=st.integers(40, 200),
)
def test_csv_in_pieces_is_csv_in_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], ending: str, mark: bool, closed: bool, piece: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    text = ending.join(["a,b,c", *(",".join(row) for row in rows)]) + ending * closed
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    assert_frame_equal(read(path, piece), plain_csv(path))


@settings(max_examples=400, deadline=None)
@given(text=st.text(alphabet='a1,"\n\r .', max_size=120), piece=st.integers(40, 80))
def test_any_text_as_csv_is_read_alike_or_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, piece: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "in.csv"
    path.write_bytes(b"a,b\n" + text.encode())
    try:
        truth = plain_csv(path)
    except PolarsError:
        truth = None
    if truth is not None:
        assert_frame_equal(read(path, piece), truth)
        return
    with contextlib.suppress(InvalidInput):  # a quote that is never closed
        assert LINE in read(path, piece).columns


@pytest.mark.parametrize("first", ['"a\nb",c', "\n\na,b", "a,a", " a ,b", "\r\na,b"])
def test_headers_of_all_kinds(tmp_path: Path, first: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text(first + "\n" + "1,2\n" * 50)
    assert_frame_equal(read(path, 40), plain_csv(path))


@pytest.mark.parametrize("piece", [50, 1000, 10**6])
def test_keys_that_look_like_numbers_stay_texts(tmp_path: Path, piece: int) -> None:
    path = tmp_path / "in.csv"
    path.write_text("k,n,late\n" + "007,1,2\n" * 60 + "8,2,x\n" + "9,,\n" * 10)
    frame = read(path, piece, {"k": "string"})
    assert frame.schema == {"k": pl.String, "n": pl.Int64, "late": pl.String}
    assert frame["k"][0] == "007"


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**31), 2**31), st.floats(allow_nan=False, allow_infinity=False),
    st.text(string.printable, max_size=5), st.lists(st.integers(0, 9), max_size=3),
    st.fixed_dictionaries({"x": st.integers(0, 9)}),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4), min_size=1, max_size=25),
    ending=st.sampled_from(["\n", "\r\n", "\n\n"]),
    piece=st.integers(100, 400),
)
def test_json_lines_in_pieces_are_json_lines_in_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], ending: str, piece: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "in.jsonl"
    path.write_text(ending.join(json.dumps(row) for row in rows) + ending)
    try:
        truth = pl.read_ndjson(path, infer_schema_length=None)
        truth.write_parquet(path.with_suffix(".parquet"))
    except PolarsError:
        truth = None
    found = read(path, piece, form="jsonl")
    if truth is None:
        assert LINE in found.columns
        assert found.height == len(rows)
    elif LINE not in found.columns:
        assert_frame_equal(found, truth)


def test_fields_that_come_late_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": 1}\n' * 500 + '{"b": {"c": [1.5]}, "a": 2.5}\n')
    frame = read(path, 100)
    assert dict(frame.schema) == {"a": pl.Float64, "b": pl.Struct({"c": pl.List(pl.Float64)})}
    assert frame.row(-1, named=True) == {"a": 2.5, "b": {"c": [1.5]}}


def test_damaged_json_lines_with_fields_that_come_late(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": 1}\n' * 50 + "{oops\n" + '{"b": true}\n' * 50 + '{"c": "x", "a": 7}\n' + "[]\n")
    frame = read(path, 400)
    assert frame.height == 103
    assert frame.select("a", "b", "c").schema == {"a": pl.Int64, "b": pl.Boolean, "c": pl.String}
    assert frame.with_row_index().filter(pl.col(LINE).is_not_null()).select("index", LINE).rows() == [
        (50, "{oops"), (102, "[]"),
    ]  # fmt: skip
    assert frame.row(101, named=True) == {"a": 7, "b": None, "c": "x", LINE: None}


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_a_line_too_long_for_the_memory_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    line = "x" * 3000
    path.write_text(f"a,b\n{line},1\n" if name == "in.csv" else json.dumps({"a": line}) + "\n")
    with pytest.raises(InvalidSpec, match=rf"field 'memory': .*{name}"):
        read(path, 500)
    assert read(path, 5000)["a"].to_list() == [line]


def parquet(tmp_path: Path, frame: pl.DataFrame, **more: int) -> InputFile:
    path = tmp_path / "in.parquet"
    frame.write_parquet(path, **more)
    return InputFile(path=str(path), size_bytes=path.stat().st_size, sha256="", rows=frame.height)


KINDS = pl.DataFrame({
    "text": ["x", None, "ü"] * 400,
    "kind": pl.Series(["p", "q", None] * 400, dtype=pl.Categorical),
    "fixed": pl.Series(["p", "q", None] * 400, dtype=pl.Enum(["q", "p"])),
    "day": [dt.date(2026, 1, 2), None, dt.date(1900, 1, 1)] * 400,
    "time": pl.Series([dt.datetime(2026, 1, 2, 3)] * 1200, dtype=pl.Datetime("ns", "Europe/Berlin")),
    "lasts": [dt.timedelta(seconds=3), None, dt.timedelta(days=1)] * 400,
    "small": pl.Series(range(1200), dtype=pl.UInt16),
    "parts": [[1, 2], [], None] * 400,
    "inner": [{"x": 1, "y": ["z"]}] * 1200,
    "raw": [b"\x00", None, b""] * 400,
    "price": pl.Series(["1.25"] * 1200).cast(pl.Decimal(10, 2)),
    "none": [None] * 1200,
    "value": np.linspace(0, 1, 1200),
})  # fmt: skip


def prepared(tmp_path: Path, file: InputFile, **job: object) -> pl.DataFrame:
    spec = ScoreSpec(fleet="f", input=(file.path,), output="o", **job)  # type: ignore[arg-type]
    target = tmp_path / "run" / "rows.parquet"
    assert prepare(spec, [file], {}, target) == 1200
    assert [p.name for p in target.parent.glob("*.parquet")] == ["rows.parquet"]
    return pl.read_parquet(target)


@pytest.mark.parametrize("sql", ["SELECT * FROM input WHERE small % 2 = 0", "SELECT * FROM input ORDER BY small"])
@pytest.mark.parametrize("row_group_size", [100, 1200])
def test_columns_of_all_types_pass_a_preprocess(tmp_path: Path, sql: str, row_group_size: int) -> None:
    file = parquet(tmp_path, KINDS, row_group_size=row_group_size)
    found = prepared(tmp_path, file, preprocess=sql)
    wanted = KINDS.filter(pl.col("small") % 2 == 0) if "WHERE" in sql else KINDS
    assert_frame_equal(found.drop(FILE, ROW), wanted)
    assert found[ROW].to_list() == wanted["small"].to_list()


def test_rows_made_piece_by_piece_are_numbered_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.batch.memory.LARGEST_PIECE_BYTES", 2000)
    found = prepared(tmp_path, parquet(tmp_path, KINDS), preprocess="SELECT small FROM input WHERE small > 10")
    assert found.rows() == [("preprocessed", number, number + 11) for number in range(1189)]


ROW_BY_ROW = ["SELECT * FROM input",
              "SELECT small * 2 AS b, UPPER(text) t FROM input WHERE value > 0.5 AND day IS NULL",
              "WITH x AS (SELECT text, value + 1 AS v FROM input) SELECT v FROM x WHERE v > 1 AND text IN ('x')",
              "SELECT CASE WHEN value > 0.3 THEN 1 ELSE small END AS c, text FROM input"]  # fmt: skip
TOGETHER = ["SELECT * FROM input LIMIT 7", "SELECT SUM(small) s FROM input", "SELECT DISTINCT text FROM input",
            "SELECT text, COUNT(*) n FROM input GROUP BY text", "SELECT * FROM input ORDER BY value DESC",
            "SELECT value - AVG(value) OVER (PARTITION BY text) AS d FROM input", "SELECT 1 AS one FROM input LIMIT 1",
            "SELECT a.text FROM input a JOIN input b ON a.small = b.small",
            "SELECT MAX(value) - MIN(value) m FROM input",
            "SELECT text FROM input UNION ALL SELECT text FROM input",
            "SELECT text FROM input WHERE value > (SELECT AVG(value) FROM input)"]  # fmt: skip


@pytest.mark.parametrize("sql", [*ROW_BY_ROW, *TOGETHER])
def test_only_sql_that_looks_at_single_rows_is_cut(sql: str) -> None:
    assert looks_at_single_rows(sql, KINDS.lazy()) == (sql in ROW_BY_ROW)


def centred(frame: pl.LazyFrame) -> pl.LazyFrame:
    mean = frame.select(pl.col("value").mean()).collect().item()
    return frame.with_columns(pl.col("value") - mean, pid=os.getpid())


def test_a_function_sees_all_rows_at_once(tmp_path: Path) -> None:
    found = prepared(tmp_path, parquet(tmp_path, KINDS), preprocess=f"{__name__}:centred")
    assert found["value"].sum() == pytest.approx(0, abs=1e-9)
    assert found["pid"].unique().to_list() != [os.getpid()]


def hungry(frame: pl.LazyFrame) -> pl.LazyFrame:
    return pl.LazyFrame({"big": np.ones(300 * 2**17)})


def dying(frame: pl.LazyFrame) -> pl.LazyFrame:
    os.abort()


def test_a_preprocess_that_takes_too_much_is_ended(tmp_path: Path) -> None:
    limit = anonymous_bytes() + 200 * 2**20
    with pytest.raises(InvalidSpec, match="field 'memory'"):
        prepared(tmp_path, parquet(tmp_path, KINDS), preprocess=f"{__name__}:hungry", memory=f"{limit}B")


def test_a_preprocess_whose_process_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'preprocess': its process ended with SIGABRT"):
        prepared(tmp_path, parquet(tmp_path, KINDS), preprocess=f"{__name__}:dying")


def test_too_little_memory_is_refused_with_what_is_needed() -> None:
    with pytest.raises(InvalidSpec, match=r"field 'memory': 20 MiB are too few .* set at least \d+ MiB"):
        plan_pieces(20 * 2**20)


def test_pieces_follow_the_size_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pl.DataFrame({"t": ["x" * 1000] * 1000}).write_parquet(path, row_group_size=600)
    origin = Origin(path=str(path), name="in", rows=1000)
    pieces = list(origin.pieces(100_000))
    assert all(piece.height <= 100 for piece in pieces)
    assert pl.concat(pieces)[ROW].to_list() == list(range(1000))
    later = replace(origin, first_row=5)
    assert next(later.pieces(100_000))[ROW][0] == later.frame().collect()[ROW][0] == 5
