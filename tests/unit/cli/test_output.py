import datetime as dt
import json
import math

import pytest

from shoal.cli.output import cell_text, print_facts, print_json, print_listing
from shoal.jobs.states import RunState
from shoal.registry import ModelRecord

AT = dt.datetime(2026, 11, 21, 6, 40, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (0.123456789, "0.123457"), (12345678, "12345678"), (AT, "2026-11-21 04:40:12Z"),
     (("b", "a"), "b, a"), ({"mae": 8.25, "n": 3}, "mae 8.25, n 3"), (RunState.RUNNING, "running"), ("ä", "ä"),
     ({"candidates": [{"name": "ridge"}], "keys": ["a", "b"]}, 'candidates [{"name":"ridge"}], keys ["a","b"]'),
     ([{"a": 1}, ["b"]], '{"a":1}, ["b"]'),
     ("\x1b[31mred\r\n\x07", "\N{REPLACEMENT CHARACTER}[31mred" + 3 * "\N{REPLACEMENT CHARACTER}")],
)  # fmt: skip
def test_cells_are_plain_text(value, text):
    assert cell_text(value) == text


def test_a_piped_table_is_aligned_and_never_cut(capsys):
    rows = [{"name": "a" * 300, "rows": 5, "note": "[bold]x[/bold] :smile:"}, {"name": "b", "rows": 123, "note": None}]
    print_listing(rows, ("name", "rows", "note"), as_json=False, empty="none")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["NAME", "ROWS", "NOTE"]
    assert second.split(maxsplit=2) == ["a" * 300, "5", "[bold]x[/bold] :smile:"]
    assert third.index("123") + 3 == second.index("5  ") + 1


def test_an_empty_listing_says_so_on_stderr_and_is_an_empty_list_in_json(capsys):
    print_listing([], ("name",), as_json=False, empty="no fleets")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "no fleets\n")
    print_listing([], ("name",), as_json=True, empty="no fleets")
    assert capsys.readouterr().out == "[]\n"


def test_json_holds_everything(capsys):
    model = ModelRecord(key_text="a", level=("x",), family="affine", trained_at=AT, metrics={"r2": math.nan})
    print_json([model])
    assert json.loads(capsys.readouterr().out) == [
        {"key_text": "a", "level": ["x"], "family": "affine", "rows": 0, "trained_at": "2026-11-21T06:40:12+02:00",
         "metrics": {"r2": None}}
    ]  # fmt: skip


def test_facts_leave_out_what_is_empty(capsys):
    print_facts({"name": "flights", "owner": "", "tags": (), "created_by": "ann", "latest": None, "rows": 0})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "flights"], ["created", "by", "ann"], ["rows", "0"],
    ]  # fmt: skip
