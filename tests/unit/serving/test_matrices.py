"""Features that come side by side in one tensor are those of the same columns, one tensor each."""

import asyncio

import numpy as np
import polars as pl
import pytest

from shoal.errors import InvalidInput, TooLarge
from shoal.serving.messages import Datatype, InferenceRequest, Tensor
from tests.unit.serving.fleets import CONTEXT, FLEETS, categories, pumps, request_of, rows_for
from tests.unit.serving.test_answers import bits

MANY = 5000


def matrix_request(frame, fleet, model, *, of=None, as_array=False, name="x-0"):
    """The rows with all features in one tensor, and the keys, if the frame has them, beside it."""
    names = of or [feature.name for feature in fleet.features]
    values = frame.select(pl.col(names).cast(pl.Float64)).to_numpy()
    flat = values.reshape(-1)
    data = flat if as_array else [None if np.isnan(value) else float(value) for value in flat]
    matrix = Tensor(name=name, datatype=Datatype.FP64, shape=values.shape, data=data)
    keys = request_of(frame.drop(names), model).inputs
    return InferenceRequest(model=model, inputs=(*keys, matrix))


def asked(workspace, fleet, *requests):
    """Answers, or the errors that there were instead, and whether checking beforehand says the same."""

    async def main():
        plane = workspace.data_plane([fleet])
        await plane.start()
        answers = await asyncio.gather(*[plane.infer(one, CONTEXT) for one in requests], return_exceptions=True)
        checked = await asyncio.gather(*[plane.check(one) for one in requests], return_exceptions=True)
        await plane.drain(1)
        for answer, check in zip(answers, checked, strict=True):
            assert str(check) == (str(answer) if isinstance(answer, Exception) else "None")
        return answers

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["regression", "texts", "anomaly"])
@pytest.mark.parametrize("rows", [1, 7, MANY])
@pytest.mark.parametrize("as_array", [False, True])
def test_a_matrix_is_answered_like_its_columns(publish, kind, rows, as_array):
    fleet = FLEETS[kind]()
    workspace = publish(fleet)
    frame = rows_for(fleet, np.random.default_rng(5), rows)
    one, other = asked(
        workspace,
        fleet.name,
        request_of(frame, fleet.name),
        matrix_request(frame, fleet, fleet.name, as_array=as_array),
    )
    assert [output.name for output in one.outputs] == [output.name for output in other.outputs]
    for first, second in zip(one.outputs, other.outputs, strict=True):
        assert bits(first.data) == bits(second.data)


def test_a_single_model_takes_a_matrix_of_its_own_features(publish):
    fleet = pumps()
    frame = rows_for(fleet, np.random.default_rng(5), 9).drop("device", "sensor")
    (answer,) = asked(publish(fleet), "pumps", matrix_request(frame, fleet, "pumps:a:s1"))
    truth = fleet.model(("device", "sensor"), ("a", "s1")).predict(frame)["prediction"].to_list()
    assert bits(answer.outputs[0].data) == bits(truth)


def test_texts_side_by_side_are_read_like_columns_of_texts(publish):
    fleet = categories()
    texts = [["UA", "0.5"], ["DL", "-1"], ["AA", "much"]]
    matrix = Tensor(name="predict", datatype=Datatype.BYTES, shape=(3, 2), data=[text for row in texts for text in row])
    (answer,) = asked(publish(fleet), "routes", InferenceRequest(model="routes", inputs=(matrix,)))
    frame = pl.DataFrame({"carrier": ["UA", "DL", "AA"], "x": ["0.5", "-1", "much"]})
    assert answer.outputs[0].data == fleet.predict(frame)["prediction"].to_list()
    assert answer.outputs[1].data == ["scored", "scored", "invalid"]


def test_what_is_no_matrix_of_all_features_is_refused(publish):
    fleet = pumps()
    frame = rows_for(fleet, np.random.default_rng(5), 2)
    good = matrix_request(frame, fleet, "pumps")
    *keys, matrix = good.inputs

    def changed(*inputs):
        return InferenceRequest(model="pumps", inputs=(*keys, *inputs))

    def tensor(shape, data, name="m"):
        return Tensor(name=name, datatype=Datatype.FP64, shape=shape, data=data)

    refused = asked(
        publish(fleet),
        "pumps",
        changed(tensor((2, 2), [0.0] * 4)),
        changed(tensor((2, 4), [0.0] * 8)),
        changed(tensor((2, 3), [0.0] * 5)),
        changed(tensor((-2, -3), [0.0] * 6)),
        changed(tensor((3, 3), [0.0] * 9)),
        changed(matrix, tensor((2,), [0.0] * 2, "y")),
        changed(matrix, tensor((2, 3), [0.0] * 6)),
        changed(*[tensor((0, 3), [], f"m{number}") for number in range(1000)]),
        changed(tensor((2, 3), [0.0] * 6, "y")),
        changed(tensor((2, 1), [0.0] * 2)),
    )
    assert all(isinstance(error, InvalidInput) for error in refused)
    told = [str(error) for error in refused]
    for error in told[:2]:
        assert "has to be [rows, 3]: 'x', 'y', 'z', in that order" in error
    assert "its 5 elements" in told[2]
    assert "[-2, -3]" in told[3]
    assert "'x' has shape [3] and 3 elements; give every input the shape [2]" in told[4]
    assert told[5] == "input 'y' is given twice"
    assert "only one of them can be the matrix" in told[6]
    assert "only one of them can be the matrix" in told[7]
    assert "'y' has shape [2, 3]" in told[8]
    assert "there is no input 'm'; there are" in told[9]


def test_rows_of_a_matrix_are_what_the_limit_counts(publish):
    fleet = pumps()
    workspace = publish(fleet)
    workspace.set_serving("pumps", {"limits": {"max_rows": 4}})
    few, many = (rows_for(fleet, np.random.default_rng(5), count) for count in (4, 5))
    answer, error = asked(
        workspace, "pumps", matrix_request(few, fleet, "pumps"),
        matrix_request(many, fleet, "pumps"),
    )  # fmt: skip
    assert answer.outputs[0].shape == (4,)
    assert isinstance(error, TooLarge)


def test_a_matrix_brings_all_features_so_that_none_is_looked_up(publish, tmp_path):
    fleet = pumps()
    workspace = publish(fleet)
    pl.DataFrame({"device": ["a"], "x": [100.0]}).write_parquet(tmp_path / "units.parquet")
    workspace.set_source("units", {"kind": "parquet", "path": str(tmp_path / "units.parquet")})
    workspace.set_serving("pumps", {"lookup": {"source": "units", "keys": ["device"], "features": ["x"]}})
    frame = pl.DataFrame({"device": ["a"], "sensor": ["s1"], "x": [0.5], "y": [1.0], "z": [2.0]})
    given, found = asked(
        workspace, "pumps", matrix_request(frame, fleet, "pumps"), request_of(frame.drop("x"), "pumps")
    )
    assert given.outputs[0].data == fleet.predict(frame)["prediction"].to_list()
    assert found.outputs[0].data == fleet.predict(frame.with_columns(x=100.0))["prediction"].to_list()
