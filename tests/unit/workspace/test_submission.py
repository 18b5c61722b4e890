"""A request that the workspace takes in is what a server would: its inputs and outputs are those it describes."""

import asyncio

import polars as pl
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.errors import InvalidInput, NotFound, TooLarge, Unloaded
from shoal.serving.frames import wanted_outputs
from shoal.serving.messages import InferenceRequest
from shoal.serving.options import ServingOptions
from shoal.serving.payloads import decode_request
from tests.unit.serving.fleets import tensor

SPECS = {
    "nothing": {},
    "rules": {"rules": [{"set": {"size": "'big'"}}, {"set": {"size": "'small'", "prediction": "prediction + 1"}}]},
    "a lookup": {
        "lookup": {
            "source": "sites", "keys": ["device", "site"], "features": ["x"], "key_types": {"site": "integer"},
        }
    },
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path):
    models = {("a",): Ridge().fit([[0.0, 0.0], [1.0, 1.0]], [0.0, 2.0])}
    fleet = shoal.Fleet.from_estimators(
        keys=["device"], models=models, features=["x", "y"], task="regression", name="pumps"
    )
    pl.DataFrame({"device": ["a"], "site": [7], "x": [0.5]}).write_parquet(tmp_path / "sites.parquet")
    with shoal.open(tmp_path / "home", actor="ada") as opened:
        opened.promote("pumps", opened.register(fleet).version)
        opened.set_source("sites", {"kind": "parquet", "path": str(tmp_path / "sites.parquet")})
        yield opened


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_it_asks_as_the_server_describes_itself(workspace, spec):
    workspace.set_serving("pumps", spec)
    rows = pl.DataFrame({"device": ["a"], "site": [7], "x": [0.5], "y": [1.0], "more": [True]})
    wishes = {"outcome": True, "model_level": False, "snapshot": True}
    asked = decode_request(workspace.predictions.one(workspace.submit("pumps", rows, **wishes)).request)
    described = asyncio.run(described_by_a_server(workspace))
    assert [(one.name, one.datatype) for one in asked.inputs] == [
        (one.name, one.datatype) for one in described.inputs if one.name in rows.columns
    ]
    assert {one.name for one in asked.inputs} == {one.name for one in described.inputs}
    names = [one.name for one in described.outputs]
    assert set(asked.outputs) == set(wanted_outputs(names, **wishes))
    assert len(set(asked.outputs)) == len(asked.outputs)


async def described_by_a_server(workspace):
    plane = workspace.data_plane(["pumps"], options=ServingOptions())
    await plane.start()
    described = plane.model_metadata("pumps")
    await plane.drain(1.0)
    return described


def test_features_that_are_looked_up_may_be_left_out(workspace):
    workspace.set_serving("pumps", SPECS["a lookup"])
    rows = {"device": ["a"], "site": [7], "y": [1.0]}
    asked = decode_request(workspace.predictions.one(workspace.submit("pumps", rows)).request)
    assert {one.name: list(one.data) for one in asked.inputs} == {"device": ["a"], "y": [1.0], "site": [7]}


def test_the_version_is_that_of_the_reference(workspace):
    ask = lambda text: decode_request(  # noqa: E731
        workspace.predictions.one(workspace.submit(text, {"device": ["a"], "x": [1.0], "y": [1.0]})).request
    )
    assert [ask(text).version for text in ("pumps", "pumps:1", "pumps@champion")] == [None, "1", "1"]


ROW = {"device": ["a"], "x": [1.0], "y": [1.0]}
REJECTING = {"checks": {"inputs": {"x": {"max": 0.5}}, "on_input": "reject"}}
HOPELESS = {
    "no features": ({}, {"device": ["a"]}),
    "one feature": ({}, {"device": ["a"], "x": [1.0]}),
    "a feature that no lookup brings": (SPECS["a lookup"], {"device": ["a"], "site": [7]}),
    "nothing to look up by": (SPECS["a lookup"], {"device": ["a"], "y": [1.0]}),
    "a check": (REJECTING, ROW),
    "too many rows": ({"limits": {"max_rows": 1}}, {name: 2 * values for name, values in ROW.items()}),
}


@pytest.mark.parametrize(("spec", "rows"), HOPELESS.values(), ids=HOPELESS)
def test_what_could_not_be_answered_is_refused_as_a_server_refuses_it(workspace, spec, rows):
    before = workspace.submit("pumps", ROW, idempotency_key="before")
    workspace.set_serving("pumps", spec)
    with pytest.raises((InvalidInput, TooLarge)) as refused:
        workspace.submit("pumps", rows, idempotency_key="once")
    inputs = [tensor(name, values) for name, values in rows.items()]
    with pytest.raises(type(refused.value)) as over_there:
        asyncio.run(checked_by_a_server(workspace, InferenceRequest(model="pumps", inputs=tuple(inputs))))
    assert str(refused.value) == str(over_there.value)
    assert [one.id for one in workspace.predictions.listed()] == [before]


def test_what_was_taken_before_is_told_where_it_is_though_it_fits_no_more(workspace, tmp_path):
    workspace.set_sink("gone", {"kind": "parquet_sink", "folder": str(tmp_path / "results")})
    sunk = workspace.submit("pumps", ROW, idempotency_key="sunk", sink="gone")
    workspace.set_sink("gone", None)
    assert workspace.submit("pumps", ROW, idempotency_key="sunk", sink="gone") == sunk
    with pytest.raises(NotFound, match="gone"):
        workspace.submit("pumps", ROW, idempotency_key="other", sink="gone")
    made = workspace.submit("pumps", ROW, idempotency_key="once")
    workspace.set_serving("pumps", REJECTING)
    assert workspace.submit("pumps", ROW, idempotency_key="once") == made
    workspace.set_serving("pumps", {}, loaded=False)
    assert workspace.submit("pumps", ROW, idempotency_key="once") == made


@pytest.mark.parametrize("reference", ["pumps", "pumps:1", "pumps@champion"])
def test_a_fleet_that_was_unloaded_takes_nothing(workspace, reference):
    workspace.unload("pumps")
    with pytest.raises(Unloaded, match=r"^the fleet 'pumps' is unloaded; `shoal fleets load pumps` loads it$"):
        workspace.submit(reference, ROW)
    workspace.load("pumps")
    assert workspace.submit(reference, ROW)


async def checked_by_a_server(workspace, request):
    plane = workspace.data_plane(["pumps"], options=ServingOptions())
    await plane.start()
    try:
        await plane.check(request)
    finally:
        await plane.drain(1.0)
