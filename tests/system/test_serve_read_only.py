"""A server in an image: neither the package's folder nor the home can be written, and kernels were compiled before."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serve_process import SHOAL, answer_of, make_home, request, serving

import shoal

INFER = "/v2/models/pumps/infer"
CPU = "x86-64-v2"
_DROP, _OVERRIDES = 24, (1, 2, 3)  # PR_CAPBSET_DROP; CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER

_PROGRAM = """
import json, sys
import numba.core.caching as caching
compiled = []
save = caching.Cache.save_overload
caching.Cache.save_overload = lambda self, sig, data: (compiled.append(str(sig)), save(self, sig, data))[1]
import shoal
with shoal.open(sys.argv[1]) as workspace:
    answer = workspace.fleet("pumps").predict({"device": ["d1"], "a": [1.0], "b": [2.0]})
    print(json.dumps({"file": shoal.__file__, "compiled": len(compiled), "prediction": answer["prediction"][0]}))
"""


def held_to_permissions():
    """What runs next is held to permissions, root too."""
    for capability in _OVERRIDES:
        ctypes.CDLL(None).prctl(_DROP, capability, 0, 0, 0)


def run(package: Path, home: Path, *, cpu: str, held: bool) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(home)],
        env={**os.environ, "PYTHONPATH": str(package), "SHOAL_CPU": cpu, "SHOAL_HOME": str(home)},
        preexec_fn=held_to_permissions if held else None,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def close(folder: Path, *, closed: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555 if closed else 0o755)


@pytest.fixture
def image(tmp_path):
    shutil.copytree(
        Path(shoal.__file__).parent, tmp_path / "image" / "shoal", ignore=shutil.ignore_patterns("__pycache__")
    )
    make_home(tmp_path / "home")
    yield tmp_path / "image", tmp_path / "home"
    for folder in (tmp_path / "image", tmp_path / "home"):
        close(folder, closed=False)


@pytest.mark.timeout(600)  # kernels are compiled time and again
def test_kernels_that_were_compiled_into_an_image_are_used(image, tmp_path):
    """And what is compiled and kept nowhere else is enough to serve."""
    package, home = image
    made = run(package, home, cpu=CPU, held=False)
    assert made["file"].startswith(str(package))
    assert made["compiled"] >= 3
    for folder in image:
        close(folder, closed=True)
    used = run(package, home, cpu=CPU, held=True)
    assert used["compiled"] == 0
    assert used["prediction"] == made["prediction"]
    require_complete_ones_are_used(package, home)
    before, environment = written(home), {"PYTHONPATH": str(package), "SHOAL_CPU": CPU}
    options = {"environment": environment, "before": held_to_permissions}
    with serving(home, tmp_path / "server", "--workers", "2", **options) as server, server.client() as client:
        require_service(client)
        assert server.end() == 0
        news = server.news()
    assert "predictions wait: " in news
    assert "is read-only for you" in news
    assert "worked on again" not in news
    assert "Traceback" not in news
    assert written(home) == before


def require_complete_ones_are_used(package, home):
    """Where all were compiled into the package, nobody compiles them again because a home can be written."""
    close(home, closed=False)
    assert run(package, home, cpu=CPU, held=True)["compiled"] >= 3  # there may be others that are not there
    [kernels] = package.glob("shoal/kernels/__pycache__/kernels-*")
    (kernels / "complete").touch()
    [elsewhere] = home.glob("cache/kernels-*")
    shutil.rmtree(elsewhere)
    assert run(package, home, cpu=CPU, held=True)["compiled"] == 0
    assert not elsewhere.exists()
    close(home, closed=True)


def require_service(client):
    """What can be answered without writing is; the rest is refused, again and again."""
    for _ in range(3):
        assert client.get("/v2/health/ready").status_code == 200
        assert answer_of(client.post(INFER, json=request())) == ("1", pytest.approx(4))
        assert client.post(INFER + "/async", json=request()).status_code == 503
        time.sleep(0.5)  # time to look whether there is something to work on, which is no work
    assert client.post("/api/v1/fleets/pumps/promote", json={"version": 2}).status_code == 503


def written(folder):
    """What is in a folder, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_warming_needs_no_home_that_can_be_written(tmp_path):
    home = tmp_path / "home"
    make_home(home)
    close(home, closed=True)
    before = written(home)
    line = [*SHOAL, "--home", str(home), "warm", "--json"]
    try:
        warm = subprocess.run(line, preexec_fn=held_to_permissions, capture_output=True, text=True, check=False)
        assert written(home) == before
    finally:
        close(home, closed=False)
    assert warm.returncode == 0, warm.stderr
    assert len(json.loads(warm.stdout)["kernels"]) > 10
