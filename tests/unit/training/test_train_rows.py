"""Reading, splitting and cleaning rows, recounted by hand."""

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats
from training_setup import LOGISTIC, SVM, saved, shops, spec

from shoal.errors import InvalidInput, InvalidSpec
from shoal.training.loading import load
from shoal.training.outliers import clean
from shoal.training.plan import plan
from shoal.training.reading import read
from shoal.training.spec import Outliers, Split, TrainSpec, Window
from shoal.training.splitting import Role, divide
from shoal.types import FeatureKind, KeyType

ROWS = shops({("a", 1): 40, ("a", 2): 30, ("b", 1): 25})


def loaded(source: Path, **changes: object) -> TrainSpec:
    return load(spec(source, **changes))


def test_rows_that_cannot_be_used_are_counted_by_their_first_reason(tmp_path: Path) -> None:
    broken = ROWS.with_row_index().with_columns(
        shop=pl.when(pl.col("index") == 0).then(None).otherwise("shop"),
        y=pl.when(pl.col("index").is_in([0, 1])).then(None).when(pl.col("index") == 2).then(np.nan).otherwise("y"),
        x=pl.when(pl.col("index") == 3).then(None).when(pl.col("index") == 4).then(np.inf).otherwise("x"),
    )
    rows = read(loaded(saved(broken, tmp_path)))
    assert rows.left_out == {"missing key": 1, "missing target": 2, "missing feature": 1, "infinite value": 1}
    assert (rows.source_rows, rows.selected_rows, rows.frame.height) == (95, 95, 90)
    kept = read(loaded(tmp_path / "rows.parquet", missing="keep"))
    assert "missing feature" not in kept.left_out
    assert kept.frame.height == 91


def test_the_order_of_the_input_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    saved(ROWS, tmp_path)
    shuffled = ROWS.sample(fraction=1, shuffle=True, seed=1)
    shuffled[:50].write_csv(tmp_path / "parts" / "1.csv")
    shuffled[50:].write_parquet(tmp_path / "parts" / "2.parquet")
    assert_frame_equal(
        read(loaded(tmp_path / "rows.parquet")).frame, read(loaded(tmp_path / "parts")).frame, abs_tol=1e-12
    )


def test_where_comes_before_preprocess(tmp_path: Path) -> None:
    query = "SELECT shop, item, x * 2 AS x, z, y FROM input WHERE z > 0"
    rows = read(loaded(saved(ROWS, tmp_path), where="shop = 'a' AND x > 0.5", preprocess=query))
    wanted = ROWS.filter(pl.col("shop") == "a", pl.col("x") > 0.5, pl.col("z") > 0)
    assert rows.selected_rows == wanted.height
    assert sorted(rows.frame["x"]) == pytest.approx(sorted(wanted["x"] * 2))


def test_types_of_keys_and_features(tmp_path: Path) -> None:
    typed = ROWS.with_columns(
        pl.col("shop").cast(pl.Categorical), pl.col("item").cast(pl.Int16), x=pl.col("x") > 0, z=pl.lit("red")
    )
    rows = read(loaded(saved(typed, tmp_path), keys=["shop", "item", "day"], fallback=[[]]))
    assert [key.type for key in rows.keys] == [KeyType.STRING, KeyType.INTEGER, KeyType.DATE]
    assert [feature.kind for feature in rows.features] == [FeatureKind.NUMERIC, FeatureKind.CATEGORY]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": ["shop", "z"], "features": ["x"], "fallback": [[]]}, "key 'z' is Float64"),
        ({"features": ["x", "day"]}, "feature 'day' is Date"),
        ({"target": "shop", "keys": ["item"], "fallback": [[]]}, "regression predicts numbers"),
        ({"task": "classification", "metric": None, "candidates": [LOGISTIC]}, "target 'y' is Float64"),
        ({"features": ["x", "w"]}, "no column 'w'; it has shop, item, day"),
        ({"split": {"time": "shop", "fraction": 0.2}}, "'shop' is String, not a date"),
        ({"where": "w > 1"}, "does not fit the input"),
        ({"outliers": {"rule": "mad", "columns": ["x"]}, "preprocess": "SELECT shop, item, 'r' AS x, z, y FROM input"},
         "'x' holds no numbers"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        plan(spec(saved(ROWS, tmp_path), **changes))
    assert words in str(error.value)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    saved(ROWS.with_columns(y=pl.lit(None, pl.Float64)), tmp_path)
    with pytest.raises(InvalidInput, match="95 with a missing target"):
        read(loaded(tmp_path / "rows.parquet"))
    saved(ROWS, tmp_path)
    window = {"time": "day", "validation": {"from": "2030-01-01"}}
    with pytest.raises(InvalidInput, match="leaves no rows to measure on"):
        plan(spec(tmp_path / "rows.parquet", split=window))


def test_a_random_split_holds_out_its_share_of_every_segment(tmp_path: Path) -> None:
    document = loaded(saved(ROWS, tmp_path), split={"fraction": 0.25})
    frame = read(document).frame
    division = divide(frame, document)
    counts = frame.with_columns(role=division.roles).group_by("shop", "item", maintain_order=True)
    held = counts.agg((pl.col("role") == Role.VALIDATION).sum())["role"].to_list()
    assert held[0] == 10
    assert held[1] in (7, 8)
    assert held[2] in (6, 7)
    assert (divide(frame, document).roles == division.roles).all()
    assert (divide(frame, loaded(tmp_path / "rows.parquet", seed=4)).roles != division.roles).any()


@given(seed=st.integers(0, 1000))
def test_tiny_segments_are_held_out_by_chance(seed: int) -> None:
    frame = pl.DataFrame({"shop": range(2000), "x": 0.0, "y": 0.0})
    document = loaded(Path("x"), keys=["shop"], fallback=[], features=["x"], split={"fraction": 0.2}, seed=seed)
    assert stats.binomtest(divide(frame, document).count(Role.VALIDATION), 2000, 0.2).pvalue > 1e-6


@given(seed=st.integers(0, 1000), fraction=st.floats(0.05, 0.9))
def test_no_row_to_train_on_is_later_than_any_held_out_row(seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    days = pl.Series("day", [dt.date(2026, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 9, 50)])
    frame = pl.DataFrame({"shop": ["a"] * 50, "day": days, "x": rng.normal(size=50), "y": rng.normal(size=50)})
    document = loaded(
        Path("x"), keys=["shop"], fallback=[], features=["x"], split={"time": "day", "fraction": fraction}
    )
    try:
        roles = divide(frame, document).roles
    except InvalidInput:
        return  # so many rows of the first days that none is left to train on
    latest, first = days.filter(roles == Role.TRAIN).max(), days.filter(roles == Role.VALIDATION).min()
    assert isinstance(latest, dt.date)
    assert isinstance(first, dt.date)
    assert latest < first


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("offset", ["", "+00:00"])
def test_windows_are_half_open_and_in_the_zone_of_the_column(zone: str | None, offset: str) -> None:
    times = pl.datetime_range(
        dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 4), "1h", time_zone=zone, eager=True, closed="left"
    )  # fmt: skip
    frame = pl.DataFrame({"time": times, "x": np.arange(72.0), "y": np.arange(72.0)})
    window = Window(from_=f"2026-01-02T00:00:00{offset}", until=f"2026-01-03T00:00:00{offset}")
    split = Split(time="time", validation=window)
    document = msgspec.structs.replace(loaded(Path("x"), keys=[], fallback=[], features=["x"]), split=split)
    roles = divide(frame, document).roles
    shift = -5 if offset and zone == "America/New_York" else 0
    assert np.flatnonzero(roles == Role.VALIDATION).tolist() == list(range(24 + shift, 48 + shift))
    assert np.flatnonzero(roles == Role.TRAIN).tolist() == list(range(24 + shift))
    assert (roles[48 + shift :] == Role.UNUSED).all()


@given(seed=st.integers(0, 10_000), factor=st.floats(0.5, 5), kind=st.sampled_from(["mad", "iqr"]))
def test_outliers_are_those_of_scipy_segment_by_segment(seed: int, factor: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({
        "shop": ["a"] * 30 + ["b"] * 20, "x": rng.standard_t(2, 50) * 3, "y": np.r_[rng.standard_t(2, 30), [7.0] * 20],
    })  # fmt: skip
    roles = np.where(rng.random(50) < 0.7, Role.TRAIN, Role.VALIDATION).astype(np.uint8)
    document = loaded(
        Path("x"), keys=["shop"], fallback=[], features=["x"],
        outliers={"rule": kind, "factor": factor, "columns": ["x", "y"]},
    )  # fmt: skip
    expected = np.zeros(50, dtype=bool)
    for name in ("x", "y"):
        for shop in (slice(0, 30), slice(30, 50)):
            values = frame[name].to_numpy()[shop]
            train = values[roles[shop] == Role.TRAIN]
            if kind == "mad":
                low = high = np.median(train)
                spread = stats.median_abs_deviation(train, scale="normal")
            else:
                low, high = np.quantile(train, [0.25, 0.75])
                spread = stats.iqr(train)
            if spread > 0:
                expected[shop] |= (values < low - factor * spread) | (values > high + factor * spread)
    cleaned = clean(frame, roles, document)
    np.testing.assert_array_equal(cleaned.outlying, expected)
    np.testing.assert_array_equal(cleaned.dropped, expected)
    assert cleaned.frame is frame


def test_clipping_moves_values_to_the_border_and_drops_nothing() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 100.0], "y": [0.0] * 5})
    document = loaded(
        Path("x"), keys=[], fallback=[], features=["x"],
        outliers={"rule": "iqr", "action": "clip", "columns": ["x"]},
    )  # fmt: skip
    cleaned = clean(frame, np.full(5, Role.TRAIN, np.uint8), document)
    assert cleaned.frame["x"].to_list() == [1.0, 2.0, 3.0, 4.0, 7.0]
    assert cleaned.outlying.tolist() == [False] * 4 + [True]
    assert not cleaned.dropped.any()


def test_the_rule_looks_at_the_target_or_else_at_all_numbers() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 100.0], "y": [100.0, 1.0, 2.0, 3.0, 4.0]})
    roles = np.full(5, Role.TRAIN, np.uint8)
    common: dict[str, object] = {"keys": [], "fallback": [], "features": ["x"], "outliers": {"rule": "iqr"}}
    assert clean(frame, roles, loaded(Path("x"), **common)).outlying.tolist() == [True] + [False] * 4
    anomaly = loaded(Path("x"), **common, task="anomaly", target=None, metric=None, candidates=[SVM])
    assert clean(frame, roles, anomaly).outlying.tolist() == [False] * 4 + [True]


def test_the_default_factors() -> None:
    assert (Outliers(rule="mad").reach, Outliers(rule="iqr").reach) == (3.5, 1.5)


def test_segments_of_every_level_have_their_rows(tmp_path: Path) -> None:
    planned = plan(spec(saved(ROWS, tmp_path), split={"fraction": 0.2}, outliers={"rule": "iqr", "factor": 0.5}))
    frame = planned.rows.frame.with_columns(
        role=planned.division.roles, out=planned.cleaned.outlying
    )  # fmt: skip
    for segments in planned.levels:
        for number, key in enumerate(segments.keys):
            mine = segments.order[segments.starts[number] : segments.starts[number + 1]]
            wanted = frame.filter(*(pl.col(name) == value for name, value in zip(segments.level, key, strict=True)))
            assert_frame_equal(frame[mine], wanted)
            train = wanted.filter(pl.col("role") == Role.TRAIN)
            assert segments.train[number] == train.filter(~pl.col("out")).height
            assert segments.outliers[number] == train["out"].sum()
            assert segments.validation[number] == wanted.height - train.height
    assert [len(segments) for segments in planned.levels] == [3, 2, 1]
    assert planned.levels[1].texts == ("a:*", "b:*")


def test_keys_like_identifiers_are_warned_of(tmp_path: Path) -> None:
    rows = pl.DataFrame({"shop": ["a", "b"] * 500, "item": range(1000), "x": np.arange(1000.0), "z": 0.0, "y": 0.0})
    found = plan(spec(saved(rows, tmp_path))).distribution
    assert (found.segments, found.too_few) == (1000, 1000)
    (warning,) = found.warnings
    assert "'item' has 1,000 different values, almost one per row: it looks like an identifier" in warning
    assert sum(found.histogram.values()) == 1000
    assert found.quantiles["median"] == 1


def test_enough_rows_are_not_warned_of(tmp_path: Path) -> None:
    found = plan(spec(saved(ROWS, tmp_path))).distribution
    assert found.warnings == []
    assert found.histogram == {"20-49": 3}
    assert len(found.lines) == 1
    assert found.quantiles["maximum"] == 32


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("files", [1, 2])
def test_integer_keys_are_refused_rather_than_rounded(tmp_path: Path, form: str, files: int) -> None:
    """Nothing says yet what the keys of a training are: beside 1.5 they are numbers, which are no keys."""
    lines = [f'{{"shop": "a", "line": {line}, "x": 0.5, "z": 1.5, "y": 1.0}}' for line in (2**53 + 1, 1.5)]
    if form == "csv":
        lines = [f"a,{line},0.5,1.5,1.0" for line in (2**53 + 1, 1.5)]
    paths = []
    for number, part in enumerate([lines] if files == 1 else [lines[:1], lines[1:]]):
        path = tmp_path / f"{number}.{form}"
        path.write_text("\n".join([*(["shop,line,x,z,y"] if form == "csv" else []), *part, ""]))
        paths.append(str(path))
    with pytest.raises(InvalidSpec, match="key 'line' is Float64"):
        read(load({**spec(tmp_path), "input": paths, "keys": ["shop", "line"]}))
