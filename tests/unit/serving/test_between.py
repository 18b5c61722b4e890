"""What stands around the models: checks, rules, lookups, caches, limits; and what promotions do to them."""

import asyncio
import sqlite3
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidInput, TooLarge, Unavailable
from shoal.serving import catalog
from shoal.serving.messages import InferenceRequest
from shoal.serving.options import ServingOptions
from tests.unit.serving.fleets import CONTEXT, anomalies, classes, constant, pumps, request_of, rows_for, tensor

FAST = ServingOptions(poll_s=0.01)


@pytest.fixture
def serve(publish):
    """Runs a coroutine with a data plane that serves one fleet with a spec."""

    def run(fleet, spec, work, **options):
        workspace = publish(fleet)
        workspace.registry.set_serving(fleet.name, actor="ada", spec=spec)

        async def main():
            plane = workspace.data_plane([fleet.name], options=ServingOptions(poll_s=0.01, **options))
            await plane.start()
            try:
                return await work(plane, workspace)
            finally:
                await plane.drain(1)

        return asyncio.run(main())

    return run


def values(response):
    return {output.name: list(output.data) for output in response.outputs}


FRAME = pl.DataFrame({"device": ["a", "b:1", "nobody"], "sensor": ["s1", "s1", "s2"], "x": [0.5, 5.0, 0.5],
                      "y": [0.0, 0.0, 0.0], "z": [1.0, 1.0, None]})  # fmt: skip


def test_rules_add_outputs_and_checks_mark_rows(serve):
    fleet = pumps()
    truth = fleet.predict(FRAME)["prediction"].to_list()
    spec = {
        "checks": {"inputs": {"x": {"max": 2}}},
        "rules": {"doubled": "prediction * 2", "note": "CASE WHEN x > 1 THEN 'much' ELSE 'little' END"},
    }

    async def work(plane, _):
        names = [(one.name, one.datatype) for one in plane.model_metadata("pumps").outputs]
        asked = ("prediction", "doubled", "note", "outcome", "reason", "model_level")
        return (
            names,
            await plane.infer(request_of(FRAME, "pumps"), CONTEXT),
            await plane.infer(request_of(FRAME, "pumps", outputs=asked), CONTEXT),
        )

    names, usual, asked = serve(fleet, spec, work)
    assert names == [
        ("prediction", "FP64"), ("outcome", "BYTES"), ("doubled", "FP64"), ("note", "BYTES"), ("reason", "BYTES"),
        ("model_level", "BYTES"), ("snapshot", "INT64"),
    ]  # fmt: skip
    assert list(values(usual)) == ["prediction", "outcome", "doubled", "note"]
    assert values(asked) == {
        "prediction": [truth[0], None, None],
        "doubled": [truth[0] * 2, None, None],
        "note": ["little", None, None],
        "outcome": ["scored", "invalid", "no_model"],
        "reason": [None, "'x' is 5, above 2", None],
        "model_level": ["device+sensor", None, None],
    }


def test_a_rejected_request_costs_only_itself(serve):
    fleet = pumps()
    spec = {"checks": {"inputs": {"x": {"max": 2}}, "on_input": "reject"}}

    async def work(plane, _):
        bad, good = FRAME, FRAME[[0]]
        asked = [plane.infer(request_of(frame, "pumps"), CONTEXT) for frame in (good, bad, good)]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, refused, last = serve(fleet, spec, work)
    assert (
        values(first)["prediction"] == values(last)["prediction"] == fleet.predict(FRAME[[0]])["prediction"].to_list()
    )
    assert isinstance(refused, InvalidInput)
    assert "row 2" in str(refused)


def test_thresholds_and_output_checks_decide(serve):
    fleet = anomalies()
    frame = rows_for(fleet, np.random.default_rng(0), 40)
    truth = fleet.predict(frame, outcome=True)
    most = round(float(truth["score"].median()), 3)
    spec = {"threshold": {"score": most - 0.1}, "checks": {"outputs": {"score": {"max": most}}}}

    async def work(plane, _):
        outputs = ("score", "is_anomaly", "outcome", "reason")
        return values(await plane.infer(request_of(frame, "alarms", outputs=outputs), CONTEXT))

    found = serve(fleet, spec, work)
    for row, (score, outcome) in enumerate(zip(truth["score"], truth["outcome"], strict=True)):
        if score is not None and score > most:
            assert (found["score"][row], found["is_anomaly"][row], found["outcome"][row]) == (None, None, "failed")
            assert f"above {most}" in found["reason"][row]
        else:
            assert found["score"][row] == score
            assert found["is_anomaly"][row] == (None if score is None else score < most - 0.1)
            assert found["outcome"][row] == outcome
    assert {"failed", "scored"} <= set(found["outcome"])


def test_ruled_fleets_answer_as_plain_ones_where_no_rule_says_otherwise(serve):
    fleet = classes()
    frame = rows_for(fleet, np.random.default_rng(0), 60)

    async def work(plane, _):
        names = tuple(one.name for one in plane.model_metadata("colours").outputs if one.name != "one")
        return values(await plane.infer(request_of(frame, "colours", outputs=names), CONTEXT))

    ruled, plain = serve(fleet, {"rules": {"one": 1}}, work), serve(fleet, {}, work)
    assert (ruled.pop("snapshot"), plain.pop("snapshot")) == ([1] * 60, [2] * 60)
    assert ruled == plain


def test_a_spec_that_does_not_fit_leaves_what_is_served(serve):
    async def work(plane, workspace):
        workspace.registry.set_serving("pumps", actor="ada", spec={"rules": {"a": "no_such_column + 1"}})
        while not plane.index()[0].reason:
            await asyncio.sleep(0.005)
        assert "no_such_column" in plane.index()[0].reason
        assert plane.index()[0].state == "READY"
        response = await plane.infer(request_of(FRAME, "pumps"), CONTEXT)
        assert "double" in values(response)
        workspace.registry.set_serving("pumps", actor="ada", spec={})
        while "double" in [output.name for output in plane.model_metadata("pumps").outputs]:
            await asyncio.sleep(0.005)
        assert plane.index()[0].reason == ""
        assert "double" not in values(await plane.infer(request_of(FRAME, "pumps"), CONTEXT))

    serve(pumps(), {"rules": {"double": "prediction * 2"}}, work)


def test_largest_requests_that_come_together_are_all_answered(serve):
    frame = pl.DataFrame({"device": ["a"] * 1_500, "x": [0.0] * 1_500})
    asked = request_of(frame, "pumps")

    async def work(plane, _):
        return await asyncio.gather(*[plane.infer(asked, CONTEXT) for _ in range(160)])

    answers = serve(constant(1.0), {}, work, max_rows=30_000)
    assert [len(values(one)["prediction"]) for one in answers] == [1_500] * 160


def test_a_fleets_own_limits_hold(serve):
    async def work(plane, _):
        with pytest.raises(TooLarge, match="at most 2"):
            await plane.infer(request_of(FRAME, "pumps"), CONTEXT)
        assert len(values(await plane.infer(request_of(FRAME[:2], "pumps"), CONTEXT))["prediction"]) == 2

    serve(pumps(), {"limits": {"max_rows": 2}}, work)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b:1", "nobody"]), st.sampled_from([0.0, -0.0, 1.5, None])), max_size=8)
)
def test_remembered_answers_are_those_of_the_model(rows):
    """One plane for all examples, so that later ones find what earlier ones left."""
    plane, runner, fleet = PLANE
    if not rows:
        return
    frame = pl.DataFrame(
        {"device": [d for d, _ in rows], "sensor": "s1", "x": [x for _, x in rows], "y": 0.0, "z": 1.0},
        schema_overrides={"x": pl.Float64},
    )
    truth = fleet.predict(frame, outcome=True, model_level=True)
    request = request_of(frame, "pumps", outputs=("prediction", "outcome", "model_level", "snapshot"))
    for _ in range(2):
        found = values(runner.run(plane.infer(request, CONTEXT)))
        assert found["prediction"] == truth["prediction"].to_list()
        assert found["outcome"] == truth["outcome"].to_list()
        assert found["model_level"] == truth["model_level"].to_list()
        assert set(found["snapshot"]) == {1}


PLANE = None


@pytest.fixture(autouse=True, scope="module")
def remembering(tmp_path_factory):
    import shoal

    global PLANE
    fleet = pumps()
    with shoal.open(tmp_path_factory.mktemp("remembering")) as workspace, asyncio.Runner() as runner:
        workspace.register(fleet)
        workspace.promote("pumps", 1)
        workspace.registry.set_serving("pumps", actor="ada", spec={"cache": {"ttl_s": 600}})
        plane = workspace.data_plane(["pumps"], options=FAST)
        runner.run(plane.start())
        PLANE = (plane, runner, fleet)
        yield
        runner.run(plane.drain(1))


def test_an_answer_from_the_cache_says_how_old_it_is(serve, monkeypatch):
    def asked(*devices):
        inputs = (tensor("device", devices), tensor("x", [0.5] * len(devices)))
        return InferenceRequest(model="pumps", inputs=inputs)

    async def work(plane, _):
        assert (await plane.infer(asked("a"), CONTEXT)).parameters == {}
        later = time.time() + 40
        monkeypatch.setattr(time, "time", lambda: later)
        assert (await plane.infer(asked("b"), CONTEXT)).parameters == {}
        (age_s,) = (await plane.infer(asked("b", "a"), CONTEXT)).parameters.values()
        assert 40 <= age_s < 60
        assert (await plane.infer(asked("b"), CONTEXT)).parameters == {"cache_age_s": 0.0}
        told = plane.statistics("pumps")[0]
        assert (told.cache_hits, told.cache_misses) == (3, 2)

    serve(constant(1.0), {"cache": {"ttl_s": 600}}, work)


@pytest.mark.parametrize("spec", [{"cache": {"ttl_s": 600}}, {"cache": {"ttl_s": 600}, "rules": {"more": "score + 1"}}])
def test_a_text_that_is_no_number_or_key_is_not_taken_for_a_missing_one(serve, spec):
    def asked(night, x):
        inputs = (tensor("day", ["2026-01-01"]), night, x, tensor("y", [0.5]))
        return InferenceRequest(model="alarms", inputs=inputs, outputs=("outcome", "reason"))

    async def work(plane, _):
        missing, text = tensor("x", [None]), tensor("x", ["x"], "BYTES")
        night, odd = tensor("night", [False]), tensor("night", ["maybe"], "BYTES")
        for _ in range(2):  # the second time some are remembered
            found = [values(await plane.infer(asked(*one), CONTEXT)) for one in ((night, text), (odd, missing))]
            assert [one["reason"] for one in found] == [["wrong type in 'x'"], ["wrong key type in 'night'"]]
            assert "missing" in values(await plane.infer(asked(night, missing), CONTEXT))["reason"][0]

    serve(anomalies(), spec, work)


def test_a_promotion_makes_remembered_answers_unreachable(serve):
    request = InferenceRequest(model="pumps", inputs=(tensor("device", ["a"]), tensor("x", [0.5])))

    async def work(plane, workspace):
        for _ in range(3):
            assert values(await plane.infer(request, CONTEXT))["prediction"] == [1.0]
        cache = plane.between()["pumps"][1]
        assert (cache.hits, cache.misses, cache.entries) == (2, 1, 1)
        assert plane.statistics("pumps")[0].batches == 1
        workspace.register(constant(2.0))
        workspace.promote("pumps", 2)
        while plane.index()[0].version != "2":
            assert values(await plane.infer(request, CONTEXT))["prediction"] in ([1.0], [2.0])
            await asyncio.sleep(0)
        assert values(await plane.infer(request, CONTEXT))["prediction"] == [2.0]

    serve(constant(1.0), {"cache": {"ttl_s": 600}}, work)


def sites(path, rows):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE sites (device TEXT PRIMARY KEY, x REAL, y REAL)")
        database.executemany("INSERT INTO sites VALUES (?, ?, ?)", rows)
    database.close()


def with_sites(workspace, path):
    workspace.registry.set_source("sites", {"kind": "sql", "url": f"sqlite:///{path}", "table": "sites"}, actor="ada")


LOOKUP = {"lookup": {"source": "sites", "keys": ["device"], "features": ["x", "y"], "timeout_ms": 5000}}


def test_a_request_that_carries_only_keys_gets_its_features(publish, tmp_path):
    """The answers are those of requests that bring the features themselves; what a request brings goes first."""
    fleet = pumps()
    sites(tmp_path / "sites.db", [("a", 0.25, 1.5), ("b:1", -1.0, None)])
    workspace = publish(fleet)
    with_sites(workspace, tmp_path / "sites.db")
    spec = {"lookup": {**LOOKUP["lookup"], "on_missing": "invalid", "cache": {"ttl_s": 600}}}
    workspace.registry.set_serving("pumps", actor="ada", spec=spec)
    frame = pl.DataFrame({"device": ["a", "b:1", "nobody"], "sensor": ["s1"] * 3, "z": [1.0, 2.0, 3.0]})

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        asked = ("prediction", "outcome", "reason")
        looked = values(await plane.infer(request_of(frame, "pumps", outputs=asked), CONTEXT))
        own = frame.with_columns(x=pl.lit(9.0), y=pl.lit(8.0))
        brought = values(await plane.infer(request_of(own, "pumps", outputs=asked), CONTEXT))
        half = values(
            await plane.infer(
                request_of(own.drop("y"), "pumps:a:s1", outputs=asked, leave_out=("device", "sensor")), CONTEXT
            )
        )
        with pytest.raises(InvalidInput, match=r"lacks the input\(s\) \['z'\]"):
            await plane.infer(request_of(frame.drop("z"), "pumps"), CONTEXT)
        before = plane.between()["pumps"][0]
        workspace.register(pumps())
        workspace.promote("pumps", 2)
        while plane.index()[0].version != "2":
            await asyncio.sleep(0.005)
        again = values(await plane.infer(request_of(frame, "pumps", outputs=asked), CONTEXT))
        lookup = plane.between()["pumps"][0]
        await plane.drain(1)
        return looked, brought, half, again, lookup.fetches, before.fetches

    looked, brought, half, again, fetches, before = asyncio.run(main())
    full = frame.with_columns(x=pl.Series([0.25, -1.0, None]), y=pl.Series([1.5, None, None], dtype=pl.Float64))
    truth = fleet.predict(full)["prediction"].to_list()
    assert looked["prediction"] == [*truth[:2], None]
    assert looked["outcome"] == ["scored", "scored", "invalid"]
    assert looked["reason"] == [None, None, "lookup in 'sites' knows no such key"]
    own = fleet.predict(frame.with_columns(x=pl.lit(9.0), y=pl.lit(8.0)))["prediction"].to_list()
    assert brought["prediction"] == own
    single = (
        fleet["a", "s1"]
        .predict(frame.drop("device", "sensor").with_columns(x=pl.lit(9.0), y=pl.lit(1.5)))["prediction"]
        .to_list()
    )
    assert half["prediction"] == single
    assert again == looked
    assert fetches == before  # the promotion did not empty the data cache


def test_a_lookup_that_snapshots_share_is_closed_with_the_last_of_them(publish, tmp_path, monkeypatch):
    """Snapshots that were asked for by number come and go; the fleet's own keeps its lookup, until it goes too."""
    monkeypatch.setattr(catalog, "CLOSE_S", 30.0)  # which a busy machine may need
    sites(tmp_path / "sites.db", [("a", 0.25, 1.5)])
    workspace = publish(pumps())
    with_sites(workspace, tmp_path / "sites.db")
    workspace.registry.set_serving("pumps", actor="ada", spec={"lookup": {**LOOKUP["lookup"], "on_failure": "fail"}})
    for _ in range(5):
        workspace.register(pumps())
    frame = pl.DataFrame({"device": ["a"], "sensor": ["s1"], "z": [1.0]})

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(poll_s=0.01, versions=1))
        await plane.start()
        shared = plane._catalog.slots["pumps"].served.between.lookup

        async def asked(*versions):
            return [values(await plane.infer(request_of(frame, "pumps", version=one), CONTEXT)) for one in versions]

        answers = await asked("2", "3", "4", None)
        workspace.promote("pumps", 5)  # while version 4 is open still
        while plane.index()[0].version != "5":
            await asyncio.sleep(0.005)
        answers += await asked("6", None)
        assert plane._catalog.slots["pumps"].served.between.lookup is shared
        await plane.drain(1)
        with pytest.raises(Unavailable):
            await shared.complete([("b:1",)], None)
        return answers

    answers = asyncio.run(main())
    assert len(answers) == 6
    assert all(answer == answers[0] for answer in answers)


def test_what_cannot_be_opened_holds_no_lookup(publish, tmp_path, monkeypatch):
    """The cache names a source of another kind: it is tried again and again, and each time nothing may stay open."""
    monkeypatch.setattr(catalog, "CLOSE_S", 30.0)  # which a busy machine may need
    sites(tmp_path / "sites.db", [("a", 0.25, 1.5)])
    workspace = publish(pumps())
    with_sites(workspace, tmp_path / "sites.db")
    workspace.registry.set_serving("pumps", actor="ada", spec=LOOKUP)

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(poll_s=0.01))
        await plane.start()
        slot = plane._catalog.slots["pumps"]
        shared = slot.served.between._shared
        broken = {**LOOKUP, "cache": {"ttl_s": 1, "store": "sites"}}
        workspace.registry.set_serving("pumps", actor="ada", spec=broken)
        while "cannot be served" not in slot.reason:
            await asyncio.sleep(0.005)
        holders = shared._holders
        await plane.drain(1)
        return holders, shared._holders

    assert asyncio.run(main()) == (1, 0)


def test_a_source_that_is_gone_refuses_or_defaults(publish, tmp_path):
    workspace = publish(pumps())
    with_sites(workspace, tmp_path / "none" / "sites.db")
    frame = pl.DataFrame({"device": ["a"], "sensor": ["s1"], "z": [1.0]})

    async def main(spec):
        workspace.registry.set_serving("pumps", actor="ada", spec=spec)
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        try:
            return values(await plane.infer(request_of(frame, "pumps"), CONTEXT))
        finally:
            await plane.drain(1)

    with pytest.raises(Unavailable, match="sites"):
        asyncio.run(main({"lookup": {**LOOKUP["lookup"], "on_failure": "fail"}}))
    defaulted = {**LOOKUP["lookup"], "defaults": {"x": 0.5, "y": 0.5}}
    truth = pumps().predict(frame.with_columns(x=pl.lit(0.5), y=pl.lit(0.5)))["prediction"].to_list()
    assert asyncio.run(main({"lookup": defaulted}))["prediction"] == truth


def test_what_a_source_says_when_it_fails_is_for_the_log(publish, tmp_path, caplog):
    workspace = publish(pumps())
    with_sites(workspace, tmp_path / "none" / "sites.db")
    frame = pl.DataFrame({"device": ["a"], "sensor": ["s1"], "z": [1.0]})
    asked = request_of(frame, "pumps", outputs=("outcome", "reason"))

    async def main(on_failure):
        spec = {"lookup": {**LOOKUP["lookup"], "on_failure": on_failure}}
        workspace.registry.set_serving("pumps", actor="ada", spec=spec)
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        try:
            return values(await plane.infer(asked, CONTEXT))
        finally:
            await plane.drain(1)

    told = asyncio.run(main("invalid"))
    words = "lookup in 'sites' failed: the lookup's database does not answer as it should"
    assert told == {"outcome": ["invalid"], "reason": [words]}
    assert f"request {CONTEXT.request_id} has rows that are not scored: {words} (unable to open" in caplog.text
    with pytest.raises(Unavailable) as refused:
        asyncio.run(main("fail"))
    assert refused.value.message == f"{words}; try again"
    assert "unable to open" in refused.value.detail


@pytest.mark.parametrize(
    ("defaults", "outcome", "end"), [({}, "invalid", ""), ({"x": 0.5, "y": 0.5}, "scored", "; defaults stand in")]
)
def test_a_row_says_that_its_source_failed_and_is_not_remembered(publish, tmp_path, defaults, outcome, end):
    workspace = publish(pumps())
    with_sites(workspace, tmp_path / "sites.db")
    frame = pl.DataFrame({"device": ["a"], "sensor": ["s1"], "z": [1.0]})
    bare = request_of(frame, "pumps", outputs=("outcome", "reason"))
    full = request_of(frame.with_columns(x=0.5, y=0.5), "pumps", outputs=("outcome", "reason"))
    spec = {"lookup": {**LOOKUP["lookup"], "defaults": defaults}, "cache": {"ttl_s": 600}}

    async def main():
        workspace.registry.set_serving("pumps", actor="ada", spec=spec)
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        try:
            return [values(await plane.infer(one, CONTEXT)) for one in (bare, full, bare)]
        finally:
            await plane.drain(1)

    first, brought, again = asyncio.run(main())
    words = "lookup in 'sites' failed: the lookup's database does not answer as it should"
    assert first == again == {"outcome": [outcome], "reason": [f"{words}{end}"]}
    assert brought == {"outcome": ["scored"], "reason": [None]}


def test_a_source_without_the_columns_is_warned_of_when_the_spec_is_set(publish, tmp_path, caplog):
    workspace = publish(pumps())
    sites(tmp_path / "sites.db", [("a", 0.25, 1.5)])
    with_sites(workspace, tmp_path / "sites.db")
    pl.DataFrame({"device": ["a"], "x": [0.25]}).write_parquet(tmp_path / "sites.parquet")
    workspace.set_source("file", {"kind": "parquet", "path": str(tmp_path / "sites.parquet")})

    def warned(**changes):
        caplog.clear()
        workspace.set_serving("pumps", {"lookup": {**LOOKUP["lookup"], **changes}})
        return caplog.text

    assert warned() == ""
    assert "lookup in 'sites' does not work from here" in warned(features={"x": "nope"})
    assert "nope" in caplog.text
    assert "has no column 'y'; it has device, x" in warned(source="file")
    assert warned(source="file", features=["x"]) == ""
    (tmp_path / "sites.parquet").unlink()
    assert "sites.parquet" in warned(source="file", features=["x"])
    with_sites(workspace, tmp_path / "none" / "sites.db")
    assert "lookup in 'sites' does not work from here" in warned()
    assert not (tmp_path / "none").exists()


def test_a_source_that_does_not_exist_is_said_in_the_index(publish):
    workspace = publish(pumps())
    workspace.registry.set_serving("pumps", actor="ada", spec=LOOKUP)

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        assert "no source 'sites'" in plane.index()[0].reason
        await plane.drain(1)

    asyncio.run(main())
