"""Partition templates: values become one path segment each, whatever they try."""

from pathlib import PurePosixPath

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.batch.partition import Template, segment_of
from shoal.errors import InvalidSpec


@given(st.text(max_size=400) | st.none() | st.booleans() | st.integers() | st.dates())
def test_a_value_is_one_ordinary_segment(value: object) -> None:
    folder = Template.parse("{x}").folder({"x": value})
    assert PurePosixPath(folder).parts == (folder,)
    assert folder[0] not in "._"
    assert "\0" not in folder
    assert len(folder.encode()) <= 255


@given(st.lists(st.text(max_size=300) | st.none(), min_size=2, max_size=2, unique=True))
def test_different_values_have_different_segments(values: list[object]) -> None:
    template = Template.parse("k={x}")
    assert template.folder({"x": values[0]}) != template.folder({"x": values[1]})


def test_rows_are_split_in_order() -> None:
    frame = pl.DataFrame({"x": ["b", "a", "b", None], "n": [0, 1, 2, 3]})
    parts = Template.parse("{x}/").split(frame)
    assert [(folder, rows["n"].to_list()) for folder, rows in parts] == [("b", [0, 2]), ("a", [1]), ("%null", [3])]


def test_several_columns_and_literals() -> None:
    template = Template.parse("v1/kind={kind}-{n}/{day}/")
    assert template.columns == ("kind", "n", "day")
    assert template.folder({"kind": "a/b", "n": 3, "day": True}) == "v1/kind=a%2Fb-3/true"
    assert segment_of("..") == "%2E."


@pytest.mark.parametrize("text", ["/{x}", "", "/", "plain", "../{x}", "{x}/..", "a//{x}", ".{x}/{", "{x}/}", "_{x}"])
def test_templates_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="partition"):
        Template.parse(text)


def test_rows_of_values_that_are_written_alike_keep_their_order() -> None:
    frame = pl.DataFrame({"x": ["a", "ab"] * 3, "y": ["bc", "c"] * 3, "n": range(6)})
    ((folder, rows),) = Template.parse("{x}{y}/").split(frame)
    assert folder == "abc"
    assert rows.equals(frame)
