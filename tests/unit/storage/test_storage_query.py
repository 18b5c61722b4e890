"""What a job's SQL may do: select from its input, and nothing else."""

import sys
from pathlib import Path

import polars as pl
import pytest

from shoal.errors import InvalidInput, InvalidSpec
from shoal.storage.query import apply_preprocess, check_preprocess, is_function, predicate, row_expression

FRAME = pl.LazyFrame({"shop": ["a", "b", None], "x": [1.0, 2.0, 3.0]})

MODULE = """
def doubled(frame):
    return frame.with_columns(x=frame.collect_schema() and __import__("polars").col("x") * 2)

def eager(frame):
    return frame.collect()
"""


@pytest.mark.parametrize(
    "sql",
    ["SELECT * FROM input WHERE x > 1", "-- why\n/* so */ WITH t AS (SELECT * FROM input) SELECT x FROM t WHERE x > 1"],
)
def test_selects_run(sql: str) -> None:
    assert apply_preprocess(sql, FRAME).collect()["x"].to_list() == [2.0, 3.0]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM input UNION ALL SELECT * FROM READ_PARQUET('x')",
        "SELECT * FROM input -- read_csv",
        "SELECT * FROM other",
        "SELECT y FROM input",
        "DROP TABLE input",
        "CREATE TABLE t AS SELECT 1",
        "",
    ],
)
def test_anything_else_is_refused(sql: str) -> None:
    with pytest.raises(InvalidSpec, match="field 'preprocess'"):
        apply_preprocess(sql, FRAME)


def test_tables_of_the_program_are_out_of_reach() -> None:
    secret = pl.DataFrame({"x": [42]})
    assert secret.height == 1
    with pytest.raises(InvalidSpec, match="input"):
        apply_preprocess("SELECT * FROM secret", FRAME)


def test_what_may_not_occur_is_refused_in_words_of_where_it_stands() -> None:
    with pytest.raises(InvalidSpec, match="preprocess: module:function"):
        predicate("read_csv('x') = 1")
    with pytest.raises(InvalidSpec, match=r"'rules\[1\].set.a'.*looked up") as refused:
        row_expression("read_csv('x')", "rules[1].set.a")
    assert "job" not in str(refused.value)
    assert "preprocess" not in str(refused.value)


def test_a_predicate_is_an_expression() -> None:
    assert FRAME.filter(predicate("x > 1 AND shop = 'b'")).collect().height == 1
    for text in ("read_csv('x')", "x >", "SELECT 1; SELECT 2"):
        with pytest.raises(InvalidSpec, match="field 'where'"):
            predicate(text)


def test_functions_are_imported_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert is_function("jobs_of_mine:doubled")
    assert not is_function("SELECT a FROM input")
    check_preprocess("jobs_of_mine:doubled")
    assert apply_preprocess("jobs_of_mine:doubled", FRAME).collect()["x"].to_list() == [2.0, 4.0, 6.0]
    with pytest.raises(InvalidInput, match=r"must return a polars\.LazyFrame"):
        apply_preprocess("jobs_of_mine:eager", FRAME)
    for path in ("jobs_of_mine:missing", "no_such_module:f"):
        with pytest.raises(InvalidSpec, match="PYTHONPATH"):
            apply_preprocess(path, FRAME)
    sys.modules.pop("jobs_of_mine")


@pytest.mark.parametrize(
    "where",
    ["x > AVG(x)", "COUNT(*) > 1", "x = MAX(x) OR x > 1", "SUM(x) OVER (PARTITION BY shop) > 1",
     "RANK() OVER (ORDER BY x) < 2", "LAG(x) OVER (ORDER BY x) > 1", "CASE WHEN x > MEDIAN(x) THEN true ELSE false END",
     "EXISTS (SELECT 1)"],
)  # fmt: skip
def test_a_predicate_looks_at_one_row(where: str) -> None:
    """Else it would depend on how a job is cut into shards."""
    with pytest.raises(InvalidSpec, match="more than the row itself"):
        predicate(where)


@pytest.mark.parametrize(
    "where",
    ["x IN (2, 3) AND NOT shop = 'a'", "MOD(x, 2) = 0 OR x % 2 = 0", "UPPER(shop) = 'B'",
     "COALESCE(x, 1) BETWEEN 2 AND 2",
     "CASE WHEN x > 1 THEN shop IS NOT NULL ELSE false END", "shop LIKE 'b%' AND LENGTH(shop) = 1 AND 1 = 1"],
)  # fmt: skip
def test_predicates_of_one_row_are_taken(where: str) -> None:
    assert FRAME.filter(predicate(where)).collect()["shop"].to_list() == ["b"]
