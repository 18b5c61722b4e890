"""A row's answer is that of the row alone, whatever stands in the lines and files beside it."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import shoal

FIRST = 2**53
"""The first integer that shares its double with the next one."""

DAY = dt.date(2026, 1, 5)
PLAIN: dict[str, object] = {"n": FIRST + 1, "night": True, "day": "2026-01-05", "site": "7", "x": 0.5}
CELLS = {
    "n": [str(FIRST), "1", "+1", "007", "1.0", "1e3", "1.5", f"{FIRST}.0", "NaN", "inf", "", "abc", "true", " 1",
          "99999999999999999999", str(2**63), str(-(2**63)), "1e400"],
    "night": ["false", "True", "1", "0.5", "", "abc", "NaN"],
    "day": ["2026-1-5", "2026-01-05 07:00:00", "2026-01-05T07:00:00.25", "2026-13-05", "20260105", "5", "", "x"],
    "site": ["007", "7.0", "true", "2026-01-05", "", "NaN", "x"],
    "x": ["1", "1.5", "true", "False", "1e3", "abc", "", "NaN", "inf", "2026-01-05", str(FIRST + 1), "1" + "0" * 25],
}  # fmt: skip
VALUES = {
    "n": [FIRST, 1, 1.0, 1e3, 1.5, None, True, "1", "1.0", "abc", 2**63, -(2**63), 2**70, 2**140, [1], {"a": 1}],
    "night": [False, "true", "True", 1, 0.5, None, "abc", []],
    "day": ["2026-01-05 07:00:00", "x", 5, None, True, 0.5],
    "site": [7, 7.0, 7.5, True, None, "007", 2**70, [7, "a"]],
    "x": [1, 1.5, True, False, None, "1.5", "abc", "true", 1e300, 5e-324, FIRST + 1, 2**70, [1], "2026-01-05"],
}
CSV_PLAIN = {**{name: str(value) for name, value in PLAIN.items()}, "night": "true"}
CSV_ROWS = [",".join({**CSV_PLAIN, name: cell}.values()) for name, cells in CELLS.items() for cell in ["", *cells]]
JSON_ROWS = [json.dumps({**PLAIN, name: value}) for name, values in VALUES.items() for value in [PLAIN[name], *values]]
BROKEN = "{oops"


def constant(value: float) -> Ridge:
    return Ridge(alpha=1e-9).fit([[0.0], [1.0]], [value, value + 0.25])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory):
    own = {(n, True, DAY, "7"): constant(float(i)) for i, n in enumerate([1, 1000, FIRST, FIRST + 1])}
    fleet = shoal.Fleet.from_estimators(
        keys=["n", "night", "day", "site"], models=own, features=["x"], task="regression", name="f",
        fallbacks={("n",): {(FIRST + 1,): constant(50.0)}, (): {(): constant(100.0)}},
    )  # fmt: skip
    with shoal.open(tmp_path_factory.mktemp("neighbours") / "home") as opened:
        opened.promote("f", opened.register(fleet).version)
        yield opened


class Scoring:
    """Scores lines of a format, and remembers those that were alone in their file."""

    def __init__(self, workspace: shoal.Workspace, folder: Path, form: str) -> None:
        self.workspace, self.folder, self.form = workspace, folder, form
        self._known: dict[str, tuple[object, ...]] = {}

    def together(self, *files: list[str]) -> list[tuple[object, ...]]:
        paths = []
        for number, lines in enumerate(files):
            path = self.folder / f"in-{number}.{self.form}"
            path.write_text("\n".join([",".join(PLAIN)] * (self.form == "csv") + lines) + "\n")
            paths.append(str(path))
        output = self.folder / "out.parquet"
        self.workspace.score({"fleet": "f", "input": paths, "output": str(output), "if_exists": "replace"})
        found = pl.read_parquet(output)
        return found.select("n", "night", "day", "site", "prediction", "outcome", "reason", "model_level").rows()

    def alone(self, line: str) -> tuple[object, ...]:
        if line not in self._known:
            beside = [JSON_ROWS[0]] * (line == BROKEN)  # a file needs columns
            self._known[line] = self.together([*beside, line])[-1]
        return self._known[line]


@pytest.fixture(scope="module", params=["csv", "jsonl"])
def scoring(request: pytest.FixtureRequest, workspace: shoal.Workspace, tmp_path_factory: pytest.TempPathFactory):
    return Scoring(workspace, tmp_path_factory.mktemp(request.param), request.param)


def lines_of(scoring: Scoring) -> list[str]:
    return CSV_ROWS if scoring.form == "csv" else [*JSON_ROWS, BROKEN]


def test_all_together_are_what_each_is_alone(scoring: Scoring) -> None:
    lines = lines_of(scoring)
    assert scoring.together(lines) == [scoring.alone(line) for line in lines]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_together_are_what_each_is_alone(scoring: Scoring, data: st.DataObject) -> None:
    line = st.sampled_from(lines_of(scoring))
    files = data.draw(st.lists(st.lists(line, min_size=1, max_size=5), min_size=1, max_size=3))
    files[0].insert(0, lines_of(scoring)[0])
    assert scoring.together(*files) == [scoring.alone(line) for lines in files for line in lines]


@pytest.mark.parametrize("beside", [1.5, 1.0, 1e3, "NaN", "Infinity", 10**20, 2**63, "true", '"abc"', "null"])
def test_a_key_is_not_rounded_for_its_neighbour(scoring: Scoring, beside: object) -> None:
    rows = [f"{FIRST + 1},true,2026-01-05,7,0.0", f"{beside},true,2026-01-05,7,0.0"]
    if scoring.form == "jsonl":
        rows = [f'{{"n": {n}, "night": true, "day": "2026-01-05", "site": "7", "x": 0.0}}' for n in (FIRST + 1, beside)]
    for files in ([rows], [rows[:1], rows[1:]]):
        n, *_, prediction, outcome, reason, _ = scoring.together(*files)[0]
        assert (n, outcome, reason) == (FIRST + 1, "scored", None)
        assert prediction == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1", 1), ("+1", 1), ("1.0", 1), ("1e3", 1000), (str(FIRST), FIRST), (f"{FIRST}.0", None), ("1.5", None),
        ("abc", None), ("true", None), ("NaN", None), ("", None), (str(2**63), None),
    ],
)  # fmt: skip
def test_what_a_text_is_as_an_integer_key(
    workspace: shoal.Workspace, tmp_path: Path, text: str, key: int | None
) -> None:
    scoring = Scoring(workspace, tmp_path, "csv")
    n, *_, outcome, reason, _ = scoring.alone(f"{text},true,2026-01-05,7,0.0")
    assert n == key
    missing = text in ("", "NaN")
    assert outcome == ("scored" if key is not None else "fallback" if missing else "invalid")
    assert (reason or "") == ("" if key is not None or missing else "wrong key type in 'n'")


def test_a_column_that_is_carried_is_not_rounded_either(workspace: shoal.Workspace, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f"n,night,day,site,x,order\n1,true,2026-01-05,7,0,{FIRST + 1}\n1,true,2026-01-05,7,0,1.5\n")
    workspace.score({"fleet": "f", "input": str(path), "output": str(tmp_path / "out.parquet"), "carry": ["order"]})
    assert pl.read_parquet(tmp_path / "out.parquet")["order"].to_list() == [str(FIRST + 1), "1.5"]


@pytest.mark.parametrize("other", [pl.Float64, pl.UInt64, pl.String])
@pytest.mark.parametrize("more", [{}, {"preprocess": "SELECT * FROM input WHERE n > 0"}, {"where": "x < 5"}])
def test_files_of_different_types_do_not_round_each_other(
    workspace: shoal.Workspace, tmp_path: Path, other: type[pl.DataType], more: dict[str, str]
) -> None:
    if other is pl.String and "preprocess" in more:
        more = {"preprocess": "SELECT * FROM input"}
    rows = {"night": [True], "day": [DAY], "site": ["7"], "x": [0.0]}
    pl.DataFrame({"n": [FIRST + 1], **rows}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"n": pl.Series([1], dtype=pl.Int64).cast(other), **rows}).write_parquet(tmp_path / "b.parquet")
    job = {"fleet": "f", "input": str(tmp_path / "?.parquet"), "output": str(tmp_path / "out.parquet"), **more}
    workspace.score(job)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["n"].to_list() == [FIRST + 1, 1]
    np.testing.assert_allclose(found["prediction"], [3.0, 0.0], atol=1e-6)


def test_where_sees_what_the_fleet_says(workspace: shoal.Workspace, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(
        "\n".join([",".join(PLAIN), *(f"{n},true,2026-01-05,7,0" for n in (1, "1000.0", "abc", FIRST + 1))])
    )
    job = {"fleet": "f", "input": str(path), "output": str(tmp_path / "out.parquet"), "where": "n >= 1000"}
    workspace.score(job)
    assert pl.read_parquet(tmp_path / "out.parquet")["n"].to_list() == [1000, FIRST + 1]
