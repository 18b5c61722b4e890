"""``shoal score``: its options are the spec's fields, and what it prints is what happened."""

import json
import re
from pathlib import Path

import click
import polars as pl
import pytest
import yaml
from sklearn.linear_model import LinearRegression

from shoal.batch import worker
from shoal.batch.spec import ScoreSpec
from shoal.cli.score import score
from shoal.errors import StorageError
from shoal.fleet import Fleet
from shoal.ledger import Ledger
from shoal.workspace import open_workspace

NOT_OF_THE_SPEC = {"spec", "serving_spec", "resume", "as_json"}


@pytest.fixture
def pumps(home: Path) -> LinearRegression:
    """A home with the fleet ``pumps``, whose one model is of pump ``a``."""
    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    with open_workspace(home) as workspace:
        fleet = Fleet.from_estimators(keys=["pump"], models={("a",): model}, features=["x"], task="regression")
        workspace.register(fleet, "pumps")
        workspace.promote("pumps", 1)
    return model


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("pump,x,hour\na,1.5,1\nb,2.5,2\na,,3\na,4.5,4\n")
    return path


def test_options_and_fields_of_the_spec_are_the_same_set() -> None:
    named = {parameter.name for parameter in score.params}
    assert named - NOT_OF_THE_SPEC == set(ScoreSpec.__struct_fields__)
    flags = {flag for parameter in score.params if isinstance(parameter, click.Option) for flag in parameter.opts}
    wanted = {"--" + name.replace("_", "-") for name in ScoreSpec.__struct_encode_fields__ if name != "fleet"}
    assert wanted <= flags


def test_every_option_reaches_its_field(monkeypatch: pytest.MonkeyPatch, shoal: object) -> None:
    seen: list[ScoreSpec] = []

    class Stop(Exception):
        pass

    def capture(self: object, spec: ScoreSpec, progress: object) -> None:
        seen.append(spec)
        raise Stop

    monkeypatch.setattr("shoal.workspace.Workspace.score", capture)
    given = {
        "fleet": "f:3", "input": ["a.csv", "b.csv"], "output": "out", "format": "csv", "where": "x > 1", "date": "day",
        "from": "2026-01-01", "until": "2026-02-01", "preprocess": "SELECT * FROM input", "rename": {"a": "b=c"},
        "output_format": "jsonl", "partition": "{k}/", "carry": ["u", "v"], "if_exists": "append",
        "missing_model": "null", "max_errors": "1%", "failure_policy": "leave", "expires": "7d", "memory": "1GiB",
        "shard_rows": 10, "threads": 1, "serving": True, "time": "at",
    }  # fmt: skip
    words: list[object] = [given["fleet"]]
    for name, value in given.items():
        if name == "rename":
            words += ["--rename", "a=b=c"]
        elif name != "fleet":
            for each in value if isinstance(value, list) else [value]:
                words += ["--" + name.replace("_", "-"), *([] if each is True else [each])]
    with pytest.raises((Stop, AssertionError)):
        shoal("score", *words)  # type: ignore[operator]
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in seen[0].document().items()}
    assert kept == given


@pytest.mark.usefixtures("pumps")
def test_the_ledger_is_printed(shoal, readings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    done = shoal("score", "pumps", "--input", readings, "--output", output)
    lines = {tuple(line.rsplit(maxsplit=1)) for line in done.stdout.splitlines()}
    for line in (
        ("read", "4"),
        ("after preprocessing", "4"),
        ("  scored", "2"),
        ("  no_model", "1"),
        ("  invalid", "1"),
    ):
        assert line in lines
    assert "reconciles: every row met exactly one outcome" in done.stdout
    assert "pumps:1 in" in done.stdout
    assert f"rows that could not be scored: {output}.errors.jsonl" in done.stdout
    assert pl.read_csv(output)["prediction"].to_list() == [pytest.approx(4), None, None, pytest.approx(10)]


@pytest.mark.usefixtures("pumps")
def test_what_is_applied_is_what_is_served_or_what_a_file_says(
    shoal, readings: Path, home: Path, tmp_path: Path
) -> None:
    with open_workspace(home) as workspace:
        workspace.set_serving("pumps", {"rules": {"served": "prediction + 1"}})
    (tmp_path / "own.yaml").write_text("rules: {own: x * 2}\nchecks: {inputs: {x: {max: 2}}}\n")
    (tmp_path / "job.yaml").write_text(
        f"{{fleet: pumps, input: {readings}, output: {tmp_path / 'no.csv'}, serving: true}}"
    )
    job = ("--spec", tmp_path / "job.yaml")
    for name, words in {
        "served.csv": (),
        "own.csv": ("--serving-spec", tmp_path / "own.yaml"),
        "none.csv": ("--no-serving",),
    }.items():
        shoal("score", *job, "--output", tmp_path / name, *words)
    assert pl.read_csv(tmp_path / "served.csv")["served"].to_list() == [pytest.approx(5), None, None, pytest.approx(11)]
    own = pl.read_csv(tmp_path / "own.csv")
    assert own["own"].to_list() == [3, None, None, None]
    assert own["reason"].to_list()[1:] == ["'x' is 2.5, above 2", "missing value in 'x'", "'x' is 4.5, above 2"]
    assert not {"served", "own"} & set(pl.read_csv(tmp_path / "none.csv").columns)
    refused = shoal("score", *job, "--serving", "--serving-spec", tmp_path / "own.yaml", code=1)
    assert "leave --serving" in refused.stderr
    shown = shoal("runs", "show", json.loads(shoal("runs", "list", "--json").stdout)[-1]["id"])
    assert "prediction + 1" in shown.stdout


@pytest.mark.usefixtures("pumps")
def test_json_says_the_same_to_programs(shoal, shoal_json, readings: Path, tmp_path: Path) -> None:
    said = shoal_json("score", "pumps", "--input", readings, "--output", tmp_path / "out")
    assert (said["fleet"], said["version"], said["state"]) == ("pumps", 1, "succeeded")
    assert said["ledger"]["rows"] == 4
    assert said["ledger"]["reconciles"]
    assert json.loads(Path(said["errors"]).read_text())["reason"] == "missing value in 'x'"
    models = shoal_json("runs", "models", said["run"])
    assert {(m["pump"], m["scored"], m["no_model"], m["invalid"]) for m in models} == {(None, 0, 1, 0), ("a", 2, 0, 1)}
    assert shoal("runs", "models", said["run"], "--limit", 1).stdout.count("\n") == 2
    again = shoal_json("score", "--resume", said["run"])
    assert again["ledger"] == said["ledger"]


@pytest.mark.usefixtures("pumps")
def test_options_override_the_file(shoal_json, readings: Path, tmp_path: Path) -> None:
    nightly = tmp_path / "nightly.yaml"
    document = {
        "fleet": "pumps",
        "input": str(readings),
        "output": "nowhere.csv",
        "carry": ["hour"],
        "where": "hour > 1",
    }
    nightly.write_text(yaml.safe_dump(document))
    output = tmp_path / "out.jsonl"
    said = shoal_json("score", "--spec", nightly, "--output", output, "--where", "hour > 2")
    assert said["ledger"]["source_rows"] == 4
    assert pl.read_ndjson(output)["hour"].to_list() == [3, 4]


@pytest.mark.usefixtures("pumps")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--resume", "r", "--where", "x"), "give no other options"),
        (("pumps", "--resume", "r"), "give no other options"),
        (("--resume", "20200101-000000-aaaa"), "there is no run"),
        (("pumps", "-o", "o"), "give --input, a file.* --spec"),
        (("pumps", "-i", "{in}"), "give --output, the file"),
        (("-i", "{in}", "-o", "o"), "give FLEET, the name of a fleet"),
        (("pumps", "-i", "{in}", "-o", "o", "--rename", "a"), "OLD=NEW"),
        (("pumps", "-i", "missing.csv", "-o", "o"), "missing.csv: no such file"),
        (("pumps:9", "-i", "{in}", "-o", "o"), "snapshot|version"),
        (("--spec", "missing.yaml"), "missing.yaml"),
    ],
)
def test_wrong_calls_say_what_to_do(shoal, readings: Path, words: tuple[str, ...], said: str) -> None:
    stderr = shoal("score", *(word.replace("{in}", str(readings)) for word in words), code=1).stderr
    assert stderr.startswith("Error: ")
    assert re.search(said, stderr), stderr


def test_runs_that_do_not_score_are_neither_resumed_nor_counted_per_model(shoal, database) -> None:
    run = (
        Ledger(database)
        .create_run(kind="train", fleet="f", version=None, spec={}, inputs=(), shards=(), actor="ann")
        .id
    )
    for words in (("score", "--resume", run), ("runs", "models", run)):
        assert "does not score, it is a train run" in shoal(*words, code=1).stderr


@pytest.mark.usefixtures("pumps")
def test_warnings_are_one_line_each(shoal, readings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = worker.read_shard, []

    def shaky(*arguments: object, **options: object) -> pl.DataFrame:
        tried.append(1)
        if len(tried) == 1:
            raise StorageError("disk\n\x1b[31m asleep")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "read_shard", shaky)
    stderr = shoal("score", "pumps", "-i", readings, "-o", tmp_path / "out").stderr
    warning = next(line for line in stderr.splitlines() if line.startswith("warning: "))
    assert "shard 0" in warning
    assert "disk \N{REPLACEMENT CHARACTER}[31m asleep" in warning


@pytest.mark.usefixtures("pumps")
def test_what_was_left_and_what_failed_is_said(shoal, shoal_json, readings: Path, tmp_path: Path, monkeypatch) -> None:
    words = (
        "score",
        "pumps",
        "-i",
        readings,
        "-o",
        tmp_path / "out",
        "--failure-policy",
        "leave",
        "--if-exists",
        "append",
    )

    def failing(*_: object) -> pl.DataFrame:
        raise StorageError("bad sector")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "read_shard", failing)
        patch.setattr(worker, "BACKOFF_S", 0.001)
        first = shoal_json(*words)["run"]
    assert "its rows are left to the next run of the job: bad sector" in shoal("runs", "errors", first).stdout
    second = shoal_json(*words)["run"]
    dropped = f"dropped shard 0 that run {first} left: the run reads these rows itself"
    assert dropped in [each["error"] for each in shoal_json("runs", "errors", second)["errors"]]


@pytest.mark.usefixtures("pumps")
def test_too_many_errors_show_where_they_are(shoal, shoal_json, readings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    stderr = shoal("score", "pumps", "-i", readings, "-o", output, "--max-errors", "0", code=1).stderr
    (run,) = re.findall(r"`shoal runs errors (\S+)`", stderr)
    told = shoal_json("runs", "errors", run)
    assert [(row["_row"], row["reason"]) for row in told["rows"]] == [(2, "missing value in 'x'")]
    assert not output.exists()
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name and not path.name.startswith(".")] == []
