"""``shoal sources`` and ``shoal fleets serving``."""

from pathlib import Path

import pytest
from sklearn.linear_model import Ridge

import shoal as package
from shoal.errors import Conflict, InvalidInput, InvalidSpec, NotFound
from shoal.requests.sources import ParquetSource

SERVING = """
checks: {inputs: {x: {min: -5}}}
rules: {decision: "CASE WHEN prediction > 0 THEN 'up' ELSE 'down' END"}
lookup: {source: shops, keys: [shop], features: {x: size}, defaults: {x: 1}}
"""


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def fleet(home: Path) -> None:
    with package.open(home) as workspace:
        models = {("a",): Ridge().fit([[0.0], [1.0]], [0.0, 1.0])}
        fleet = package.Fleet.from_estimators(
            keys=("shop",), models=models, features=["x"], task="regression", name="sales"
        )
        workspace.register(fleet)
        workspace.promote("sales", 1)


def test_sources_are_named_shown_and_forgotten(shoal, shoal_json, tmp_path: Path) -> None:
    assert "no sources" in shoal("sources", "list").stderr
    file = written(tmp_path, "shops.yaml", f"kind: parquet\npath: {tmp_path}/shops.parquet\n")
    assert "shops is" in shoal("sources", "set", "shops", "--file", file).stdout
    definition = {"kind": "parquet", "path": f"{tmp_path}/shops.parquet"}
    assert shoal_json("sources", "show", "shops") == definition
    assert "parquet" in shoal("sources", "show", "shops").stdout
    assert shoal_json("sources", "list") == [{"name": "shops", "kind": "parquet", "at": definition["path"]}]
    shoal("sources", "remove", "shops")
    assert "no source 'shops'" in shoal("sources", "remove", "shops", code=1).stderr
    bad = written(tmp_path, "bad.yaml", "kind: sql\nurl: postgresql://me:secret@h/d\ntable: t\n")
    answer = shoal("sources", "set", "shops", "--file", bad, code=1)
    assert "holds a password" in answer.stderr
    assert "secret" not in answer.stderr.replace("secrets", "")


def test_a_serving_spec_is_checked_and_shown(fleet, shoal, shoal_json, tmp_path: Path) -> None:
    assert "its models alone" in shoal("fleets", "serving", "sales").stderr
    file = written(tmp_path, "serving.yaml", SERVING)
    assert "no source 'shops'" in shoal("fleets", "serving", "sales", "--file", file, code=1).stderr
    source = written(tmp_path, "shops.yaml", "kind: redis\nurl: redis://h\nkey: 'shop:{shop}'\n")
    shoal("sources", "set", "shops", "--file", source)
    text = shoal("fleets", "serving", "sales", "--file", file).stdout
    assert "decision" in text
    assert '"x":{"min":-5.0}' in text
    assert "null" not in text
    shown = shoal_json("fleets", "serving", "sales")
    assert shown["spec"]["lookup"]["features"] == {"x": "size"}
    assert shown["spec"]["checks"]["inputs"]["x"]["min"] == -5
    assert "is served with 'shops'" in shoal("sources", "remove", "shops", code=1).stderr
    bad = written(tmp_path, "bad.yaml", "checks: {inputs: {z: {min: 1}}}\n")
    assert "'checks.inputs.z': the fleet has no such column" in shoal(
        "fleets", "serving", "sales", "--file", bad, code=1
    ).stderr  # fmt: skip
    assert shoal_json("fleets", "serving", "sales") == shown


def test_how_a_fleet_is_served_is_set_and_shown(fleet, shoal, shoal_json, home: Path) -> None:
    name = fleet if isinstance(fleet, str) else "sales"
    with package.open(home) as workspace:
        newest = workspace.registry.fleet(name).latest
        workspace.promote(name, newest)
        workspace.promote(name, newest, alias="canary")
    told = shoal_json("fleets", "serving", name)
    assert (told["alias"], told["pinned"], told["loaded"], told["spec"]) == ("champion", None, True, {})
    shoal("fleets", "follow", f"{name}@canary")
    shoal("fleets", "pin", f"{name}:{newest}")
    shoal("fleets", "unload", name)
    told = shoal_json("fleets", "serving", name)
    assert (told["alias"], told["pinned"], told["loaded"]) == ("canary", newest, False)
    assert told["snapshot"]["version"] == newest
    shoal("fleets", "unpin", name)
    shoal("fleets", "load", name)
    text = shoal("fleets", "serving", name).stdout
    assert [line.split()[1] for line in text.splitlines() if line.startswith(("alias", "loaded"))] == ["canary", "yes"]
    assert "pinned" not in text
    wrong = shoal("fleets", "follow", f"{name}@canry", code=1).stderr
    assert "has no alias 'canry', only canary, champion" in wrong
    assert shoal_json("fleets", "serving", name)["alias"] == "canary"
    assert "no alias 'canry', only canary, champion" in shoal("serve", f"{name}@canry", "--port", "0", code=1).stderr


def test_the_workspace_does_the_same(fleet, home: Path, tmp_path: Path) -> None:
    with package.open(home) as workspace:
        with pytest.raises(NotFound):
            workspace.serving("nothing")
        with pytest.raises(InvalidInput):
            workspace.set_source("bad name", {"kind": "parquet", "path": "x"})
        workspace.set_source("shops", ParquetSource(path=str(tmp_path / "s.parquet")))
        assert workspace.sources() == {"shops": ParquetSource(path=str(tmp_path / "s.parquet"))}
        looked_up = {"source": "shops", "keys": ["shop"], "features": ["x"]}
        spec = workspace.set_serving("sales", {"lookup": looked_up, "cache": {"ttl_s": 1}})
        assert workspace.serving("sales") == spec
        with pytest.raises(Conflict):
            workspace.set_source("shops", None)
        with pytest.raises(InvalidSpec, match="'shops' is not of kind redis"):
            workspace.set_serving("sales", {"cache": {"ttl_s": 1, "store": "shops"}})
        with pytest.raises(InvalidSpec, match="were not trained with a lookup"):
            workspace.set_serving("sales", {"lookup": {"timeout_ms": 5}})
        for name in ("results", "shops", ""):  # no sink, a source of features, and none at all
            with pytest.raises(NotFound, match=f"no sink {name!r}"):
                workspace.set_serving("sales", {"store": "durable", "sink": name})
        with pytest.raises(InvalidSpec, match="'sink' is about durable results"):
            workspace.set_serving("sales", {"sink": "results"})
        workspace.set_sink("results", {"kind": "parquet_sink", "folder": str(tmp_path / "results")})
        workspace.set_serving("sales", {"store": "durable", "sink": "results"})
        with pytest.raises(Conflict, match="'results' is a sink"):
            workspace.set_source("results", ParquetSource(path=str(tmp_path / "s.parquet")))
        with pytest.raises(NotFound, match="no source 'results'"):
            workspace.source("results")
        with pytest.raises(Conflict, match="'shops' is a source"):
            workspace.set_sink("shops", {"kind": "parquet_sink", "folder": str(tmp_path / "results")})
        with pytest.raises(Conflict):
            workspace.set_sink("results", None)
        workspace.set_serving("sales", {})
        workspace.set_source("shops", None)
        workspace.set_sink("results", None)
        assert workspace.sources() == {}
