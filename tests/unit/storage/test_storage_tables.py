"""Which files a list of paths means, and what they read as."""

import hashlib
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shoal.errors import InvalidInput
from shoal.storage.tables import find_tables, pin_table, scan_table, scan_tables, table_format

FRAME = pl.DataFrame({"day": [1, 2, 3], "text": ["a", "b", None], "x": [0.5, 1.5, -2.0]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "_tmp").mkdir(parents=True)
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.write_csv(tmp_path / "deep" / "b.csv")
    FRAME.write_ndjson(tmp_path / "deep" / "c.jsonl")
    for hidden in (".d.csv", "_e.csv", "deep/_tmp/f.csv", "readme.md"):
        (tmp_path / hidden).write_text("no table\n")
    return tmp_path


def names(files: tuple[Path, ...]) -> list[str]:
    return [file.name for file in files]


def test_folders_are_searched_for_tables_that_are_not_hidden(folder: Path) -> None:
    assert names(find_tables([str(folder)])) == ["a.parquet", "b.csv", "c.jsonl"]


def test_globs_cross_folders_and_files_come_once(folder: Path) -> None:
    paths = [str(folder / "**" / "*.csv"), str(folder / "deep"), str(folder / "deep" / "b.csv")]
    assert names(find_tables(paths)) == ["b.csv", "c.jsonl"]


def test_a_path_without_files_is_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing-here"):
        find_tables([str(folder / "a.parquet"), str(folder / "nothing-here*.csv")])


@pytest.mark.parametrize("name", ["a.parquet", "deep/b.csv", "deep/c.jsonl"])
def test_every_format_reads_the_same(folder: Path, name: str) -> None:
    assert_frame_equal(scan_table(folder / name).collect(), FRAME)


def test_several_files_become_one_table_in_their_order(folder: Path) -> None:
    frame = scan_tables(find_tables([str(folder)])).collect()
    assert_frame_equal(frame, pl.concat([FRAME] * 3))


def test_numbers_of_different_width_widen_and_missing_columns_are_null(tmp_path: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"x": [0.5], "y": ["b"]}).write_parquet(tmp_path / "2.parquet")
    frame = scan_tables(find_tables([str(tmp_path)])).collect()
    assert frame.to_dict(as_series=False) == {"x": [1.0, 0.5], "y": [None, "b"]}


def test_unreadable_files_and_unknown_endings_are_refused(folder: Path) -> None:
    (folder / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InvalidInput, match="cannot be read"):
        scan_tables([folder / "broken.parquet"])
    with pytest.raises(InvalidInput, match="set format"):
        table_format(folder / "readme.md")
    assert table_format(folder / "readme.md", "csv") == "csv"


def test_a_pin_is_the_content(folder: Path) -> None:
    pin = pin_table(folder / "a.parquet", rows=3)
    content = (folder / "a.parquet").read_bytes()
    assert (pin.sha256, pin.size_bytes, pin.rows) == (hashlib.sha256(content).hexdigest(), len(content), 3)
