"""Servers follow the registry: promotions, rollbacks, damage, and a database that goes away and comes back."""

import asyncio
import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

import shoal
from shoal.errors import InvalidInput, NotFound, NotReady, Unloaded
from shoal.serving.messages import InferenceRequest
from shoal.serving.options import ServingOptions
from tests.unit.serving.fleets import CONTEXT, constant, pumps, tensor

FAST = ServingOptions(poll_s=0.01)


def request(rows=1, model="pumps", **given):
    inputs = (tensor("device", ["a"] * rows), tensor("x", [0.5] * rows))
    return InferenceRequest(model=model, inputs=inputs, **given)


async def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.005)


def version(plane, name="pumps"):
    return plane.index()[[entry.name for entry in plane.index()].index(name)].version


def test_promotions_and_rollbacks_are_followed_without_a_restart(publish):
    workspace = publish(constant(1.0))

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        with pytest.raises(NotReady, match="starting"):
            await plane.infer(request(), CONTEXT)
        assert not plane.ready()
        await plane.start()
        assert plane.ready()
        workspace.register(constant(2.0))
        workspace.promote("pumps", 2)
        await until(lambda: version(plane) == "2")
        response = await plane.infer(request(), CONTEXT)
        assert (response.model_version, response.outputs[0].data) == ("2", [2.0])
        workspace.rollback("pumps")
        await until(lambda: version(plane) == "1")
        assert (await plane.infer(request(), CONTEXT)).outputs[0].data == [1.0]
        versions = {one.version: one.requests for one in plane.statistics("pumps")}
        assert versions == {"2": 1, "1": 1}
        assert [(one.name, one.requests) for one in plane.totals()] == [("pumps", 2)]
        await plane.drain(1)
        assert not plane.ready()
        with pytest.raises(NotReady, match="ends"):
            await plane.infer(request(), CONTEXT)

    asyncio.run(main())


def test_no_request_is_lost_or_answered_from_two_snapshots(publish):
    """Snapshot v answers v, so whatever mixes two shows; large requests are scored in pieces over several swaps."""
    workspace = publish(constant(1.0))
    for value in (2.0, 3.0):
        workspace.register(constant(value))
    seen = set()

    def promote(stop):
        turn = 0
        while not stop.is_set():
            turn += 1
            workspace.promote("pumps", 1 + turn % 3)

    async def caller(plane, rows, stop):
        asked = 0
        while not stop.is_set() or not asked:
            response = await plane.infer(request(rows), CONTEXT)
            assert set(response.outputs[0].data) == {float(response.model_version)}
            seen.add(response.model_version)
            asked += 1
        return asked

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        stop = threading.Event()
        thread = threading.Thread(target=promote, args=(stop,))
        thread.start()
        callers = [asyncio.create_task(caller(plane, rows, stop)) for rows in (1, 1, 1, 50, 5000)]
        await until(lambda: len(seen) == 3 or any(task.done() for task in callers))
        stop.set()
        thread.join()
        asked = await asyncio.gather(*callers)
        assert plane.totals()[0].requests == sum(asked)
        assert plane.totals()[0].failures == 0
        await plane.drain(1)

    asyncio.run(main())


def test_a_replaced_snapshot_is_let_go(publish):
    workspace = publish(constant(1.0))

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        await plane.infer(request(), CONTEXT)
        old = weakref.ref(plane._catalog.current("pumps"))
        gc.disable()
        try:
            workspace.register(constant(2.0))
            workspace.promote("pumps", 2)
            await until(lambda: version(plane) == "2")
            await until(lambda: old() is None)
        finally:
            gc.enable()
        await plane.drain(1)

    asyncio.run(main())


def test_a_damaged_snapshot_leaves_the_old_one_serving(publish, tmp_path):
    workspace = publish(constant(1.0), pumps("others"))
    before = set((tmp_path / "home" / "store" / "blocks").iterdir())
    workspace.register(constant(2.0))
    damaged = next(iter(set((tmp_path / "home" / "store" / "blocks").iterdir()) - before))
    damaged.chmod(0o644)
    content = damaged.read_bytes()
    workspace.register(constant(3.0))
    damaged.write_bytes(content[:-20] + bytes(20))

    async def main():
        plane = workspace.data_plane(["pumps", "others"], options=FAST)
        await plane.start()
        workspace.registry.promote("pumps", 2, actor="ada")
        await until(lambda: plane.index()[1].reason)
        entry = plane.index()[1]
        assert (entry.name, entry.version, entry.state) == ("pumps", "1", "READY")
        assert "snapshot 2" in entry.reason
        assert "log" in entry.reason
        assert str(tmp_path) not in entry.reason
        assert (await plane.infer(request(), CONTEXT)).outputs[0].data == [1.0]
        assert plane.ready()
        workspace.promote("pumps", 3)
        await until(lambda: version(plane) == "3")
        assert plane.index()[1].reason == ""
        await plane.drain(1)

        fresh = workspace.data_plane(["pumps:2", "others"], options=FAST)
        await fresh.start()
        assert fresh.ready()
        assert [(e.name, e.state) for e in fresh.index()] == [("others", "READY"), ("pumps", "UNAVAILABLE")]
        assert [entry.name for entry in fresh.index(ready=True)] == ["others"]
        assert [entry.name for entry in fresh.index(ready=False)] == ["pumps"]
        assert not fresh.model_ready("pumps")
        assert str(damaged) in fresh.problems()["pumps"]
        with pytest.raises(NotReady, match="files are damaged") as refused:
            await fresh.infer(request(), CONTEXT)
        for told in (refused.value.message, fresh.reason("pumps"), fresh.index(ready=False)[0].reason):
            assert damaged.name not in told  # whoever may only ask hears nothing of our files
        assert str(damaged) in refused.value.detail
        await fresh.drain(1)

    asyncio.run(main())


def test_what_was_promoted_while_a_process_started_is_followed_before_its_doors_open(publish):
    workspace = publish(constant(1.0))
    workspace.register(constant(2.0))

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(poll_s=600))
        await plane.start()
        workspace.promote("pumps", 2)
        assert version(plane) == "1"
        await plane.catch_up()
        assert version(plane) == "2"
        await plane.drain(1)

    asyncio.run(main())


def test_a_fleet_without_a_champion_is_served_once_it_has_one(workspace):
    workspace.register(constant(1.0))

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        assert not plane.ready()
        assert "promote" in plane.index()[0].reason
        workspace.promote("pumps", 1)
        await until(plane.ready)
        assert (await plane.infer(request(), CONTEXT)).outputs[0].data == [1.0]
        await plane.drain(1)

    asyncio.run(main())


def hide(workspace, path: Path):
    """Take the database away as a failing disk does: pooled connections end, and new ones find no file."""
    workspace.close()
    for file in sorted(path.parent.glob(f"{path.name}*")):  # itself first, that nobody opens it without the others
        file.rename(file.with_name(f"hidden-{file.name}"))
    path.mkdir()


def restore(path: Path):
    path.rmdir()
    for file in sorted(path.parent.glob(f"hidden-{path.name}*"), reverse=True):
        file.rename(file.with_name(file.name.removeprefix("hidden-")))


def test_without_its_database_a_server_goes_on_and_recovers(publish, tmp_path):
    workspace = publish(constant(1.0))
    workspace.register(constant(2.0))
    path = tmp_path / "home" / "shoal.db"

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        await plane.infer(request(version="2"), CONTEXT)
        hide(workspace, path)
        await until(lambda: plane.contact.problem and plane.staleness_s() > 0.2)
        assert plane.ready()
        assert plane.model_ready("pumps")
        assert (await plane.infer(request(), CONTEXT)).outputs[0].data == [1.0]
        assert (await plane.infer(request(version="2"), CONTEXT)).outputs[0].data == [2.0]
        assert "StorageError" in plane.contact.problem
        restore(path)
        with shoal.open(tmp_path / "home") as other:
            other.promote("pumps", 2)
        await until(lambda: version(plane) == "2")
        assert plane.staleness_s() < 5
        assert plane.contact.problem == ""
        await plane.drain(1)

    asyncio.run(main())


def test_a_server_that_starts_without_its_database_becomes_ready_later(publish, tmp_path):
    workspace = publish(constant(1.0))
    path = tmp_path / "home" / "shoal.db"

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        hide(workspace, path)
        await plane.start()
        assert not plane.ready()
        assert not plane.model_ready("pumps")
        for ask in (plane.model_metadata, plane.require, plane.statistics):
            with pytest.raises(NotReady, match="starting"):
                ask("pumps")
        with pytest.raises(NotReady, match="starting"):
            await plane.infer(request(), CONTEXT)
        with pytest.raises(NotReady, match="starting"):
            await plane.open("pumps", "1")
        restore(path)
        await until(plane.ready)
        await plane.infer(request(), CONTEXT)
        await plane.drain(1)

    asyncio.run(main())


def test_any_snapshot_may_be_asked_by_its_number(publish):
    workspace = publish(constant(1.0))
    for value in (2.0, 3.0, 4.0, 5.0):
        workspace.register(constant(value))

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(versions=2))
        await plane.start()
        with pytest.raises(NotReady, match="not open"):
            plane.model_metadata("pumps", "4")
        asked = [plane.infer(request(version=str(v)), CONTEXT) for v in (1, 2, 3, 4, 5, 2, 2)]
        answers = [(r.model_version, r.outputs[0].data) for r in await asyncio.gather(*asked)]
        assert answers == [(str(v), [float(v)]) for v in (1, 2, 3, 4, 5, 2, 2)]
        assert [plane._catalog.opened("pumps", str(v)) is None for v in (2, 3, 4, 5)].count(False) == 2
        await plane.open("pumps", "4")
        assert plane.model_metadata("pumps", "4").versions == ("4",)
        assert plane.model_ready("pumps", "4")
        assert [entry.version for entry in plane.index()] == ["1"]
        for unknown in ("6", "0", "x", "01", "-1", "²", "", "9" * 30):
            with pytest.raises(NotFound):
                await plane.infer(request(version=unknown), CONTEXT)
        with pytest.raises(NotFound):
            await plane.infer(request(model="nobody", version="1"), CONTEXT)
        with pytest.raises(NotFound, match="no model 'nobody'"):
            plane.model_ready("pumps:nobody")
        await plane.drain(1)

    asyncio.run(main())


def test_what_is_asked_by_its_number_is_counted(publish):
    workspace = publish(constant(1.0))
    for value in (2.0, 3.0, 4.0):
        workspace.register(constant(value))

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(versions=2))
        await plane.start()
        for version, times in (("2", 3), ("3", 2), ("4", 1), ("2", 1)):  # the last closes and opens again
            for _ in range(times):
                await plane.infer(request(version=version), CONTEXT)
        await plane.infer(request(), CONTEXT)
        with pytest.raises(InvalidInput):
            await plane.infer(InferenceRequest(model="pumps", version="3", inputs=()), CONTEXT)
        counted = {one.version: (one.requests, one.rows, one.failures) for one in plane.statistics("pumps")}
        (three,), (total,) = plane.statistics("pumps", "3"), plane.totals()
        await plane.drain(1)
        return counted, three.requests, total.requests

    counted, three, total = asyncio.run(main())
    assert counted == {"1": (1, 1, 0), "2": (4, 4, 0), "3": (2, 2, 1), "4": (1, 1, 0)}
    assert (three, total) == (2, 8)


def test_what_is_asked_by_its_number_follows_the_serving_spec(publish):
    workspace = publish(constant(1.0))
    workspace.register(constant(2.0))

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(poll_s=0.01))
        await plane.start()
        plain = await plane.infer(request(version="2"), CONTEXT)
        workspace.set_serving("pumps", spec={"rules": {"doubled": "prediction * 2"}})
        await until(lambda: "doubled" in [one.name for one in plane.model_metadata("pumps").outputs])
        ruled = await plane.infer(request(version="2"), CONTEXT)
        await plane.unload("pumps", actor="ada")
        with pytest.raises(NotReady):
            await plane.infer(request(version="2"), CONTEXT)
        await plane.drain(1)
        return plain, ruled

    plain, ruled = asyncio.run(main())
    assert "doubled" not in [one.name for one in plain.outputs]
    assert {one.name: list(one.data) for one in ruled.outputs}["doubled"] == [4.0]


def test_what_a_server_is_started_with(publish):
    workspace = publish(constant(1.0))
    workspace.register(constant(2.0))
    workspace.promote("pumps", 2, alias="challenger")

    async def main():
        for reference, served in (("pumps", "1"), ("pumps@challenger", "2"), ("pumps:2", "2")):
            plane = workspace.data_plane([reference], options=FAST)
            await plane.start()
            assert version(plane) == served
            await plane.drain(1)

    asyncio.run(main())
    with pytest.raises(InvalidInput, match="twice"):
        workspace.data_plane(["pumps", "pumps:2"])
    with pytest.raises(InvalidInput):
        workspace.data_plane(["no name!"])


def test_draining_waits_for_what_is_under_way(publish):
    workspace = publish(constant(1.0))

    async def main():
        plane = workspace.data_plane(["pumps"], options=FAST)
        await plane.start()
        task = asyncio.create_task(plane.infer(request(20_000), CONTEXT))
        await asyncio.sleep(0)
        await plane.drain(20)
        assert task.done()
        assert len(task.result().outputs[0].data) == 20_000

    asyncio.run(main())


def test_desired_state_is_followed_by_all_servers_and_after_a_restart(publish):
    workspace = publish(constant(1.0), constant(5.0, "others"))
    workspace.register(constant(2.0))

    async def started(*fleets):
        plane = workspace.data_plane(fleets, options=FAST)
        await plane.start()
        return plane

    async def main():
        one, two = await started(), await started("pumps")
        assert [(e.name, e.state) for e in one.index()] == [("others", "READY"), ("pumps", "READY")]
        await one.unload("pumps", actor="ada")
        assert not one.model_ready("pumps")
        with pytest.raises(NotReady, match="unloaded"):
            await one.infer(request(), CONTEXT)
        with pytest.raises(NotReady, match="unloaded"):
            await one.infer(request(version="1"), CONTEXT)
        await until(lambda: two.index()[0].state == "UNAVAILABLE")
        assert two.ready()  # nothing that is wanted is missing, and somebody may want it loaded again
        again = await started()
        assert [(e.name, e.state) for e in again.index()] == [("others", "READY"), ("pumps", "UNAVAILABLE")]
        assert again.ready()
        await two.load("pumps", actor="ada")
        assert two.model_ready("pumps")
        await until(lambda: one.model_ready("pumps") and again.model_ready("pumps"))
        workspace.registry.set_serving("pumps", actor="ada", pinned=2)
        await until(lambda: {version(plane) for plane in (one, two, again)} == {"2"})
        workspace.promote("pumps", 1, alias="challenger")
        workspace.set_serving("pumps", pinned=None, alias="challenger")
        await until(lambda: {version(plane) for plane in (one, two, again)} == {"1"})
        with pytest.raises(InvalidInput, match="not started for fleet 'others'"):
            await two.load("others", actor="ada")
        with pytest.raises(NotFound):
            await one.load("nobody", actor="ada")
        actions = [entry.action for entry in workspace.registry.audit(object="pumps")]
        assert "serving.set" in actions
        for plane in (one, two, again):
            await plane.drain(1)

    asyncio.run(main())


def test_an_alias_that_is_not_there_is_said_so(publish):
    workspace = publish(constant(1.0))
    workspace.require_servable(["pumps", "not-there@canary"])
    with pytest.raises(NotFound, match="no alias 'canary', only champion"):
        workspace.require_servable(["pumps@canary"])
    with pytest.raises(InvalidInput, match="twice"):
        workspace.require_servable(["pumps", "pumps@champion"])

    async def main():
        plane = workspace.data_plane(["pumps@canary"], options=FAST)
        await plane.start()
        assert not plane.ready()
        [entry] = plane.index()
        assert (entry.state, entry.reason) == ("UNAVAILABLE", plane.reason("pumps:a"))
        assert "no alias 'canary', only champion" in entry.reason
        with pytest.raises(NotReady, match="only champion"):
            await plane.infer(request(), CONTEXT)
        workspace.promote("pumps", 1, alias="canary")
        await until(plane.ready)
        await plane.drain(1)

    asyncio.run(main())


def test_a_fleet_of_which_nothing_was_promoted_yet_may_be_served(workspace):
    workspace.register(constant(1.0))
    workspace.require_servable(["pumps", "others@champion"])
    workspace.require_servable(["pumps@champion"])
    with pytest.raises(NotFound, match="and no other yet"):
        workspace.require_servable(["pumps@canary"])


def test_loading_says_why_it_cannot(workspace):
    workspace.register(constant(1.0))

    async def main():
        plane = workspace.data_plane(options=FAST)
        await plane.start()
        assert plane.index() == []
        assert plane.ready()
        with pytest.raises(NotReady, match="promote"):
            await plane.load("pumps", actor="ada")
        workspace.promote("pumps", 1)
        await plane.load("pumps", actor="ada")
        assert (await plane.infer(request(), CONTEXT)).outputs[0].data == [1.0]
        await plane.drain(1)

    asyncio.run(main())


def test_who_loads_what_is_unloaded_meanwhile_is_told_at_once_and_holds_nobody_up(publish):
    """Snapshots open only when told, so that each unload comes while a load waits."""
    workspace = publish(constant(1.0))
    may_open = threading.Event()

    async def unloaded(plane):
        await until(lambda: plane._catalog.slots["pumps"].following is not None)
        workspace.registry.set_serving("pumps", actor="bob", loaded=False)
        await plane._catalog.refresh()
        may_open.set()

    async def main():
        plane = workspace.data_plane(["pumps"], options=ServingOptions(poll_s=600))
        await plane.start()
        opener = plane._catalog._openings._opener
        plane._catalog._openings._opener = lambda record: may_open.wait(60) and opener(record)
        await plane.unload("pumps", actor="ada")
        plane._catalog.slots["pumps"].following = None
        _, refused = await asyncio.wait_for(
            asyncio.gather(unloaded(plane), plane.load("pumps", actor="ada"), return_exceptions=True), 30
        )
        assert isinstance(refused, Unloaded)
        assert "unloaded meanwhile" in refused.message
        await plane.load("pumps", actor="ada")
        assert (await plane.infer(request(), CONTEXT)).outputs[0].data == [1.0]
        await plane.drain(1)

    asyncio.run(main())


def test_a_server_of_a_category_serves_only_that(workspace):
    for name, category in (("pumps", "water"), ("others", "air")):
        workspace.register(constant(1.0, name), category=category)
        workspace.promote(name, 1)

    async def main():
        plane = workspace.data_plane(category="air", options=FAST)
        await plane.start()
        assert [entry.name for entry in plane.index()] == ["others"]
        workspace.registry.describe("others", category="water", actor="ada")
        await until(lambda: plane.index() == [])
        with pytest.raises(NotFound):
            await plane.infer(request(model="others"), CONTEXT)
        await plane.drain(1)

    asyncio.run(main())
