"""``shoal train`` from the command line to the registry."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result
from train_data import candidates, sales

from shoal.cli import main
from shoal.workspace import open_workspace


def shoal(*words: str) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    sales().write_parquet(tmp_path / "sales.parquet")
    document = {
        "fleet": "sales", "input": str(tmp_path / "sales.parquet"), "keys": ["shop"], "features": ["x"], "target": "y",
        "task": "regression", "split": {"time": "day", "validation": {"from": "2026-10-01"}},
        "candidates": candidates(), "metric": "mae", "seed": 1, "promote": True, "tags": ["test"],
    }  # fmt: skip
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_training_is_registered_promoted_and_listed(spec: Path) -> None:
    output = shoal("train", str(spec), "--processes", "1").stdout
    assert "3 of 4 segments kept a model of their own." in output
    assert "one global model" in output
    assert "sales@champion is now version 1: there is no champion yet." in output
    with open_workspace() as workspace:
        fleet = workspace.fleet("sales@champion")
        assert len(fleet) == 4
        lineage = workspace.registry.lineage("sales", 1)
        (run,) = workspace.runs()
        record = workspace.registry.fleet("sales")
    assert (run.kind, run.fleet, run.id) == ("train", "sales", lineage.run)
    assert lineage.inputs[0].path == str(spec.parent / "sales.parquet")
    assert lineage.parameters["seed"] == 1
    assert "scikit-learn" in lineage.libraries
    assert record.tags == ("test",)
    assert set(fleet.models["run"]) == {run.id}
    _is_shown(run.id)


def _is_shown(run: str) -> None:
    """What was trained can be looked at: the snapshot with its lineage, the run with its segments."""
    shown = shoal("fleets", "show", "sales:1").stdout
    lines = shown.partition("\nparameters\n")[2].partition("\ninput\n")[0].splitlines()
    parameters = dict(line.split("  ", maxsplit=1) for line in lines if line)
    parameters = {name: text.strip() for name, text in parameters.items()}
    assert json.loads(parameters["candidates"])[0]["name"] == "ridge"
    assert parameters["keys"] == '["shop"]'
    assert "sales.parquet" in shown
    text = shoal("runs", "show", run).stdout
    counted = [line.rsplit(maxsplit=1) for line in text.splitlines()]
    for line in (
        ["segments at all levels", "5"], ["  kept a model of their own", "4"], ["  left to a fallback", "0"],
        ["  too few rows", "1"], ["  failed", "0"],
    ):  # fmt: skip
        assert line in counted
    assert "every row" not in text
    assert "scored" not in text
    ledger = json.loads(shoal("runs", "show", run, "--json").stdout)["ledger"]
    assert ledger["segments"] == {"kept": 4, "fallback": 0, "too_few_rows": 1, "failed": 0}
    assert ledger["reconciles"] is True
    assert "rows" not in ledger


def test_json_has_every_segment_and_an_equal_fleet_is_not_promoted(spec: Path) -> None:
    shoal("train", str(spec))
    again = json.loads(shoal("train", str(spec), "--json").stdout)
    assert again["version"] == 2
    assert again["comparison"]["promoted"] is False
    assert again["comparison"]["champion"] == 1
    assert again["decisions"] == {"kept": 3, "fallback": 0, "failed": 0, "too_few_rows": 1}
    assert [row["key"] for row in again["segments"]] == ["a", "b", "c", "tiny", "*"]
    assert {row["decision"] for row in again["segments"]} == {"kept", "too_few_rows"}
    assert again["distribution"]["too_few"] == 1
    with open_workspace() as workspace:
        assert workspace.registry.resolve("sales@champion").version == 1


def test_a_dry_run_shows_the_plan_and_does_nothing(spec: Path) -> None:
    output = shoal("train", str(spec), "--dry-run").stdout
    assert "4 segments; training rows in each" in output
    assert "8 fits, decided by mae" in output
    plan = json.loads(shoal("train", str(spec), "--dry-run", "--json").stdout)
    assert [level["segments"] for level in plan["levels"]] == [4, 1]
    assert plan["rows"]["to measure on"] == sales().filter(pl.col("day") >= pl.date(2026, 10, 1)).height
    with open_workspace() as workspace:
        assert workspace.runs() == []


def test_a_mistake_is_one_line(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("metric: mae", "metric: mea"))
    result = CliRunner().invoke(main, ["train", str(spec)])
    assert result.exit_code == 1
    assert "does not measure regression; choose one of mae" in result.stderr
