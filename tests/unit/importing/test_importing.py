"""A folder of model files becomes a fleet: once, in another process, and only when the files are trusted."""

import os
import pickle
import signal
from pathlib import Path

import joblib
import numpy as np
import polars as pl
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from shoal.errors import InvalidInput, NotFound
from shoal.importing import PathTemplate, import_models
from shoal.types import KeyColumn, KeyType, Task

DEVICE = KeyColumn(name="device", type=KeyType.STRING)
SENSOR = KeyColumn(name="sensor", type=KeyType.STRING)
UNIT = KeyColumn(name="unit", type=KeyType.INTEGER)


class Marker:
    """Reading its pickle leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Killer:
    """Reading its pickle kills the process that reads."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGKILL,)


class Raiser:
    """Reading its pickle raises."""

    def __reduce__(self):
        return int, ("no number",)


class Talker:
    """Reading its pickle prints what looks like a report."""

    def __reduce__(self):
        return os.write, (1, b'["refused", "a", "b", "c"]\n')


def ridge(slope: float) -> Ridge:
    X = np.arange(12.0).reshape(6, 2)
    return Ridge(alpha=0.0).fit(X, slope * X[:, 0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    for device in ("pump", "fan"):
        for sensor in ("heat", "noise"):
            path = tmp_path / "models" / device / f"{sensor}.joblib"
            path.parent.mkdir(parents=True, exist_ok=True)
            joblib.dump(ridge(len(device) + len(sensor)), path)
    return tmp_path / "models"


def imported(folder: Path, **options):
    settings = {"keys": [DEVICE, SENSOR], "task": Task.REGRESSION, "trust_pickle": True, **options}
    return import_models(folder, into=folder.parent / "fleet", name="pumps", features=["a", "b"], **settings)


def test_every_file_becomes_the_model_of_its_key(folder):
    result = imported(folder)
    frame = pl.DataFrame({"device": ["fan", "pump"], "sensor": ["noise", "heat"], "a": [2.0, 3.0], "b": [3.0, 4.0]})
    assert result.refused == ()
    assert len(result.fleet) == 4
    answers = result.fleet.predict(frame)["prediction"].to_list()
    expected = [ridge(8).predict([[2.0, 3.0]])[0], ridge(8).predict([[3.0, 4.0]])[0]]
    assert answers == pytest.approx(expected, abs=1e-9)


def test_nothing_is_read_without_trust(folder, tmp_path):
    (folder / "fan" / "trap.joblib").write_bytes(pickle.dumps(Marker(str(tmp_path / "sprung"))))
    with pytest.raises(InvalidInput, match="--trust-pickle"):
        imported(folder, trust_pickle=False)
    assert not (tmp_path / "sprung").exists()


def test_what_cannot_be_laid_out_is_refused_by_the_name_of_the_part(folder):
    X = np.arange(12.0).reshape(6, 2)
    joblib.dump(GaussianProcessRegressor(optimizer=None).fit(X, X[:, 0]), folder / "fan" / "gp.joblib")
    joblib.dump(LogisticRegression(max_iter=1000).fit(X, [0, 1] * 3), folder / "fan" / "logistic.joblib")
    (folder / "fan" / "broken.joblib").write_bytes(b"not a pickle")
    (folder / "fan" / "raises.pkl").write_bytes(pickle.dumps(Raiser()))
    (folder / "fan" / "talks.pkl").write_bytes(pickle.dumps(Talker()))
    result = imported(folder)
    parts = {Path(refusal.path).name: refusal.part for refusal in result.refused}
    assert len(result.fleet) == 4
    assert "GaussianProcessRegressor" in parts.pop("gp.joblib")
    assert "int" in parts.pop("talks.pkl"), "what a model prints must not be taken for a report"
    assert parts == {"logistic.joblib": "task", "broken.joblib": "file", "raises.pkl": "file"}


def test_a_file_that_kills_its_reader_costs_one_model(folder):
    (folder / "fan" / "killer.pkl").write_bytes(pickle.dumps(Killer()))
    result = imported(folder)
    assert len(result.fleet) == 4
    assert [Path(refusal.path).name for refusal in result.refused] == ["killer.pkl"]
    assert "-9" in result.refused[0].reason


def test_keys_of_other_types_come_from_the_path(folder):
    joblib.dump(ridge(1), folder / "7.joblib")
    joblib.dump(ridge(1), folder / "seven.joblib")
    result = imported(folder, keys=[UNIT], path="{unit}.joblib")
    assert result.fleet.models["unit"].to_list() == [7]
    assert [refusal.part for refusal in result.refused] == ["key"]


def test_when_nothing_fits_the_message_says_what_to_do(folder):
    with pytest.raises(NotFound, match="--path"):
        imported(folder, path="{device}_{sensor}.joblib")
    (folder / "only.joblib").write_bytes(b"")
    with pytest.raises(InvalidInput, match="none of 1 files"):
        imported(folder, keys=[DEVICE], path="{device}.joblib")


@pytest.mark.parametrize("text", ["{device}.joblib", "{device}/{device}/{sensor}", "{device}/{sensor}/{other}"])
def test_a_template_names_every_key_once(text):
    with pytest.raises(InvalidInput, match="name each key column once"):
        PathTemplate(text, [DEVICE, SENSOR])


def test_a_template_without_an_ending_fits_every_known_one():
    template = PathTemplate("{device}-v1.x/{sensor}", [DEVICE, SENSOR])
    assert template.key("pump-v1.x/heat.pkl") == ("pump", "heat")
    assert template.key("pump-v1.x/heat.joblib") == ("pump", "heat")
    assert template.key("pump-v1_x/heat.joblib") is None
    assert template.key("pump-v1.x/heat.txt") is None
