"""``shoal import`` as it is typed."""

import json
from pathlib import Path

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression

from shoal.cli import main
from shoal.workspace import open_workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    X = np.arange(10.0).reshape(5, 2)
    for store in (1, 2):
        joblib.dump(LinearRegression().fit(X, X[:, 0] * store), tmp_path / f"{store}.joblib")
    joblib.dump(GaussianProcessRegressor(optimizer=None).fit(X, X[:, 0]), tmp_path / "3.joblib")
    return tmp_path


def typed(folder: Path, *extra: str):
    words = ["import", str(folder), "--name", "shops", "--keys", "store:integer", "--features", "a,b"]
    return CliRunner().invoke(main, [*words, "--task", "regression", *extra])


def test_it_refuses_what_nobody_trusts(folder):
    result = typed(folder)
    assert result.exit_code == 1
    assert "--trust-pickle" in result.stderr


def test_it_registers_what_can_be_laid_out_and_names_what_cannot(folder):
    result = typed(folder, "--trust-pickle")
    assert result.exit_code == 0, result.output
    assert "shops:1 has 2 models" in result.stdout
    assert "shoal promote shops:1" in result.stdout
    assert "3.joblib: GaussianProcessRegressor" in result.stderr
    with open_workspace() as workspace:
        answers = workspace.fleet("shops:1").predict({"store": [2, 9], "a": [4.0, 4.0], "b": [5.0, 5.0]})
    assert answers["prediction"].to_list() == [pytest.approx(8.0), None]


def test_programs_get_json(folder):
    result = typed(folder, "--trust-pickle", "--json")
    document = json.loads(result.stdout)
    assert document["snapshot"]["model_count"] == 2
    assert [Path(refusal["path"]).name for refusal in document["refused"]] == ["3.joblib"]


def test_a_wrong_type_of_key_is_named(folder):
    result = CliRunner().invoke(
        main,
        ["import", str(folder), "--name", "x", "--keys", "store:float", "--features", "a", "--task", "regression"],
    )
    assert result.exit_code == 1
    assert "'float' is none of string, integer, boolean, date" in result.stderr
