"""Clients of other makers, in processes of their own, ask a real server and get the estimators' values."""

import json
import subprocess
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from serve_process import serving
from sklearn.linear_model import LogisticRegression, Ridge

import shoal
from shoal.security.api_keys import new_key
from shoal.security.permissions import Role

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
GENERATOR = np.random.default_rng(5)
X = GENERATOR.normal(size=(60, 2))
ODD = "a:b c%/é"
RIDGES = {(device, line): Ridge().fit(X, X @ GENERATOR.normal(size=2)) for device in ("a", ODD) for line in (1, 2)}
CLASSIFIER = LogisticRegression().fit(X, np.where(X[:, 0] > 0, "yes", "no"))
COUNT = 2000
#: Multiples of a sixteenth, so that they are the same number in half precision.
ROWS = GENERATOR.integers(-40, 40, size=(COUNT, 2)) / 16
DEVICES = GENERATOR.choice(["a", ODD, "zz"], size=COUNT).tolist()
LINES = GENERATOR.integers(1, 3, size=COUNT).tolist()
SINGLE = f"ridges:{quote(ODD, safe='')}:2"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    key = new_key()
    with shoal.open(folder / "home") as workspace:
        make = shoal.Fleet.from_estimators
        for fleet in (
            make(keys=["device", "line"], models=RIDGES, features=["x", "y"], task="regression", name="ridges"),
            make(keys=[], models={(): CLASSIFIER}, features=["x", "y"], task="classification", name="labels"),
        ):
            workspace.promote(fleet.name, workspace.register(fleet).version)
        workspace.registry.create_key(
            id=key.id, name="operator", role=Role.OPERATOR, hash=key.hash, expires_at=None, actor="tester"
        )
    with serving(folder / "home", folder) as running:
        yield running, key.text


def ask(server, script, *arguments):
    """Run a client; what it says it was told."""
    running, key = server
    job = {
        "address": urlsplit(running.url).netloc,
        "grpc": running.grpc,
        "headers": {"x-api-key": key},
        "devices": DEVICES,
        "lines": LINES,
        "xs": ROWS[:, 0].tolist(),
        "ys": ROWS[:, 1].tolist(),
        "single": SINGLE,
    }
    done = subprocess.run(
        [PYTHON, Path(__file__).parent / "clients" / script, *arguments],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def require_answers(answers):
    """What scikit-learn predicts row by row; segments without a model have no answer."""
    known = np.array([device != "zz" for device in DEVICES])
    expected = np.full(COUNT, np.nan)
    for key, model in RIDGES.items():
        chosen = np.array([one == key for one in zip(DEVICES, LINES, strict=True)])
        expected[chosen] = model.predict(ROWS[chosen])
    for form, told in answers.items():
        values = np.array([np.nan if value is None else value for value in told["prediction"]], dtype=float)
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9, err_msg=form)
        assert [outcome == "scored" for outcome in told["outcome"]] == known.tolist(), form


def require_single(told):
    np.testing.assert_allclose(told["prediction"], RIDGES[ODD, 2].predict(ROWS), rtol=1e-9, atol=1e-9)


def names(index, state="READY"):
    return {one["name"] for one in index if one["state"] == state}


def test_tritons_client(server):
    told = ask(server, "triton_http.py")
    assert [told[name] for name in ("live", "ready", "model ready", "single ready", "nothing ready", "loaded")] == [
        True, True, True, True, False, True,
    ]  # fmt: skip
    assert told["server"]["name"] == "shoal"
    assert [one["name"] for one in told["model"]["inputs"]] == ["device", "line", "x", "y"]
    assert [one["name"] for one in told["single model"]["inputs"]] == ["x", "y"]
    require_answers(told["answers"])
    assert told["answers"]["json"]["id"] == "seven"
    assert {one["version"] for one in told["answers"].values()} == {"1"}
    assert set(told["levels"]["snapshot"]) == {1}
    require_single(told["single"])
    assert told["labels"]["prediction"] == CLASSIFIER.predict(ROWS).tolist()
    np.testing.assert_allclose(told["labels"]["probability"], CLASSIFIER.predict_proba(ROWS).ravel(), rtol=1e-9)
    assert told["statistics"]["model_stats"][0]["inference_count"] >= COUNT * len(told["answers"])
    assert names(told["index"]) == {"ridges", "labels"}
    assert names(told["unloaded"]) == {"ridges"}
    statuses = {case: refused[0] for case, refused in told["refused"].items()}
    assert statuses == {"unknown": "404", "lacks": "400", "key": "401", "config": "400", "file": "400"}
    assert "nothing" in told["refused"]["unknown"][1]
    assert told["not loaded"][0] in ("404", "503")


def test_tritons_asynchronous_client(server):
    told = ask(server, "triton_http_aio.py")
    assert [told[name] for name in ("live", "ready", "model ready", "loaded")] == [True] * 4
    assert [one["name"] for one in told["single model"]["inputs"]] == ["x", "y"]
    require_answers(told["answers"])
    require_single(told["single"])
    assert told["refused"]["unknown"][0] == "404"
    assert names(told["index"]) == {"ridges", "labels"}
    assert names(told["unloaded"]) == {"ridges"}


def test_kserves_client(server):
    told = ask(server, "kserve_rest.py")
    assert [told[name] for name in ("live", "ready", "model ready", "nothing ready")] == [True, True, True, False]
    require_answers(told["answers"])
    assert told["answers"]["json"]["id"] == told["answers"]["binary"]["id"] == "seven"
    require_single(told["single"])
    assert told["refused"]["unknown"][0] == 404


def test_tritons_grpc_client(server):
    told = ask(server, "triton_grpc.py", "sync")
    assert [told[name] for name in ("live", "ready", "model ready", "loaded")] == [True] * 4
    assert told["server"]["name"] == "shoal"
    assert [one["name"] for one in told["model"]["inputs"]] == ["device", "line", "x", "y"]
    assert [one["name"] for one in told["single model"]["inputs"]] == ["x", "y"]
    require_answers(told["answers"])
    assert told["answers"]["named"]["id"] == "seven"
    assert set(told["levels"]["snapshot"]) == {1}
    require_single(told["single"])
    assert told["labels"]["prediction"] == CLASSIFIER.predict(ROWS).tolist()
    np.testing.assert_allclose(told["labels"]["probability"], CLASSIFIER.predict_proba(ROWS).ravel(), rtol=1e-9)
    first, second, third = told["streamed"]
    assert second is None
    require_answers({"first of a stream": first, "third of a stream": third})
    assert int(told["statistics"]["model_stats"][0]["inference_count"]) >= COUNT * len(told["answers"])
    assert names(told["index"]["models"]) == {"ridges", "labels"}
    assert names(told["unloaded"]["models"]) == {"ridges"}
    statuses = {case: refused[0].removeprefix("StatusCode.") for case, refused in told["refused"].items()}
    assert statuses == {
        "unknown": "NOT_FOUND", "lacks": "INVALID_ARGUMENT", "key": "UNAUTHENTICATED", "file": "INVALID_ARGUMENT",
    }  # fmt: skip


def test_tritons_asynchronous_grpc_client(server):
    told = ask(server, "triton_grpc.py", "aio")
    assert [told[name] for name in ("live", "ready")] == [True, True]
    require_answers(told["answers"])
    require_single(told["single"])
    assert told["unknown"][0].endswith("NOT_FOUND")
