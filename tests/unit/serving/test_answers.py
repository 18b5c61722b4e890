"""Answers of the data plane are those of the fleet, to the bit, however requests meet each other."""

import asyncio

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from shoal import Fleet
from shoal.errors import InvalidInput, NotFound, Overloaded, TooLarge
from shoal.serving.messages import Datatype, InferenceRequest, Tensor
from shoal.serving.options import ServingOptions
from tests.unit.serving.fleets import CONTEXT, FLEETS, pumps, request_of, rows_for, tensor

EXTRA = ("outcome", "reason", "model_level", "snapshot")


def expected(fleet, frame):
    """What ``fleet.predict`` says, as the lists that a response holds."""
    predicted = fleet.predict(frame, outcome=True, model_level=True, snapshot=True)
    answers = {}
    for name in predicted.columns:
        if name in [column.name for column in fleet.keys]:
            continue
        values = predicted[name].to_list()
        if name == "probability":
            width = len(fleet.labels)
            values = [v for row in values for v in (row if row is not None else [None] * width)]
        answers[name] = values
    answers["reason"] = fleet.score(frame).reason_texts().to_list()
    return answers


def bits(values):
    return [np.float64(v).tobytes() if isinstance(v, float) else v for v in values]


def same(response, wanted):
    return all(bits(output.data) == bits(wanted[output.name]) for output in response.outputs)


@pytest.mark.parametrize("kind", FLEETS)
@pytest.mark.parametrize("batching", [True, False])
def test_requests_of_any_size_at_once_answer_as_the_fleet_does(publish, kind, batching):
    fleet = FLEETS[kind]()
    workspace = publish(fleet)
    served = workspace.fleet(fleet.name)
    rng = np.random.default_rng(0)
    frames = [rows_for(fleet, rng, int(size)) for size in rng.integers(1, 12, size=40)]
    frames += [rows_for(fleet, rng, 300), rows_for(fleet, rng, 3000)]

    async def main():
        plane = workspace.data_plane([fleet.name], options=ServingOptions(batching=batching))
        await plane.start()
        names = [output.name for output in plane.model_metadata(fleet.name).outputs]
        requests = [request_of(frame, fleet.name, outputs=tuple(names)) for frame in frames]
        responses = await asyncio.gather(*[plane.infer(request, CONTEXT) for request in requests])
        await plane.drain(1)
        return names, responses, plane.statistics()[0]

    names, responses, statistics = asyncio.run(main())
    for frame, response in zip(frames, responses, strict=True):
        wanted = expected(served, frame)
        assert [output.name for output in response.outputs] == names
        assert set(names) == set(wanted)
        assert same(response, wanted), frame
        assert (response.model_name, response.model_version) == (fleet.name, "1")
        for output in response.outputs:
            assert output.shape[0] == frame.height
            assert int(np.prod(output.shape)) == len(output.data)
    assert statistics.requests == len(frames)
    assert statistics.rows == sum(frame.height for frame in frames)
    assert (statistics.batches < len(frames)) == batching


def test_outputs_are_the_usual_ones_or_those_asked_for(publish):
    workspace = publish(pumps())
    frame = rows_for(pumps(), np.random.default_rng(0), 3)

    async def main():
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        usual = await plane.infer(request_of(frame, "pumps", id="42"), CONTEXT)
        some = await plane.infer(request_of(frame, "pumps", outputs=("snapshot", "prediction")), CONTEXT)
        with pytest.raises(InvalidInput, match="no output 'nothing'"):
            await plane.infer(request_of(frame, "pumps", outputs=("nothing",)), CONTEXT)
        await plane.drain(1)
        return usual, some

    usual, some = asyncio.run(main())
    assert usual.id == "42"
    assert [output.name for output in usual.outputs] == ["prediction", "outcome"]
    assert [output.name for output in some.outputs] == ["snapshot", "prediction"]
    assert some.outputs[0].data == [1, 1, 1]


ADDRESSES = {
    "pumps:a:s1": ((("device", "a"), ("sensor", "s1")), ("device", "sensor")),
    "pumps:b%3A1:s2": ((("device", "b:1"), ("sensor", "s2")), ("device", "sensor")),
    "pumps:%C3%BC%20%25:s1": ((("device", "ü %"), ("sensor", "s1")), ("device", "sensor")),
    "pumps:%2A:s1": ((("device", "*"), ("sensor", "s1")), ("device", "sensor")),
    "pumps:a:*": ((("device", "a"),), ("device",)),
    "pumps:*:s1": ((("sensor", "s1"),), ("sensor",)),
}


def test_single_models_answer_under_their_own_address(publish):
    fleet = pumps()
    workspace = publish(fleet)
    frame = rows_for(fleet, np.random.default_rng(0), 9).drop("device", "sensor")

    async def main():
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        asked = [plane.infer(request_of(frame, address), CONTEXT) for address in ADDRESSES]
        responses = await asyncio.gather(*asked)
        metadata = [plane.model_metadata(address) for address in ADDRESSES]
        for unknown in ("pumps:a:s2", "pumps:*:s2", "pumps:*:*", "pumps:a", "pumps:a:s1:x", "pumps:%FF:s1", "pumps:"):
            with pytest.raises(NotFound):
                await plane.infer(request_of(frame, unknown), CONTEXT)
            with pytest.raises(NotFound):
                plane.model_ready(unknown)
        with pytest.raises(InvalidInput, match="the address says"):
            await plane.infer(request_of(frame.with_columns(device=pl.lit("a")), "pumps:a:s1"), CONTEXT)
        assert all(plane.model_ready(address) for address in ADDRESSES)
        await plane.drain(1)
        return responses, metadata

    responses, metadata = asyncio.run(main())
    for (address, (key, level)), response, told in zip(ADDRESSES.items(), responses, metadata, strict=True):
        truth = fleet.model(level, tuple(value for _, value in key)).predict(frame)["prediction"].to_list()
        assert bits(response.outputs[0].data) == bits(truth), address
        assert response.model_name == told.name == address
        assert set(response.outputs[1].data) <= {"scored", "invalid"}
        assert [one.name for one in told.inputs] == ["x", "y", "z"]
        assert told.properties["family"] == fleet.model(level, tuple(value for _, value in key)).family


@pytest.mark.parametrize(("kind", "address", "key"), [
    ("texts", "colours:-1", {"shop": -1}), ("anomaly", "alarms:2026-01-02:true", {"day": "2026-01-02", "night": True}),
])  # fmt: skip
def test_addresses_have_typed_keys(publish, kind, address, key):
    fleet = FLEETS[kind]()
    workspace = publish(fleet)
    features = pl.DataFrame({"x": [0.1, 0.2], "y": [0.0, None]})
    wanted = expected(workspace.fleet(fleet.name), features.with_columns([pl.lit(v).alias(k) for k, v in key.items()]))

    async def main():
        plane = workspace.data_plane([fleet.name])
        await plane.start()
        response = await plane.infer(request_of(features, address), CONTEXT)
        for unknown in ("3", "x", "2026-01-02:maybe", "2026-13-02:true", "2026-01-01:true"):
            with pytest.raises(NotFound):
                await plane.infer(request_of(features, f"{fleet.name}:{unknown}"), CONTEXT)
        await plane.drain(1)
        return response

    assert same(asyncio.run(main()), wanted)


def test_a_single_model_takes_only_what_it_looks_at(publish):
    """The models of a fleet may have different features: its inputs are their union."""
    fleet = pumps().select(pl.col("device") == "b:1")
    narrow = Fleet.from_estimators(
        keys=["device", "sensor"], models={("n", "s"): Ridge().fit([[0.0], [1.0]], [1.0, 3.0])}, features=["w"],
        task="regression",
    )  # fmt: skip
    workspace = publish(fleet.merge(narrow))

    async def main():
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        assert [one.name for one in plane.model_metadata("pumps").inputs] == ["device", "sensor", "x", "y", "z", "w"]
        assert [one.name for one in plane.model_metadata("pumps:n:s").inputs] == ["w"]
        given = InferenceRequest(model="pumps:n:s", inputs=(tensor("w", [2.0]),))
        response = await plane.infer(given, CONTEXT)
        with pytest.raises(InvalidInput, match=r"lacks the input\(s\) \['x', 'z'\]"):
            await plane.infer(InferenceRequest(model="pumps:b%3A1:s1", inputs=(tensor("y", [2.0]),)), CONTEXT)
        with pytest.raises(NotFound):
            await plane.infer(InferenceRequest(model="pumps:no:body", inputs=(tensor("y", [2.0]),)), CONTEXT)
        await plane.drain(1)
        return response

    frame = pl.DataFrame({"device": ["n"], "sensor": ["s"], "w": [2.0], "x": [0.0], "y": [0.0], "z": [0.0]})
    assert same(asyncio.run(main()), expected(workspace.fleet("pumps"), frame))


def test_a_large_request_lets_small_ones_through(publish):
    fleet = pumps()
    workspace = publish(fleet)
    rng = np.random.default_rng(0)
    large, small = rows_for(fleet, rng, 100_000), rows_for(fleet, rng, 1)

    async def main():
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        task = asyncio.create_task(plane.infer(request_of(large, "pumps"), CONTEXT))
        answered = 0
        while not task.done():
            await plane.infer(request_of(small, "pumps"), CONTEXT)
            answered += 1
        with pytest.raises(TooLarge, match="at most"):
            await plane.infer(request_of(pl.concat([large] * 3), "pumps"), CONTEXT)
        await plane.drain(1)
        return answered, task.result(), plane.statistics()[0]

    answered, response, statistics = asyncio.run(main())
    assert same(response, expected(workspace.fleet("pumps"), large))
    assert answered > 10
    assert statistics.failures == 1


def test_the_largest_requests_wait_side_by_side(publish):
    """Several that are allowed alone are not refused for each other; what is far beyond that is."""
    fleet = pumps()
    workspace = publish(fleet)
    options = ServingOptions(max_rows=30_000)
    frame = rows_for(fleet, np.random.default_rng(0), 30_000)
    request = request_of(frame, "pumps", outputs=("prediction",))

    async def main():
        plane = workspace.data_plane(["pumps"], options=options)
        await plane.start()
        fitting = await asyncio.gather(*[plane.infer(request, CONTEXT) for _ in range(8)])
        crowd = [plane.infer(request, CONTEXT) for _ in range(30)]
        crowded = await asyncio.gather(*crowd, return_exceptions=True)
        await plane.drain(1)
        return fitting, crowded

    fitting, crowded = asyncio.run(main())
    wanted = expected(workspace.fleet("pumps"), frame)
    assert all(same(response, wanted) for response in fitting)
    refused = [one for one in crowded if isinstance(one, Overloaded)]
    assert len(refused) + len([one for one in crowded if not isinstance(one, Exception)]) == 30
    assert refused
    assert "rows are waiting for fleet 'pumps'; try again in" in str(refused[0])


def test_no_rows_are_answered_with_none(publish):
    workspace = publish(pumps())
    empty = rows_for(pumps(), np.random.default_rng(0), 1).clear()

    async def main():
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        response = await plane.infer(request_of(empty, "pumps"), CONTEXT)
        assert [(output.shape, list(output.data)) for output in response.outputs] == [((0,), []), ((0,), [])]
        await plane.drain(1)

    asyncio.run(main())


def test_an_unusual_number_type_is_the_same_number(publish):
    fleet = pumps()
    workspace = publish(fleet)
    numbers = [0, 1, 3]
    keys = [tensor("device", ["a", "b:1", "*"]), tensor("sensor", ["s1", "s1", "s2"])]
    wanted = {}

    async def main():
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        for datatype in Datatype:
            if datatype in ("BYTES", "BOOL"):
                continue
            floats = {"FP16": "f2", "BF16": "f4", "FP32": "f4", "FP64": "f8"}
            values = np.array(numbers, dtype=floats.get(datatype, datatype.lower()))
            for data in (values,) if datatype == "BF16" else (values, values.tolist()):
                features = [Tensor(name=n, datatype=datatype, shape=(3, 1), data=data) for n in "xyz"]
                request = InferenceRequest(model="pumps", inputs=(*keys, *features))
                wanted[datatype, type(data)] = (await plane.infer(request, CONTEXT)).outputs[0].data
        await plane.drain(1)

    asyncio.run(main())
    frame = {"device": ["a", "b:1", "*"], "sensor": ["s1", "s1", "s2"], "x": numbers, "y": numbers, "z": numbers}
    truth = workspace.fleet("pumps").predict(frame)["prediction"].to_list()
    assert all(bits(data) == bits(truth) for data in wanted.values())
    assert len(wanted) == 23
