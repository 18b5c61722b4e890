"""Job descriptions: what is accepted, and what every refusal says."""

import datetime as dt
from pathlib import Path

import pytest

from shoal.batch.spec import ScoreSpec, load, parse_size
from shoal.errors import InvalidSpec

LEAST = {"fleet": "pumps", "input": "in.parquet", "output": "out"}


def test_yaml_mapping_and_python_mean_the_same(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("fleet: pumps\ninput: in.parquet\noutput: out\ndate: day\nfrom: 2026-01-01\ncarry: n\n")
    from_yaml = load(path)
    assert from_yaml == load({**LEAST, "date": "day", "from": dt.date(2026, 1, 1), "carry": ["n"]})
    python = ScoreSpec(
        fleet="pumps", input=("in.parquet",), output="out", date="day", from_="2026-01-01", carry=("n",)
    )  # fmt: skip
    assert from_yaml == load(python) == load(python.document())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"wher": "a > 1"}, "did you mean 'where'"),
        ({"input": []}, "'input' is empty"),
        ({"fleet": " "}, "'fleet' is empty"),
        ({"shard_rows": 0}, "'shard_rows' is 0"),
        ({"threads": "many"}, "threads"),
        ({"memory": "lots"}, "2GiB"),
        ({"memory": "0MiB"}, "2GiB"),
        ({"max_errors": "101%"}, "max_errors"),
        ({"max_errors": "-1"}, "max_errors"),
        ({"expires": "7d"}, "failure_policy"),
        ({"expires": "soon", "failure_policy": "leave"}, "7d"),
        ({"expires": "36501d", "failure_policy": "leave"}, "100 years"),
        ({"expires": f"{'9' * 400}w", "failure_policy": "leave"}, "100 years"),
        ({"from": "2026-01-01"}, "need 'date'"),
        ({"date": "day"}, "'from' or 'until'"),
        ({"date": "day", "until": "tomorrow"}, "2026-11-21"),
        ({"where": "a >"}, "'where'"),
        ({"preprocess": "DELETE FROM input"}, "SELECT"),
        ({"rename": {"a": "x", "b": "x"}}, "same new name"),
        ({"carry": ["outcome"]}, "Shoal writes itself"),
        ({"carry": ["n", "n"]}, "twice"),
        ({"partition": "{day}", "output": "out.csv"}, "needs a folder"),
        ({"partition": "../{day}"}, "partition"),
        ({"if_exists": "append", "output": "out.csv"}, "only a folder"),
        ({"if_exists": "ask"}, "if_exists"),
        ({"output": "out.csv", "output_format": "parquet"}, "ends like csv"),
        ({"missing_model": "guess"}, "missing_model"),
    ],
)
def test_a_refusal_names_the_field_and_the_way_out(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidSpec, match=says.replace("(", r"\(")):
        load({**LEAST, **fields})


@pytest.mark.parametrize("content", [None, "a: [", "just words"])
def test_a_file_that_is_no_job(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidSpec, match=r"job\.yaml"):
        load(path)


def test_sizes_and_limits() -> None:
    assert [parse_size(text) for text in ("1", "2GiB", "512 MB", "1.5kib")] == [1, 2**31, 512 * 10**6, 1536]
    limits = [load({**LEAST, "max_errors": most}).error_limit(1000) for most in (7, "7", "1%", "0.25 %")]
    assert limits == [7, 7, 10, 2]
    assert load(LEAST).error_limit(1000) is None


@pytest.mark.parametrize(
    ("output", "more", "single", "form"),
    [
        ("out", {}, False, "parquet"),
        ("out.csv", {}, True, "csv"),
        ("out.ndjson", {}, True, "jsonl"),
        ("out", {"output_format": "csv"}, False, "csv"),
        ("out.v2", {}, False, "parquet"),
    ],
)
def test_the_output_tells_its_form(output: str, more: dict[str, object], single: bool, form: str) -> None:
    spec = load({**LEAST, "output": output, **more})
    assert (spec.single_file, spec.written_as) == (single, form)
