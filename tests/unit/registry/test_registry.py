import dataclasses
import datetime as dt
import math

import pytest

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.registry import Lineage, ModelRecord
from shoal.types import InputFile


def test_a_fleet_is_described(registry):
    made = registry.create_fleet("flights", owner="ops", category="air", tags=["b", "a", "b"], actor="ann")
    assert (made.owner, made.category, made.tags, made.created_by) == ("ops", "air", ("a", "b"), "ann")
    assert (made.latest, made.aliases) == (None, {})
    assert made.created_at.tzinfo is dt.UTC
    changed = registry.describe("flights", description="minutes in the air", tags=[], actor="bob")
    assert (changed.owner, changed.description, changed.tags) == ("ops", "minutes in the air", ())
    assert registry.fleet("flights") == changed


def test_saying_what_is_said_already_leaves_no_trace(registry):
    registry.create_fleet("flights", owner="ops", tags=["b", "a"], actor="ann")
    head = registry.head()
    assert registry.describe("flights", actor="bob") == registry.fleet("flights")
    assert registry.describe("flights", owner="ops", tags=["a", "b"], actor="bob").tags == ("a", "b")
    assert registry.head() == head
    registry.describe("flights", owner="ops", category="air", actor="bob")
    assert registry.audit(limit=1)[0].after == {"category": "air"}


@pytest.mark.parametrize("name", ["flights", "Flights", "FLIGHTS"])
def test_a_name_is_given_once_whatever_its_case(registry, name):
    registry.create_fleet("flights", actor="ann")
    with pytest.raises(Conflict, match=f"'{name}' already"):
        registry.create_fleet(name, actor="ann")


def test_tags_are_several_texts(registry):
    with pytest.raises(InvalidInput, match=r"tags=\['air'\]"):
        registry.create_fleet("flights", tags="air", actor="ann")
    with pytest.raises(InvalidInput, match="empty"):
        registry.create_fleet("flights", tags=[" "], actor="ann")
    assert registry.fleets() == []


def test_fleets_are_listed_by_tag_and_category(registry):
    for name, tags, category in (("c", ["x"], "one"), ("a", ["x", "y"], "two"), ("b", ["yx"], "one")):
        registry.create_fleet(name, tags=tags, category=category, actor="ann")
    assert [fleet.name for fleet in registry.fleets()] == ["a", "b", "c"]
    assert [fleet.name for fleet in registry.fleets(tag="x")] == ["a", "c"]
    assert [fleet.name for fleet in registry.fleets(category="one")] == ["b", "c"]
    assert [fleet.name for fleet in registry.fleets(tag="x", category="one")] == ["c"]


def test_snapshots_are_counted_from_one_per_fleet(registry, add):
    assert [add().version, add().version, add(name="other").version, add().version] == [1, 2, 1, 3]
    assert [s.version for s in registry.snapshots("flights")] == [3, 2, 1]
    assert registry.fleet("flights").latest == 3
    assert registry.snapshot("flights", 2).reference == "flights:2"


def test_a_snapshot_and_its_lineage_come_back_as_they_went_in(registry, add, model):
    add()
    first = InputFile(path="a.csv", size_bytes=3, sha256="00" * 32, rows=7)
    second = InputFile(path="b.csv", size_bytes=1, sha256="ff" * 32)
    lineage = Lineage(
        inputs=(first, second),
        code_version="4f1c",
        parameters={"alpha": [0.1, 1.0], "nested": {"ä": None}},
        libraries={"scikit-learn": "1.9.1"},
        parent=1,
        run="20261121-044012-x7f3",
    )
    made = add((model,), lineage=lineage, model_count=5, note="retrained", digest="abc")
    assert (made.model_count, made.new_models, made.note, made.run) == (5, 1, "retrained", lineage.run)
    assert registry.lineage("flights", 2) == lineage
    assert registry.lineage("flights", 1) == Lineage()


def test_a_models_history_over_snapshots_and_levels(registry, add, model):
    coarser = dataclasses.replace(model, level=("dest",), metrics={"mae": math.nan}, trained_at=None)
    add((model, coarser))
    add()
    better = dataclasses.replace(model, metrics={"mae": 7.5})
    add((better,), model_count=2, actor="bob")
    history = registry.model_history("flights", model.key_text)
    assert [(entry.version, entry.model.level, entry.created_by) for entry in history] == [
        (3, ("origin", "dest"), "bob"),
        (1, ("dest",), "ann"),
        (1, ("origin", "dest"), "ann"),
    ]
    assert history[0].model == better
    assert history[2].model == model
    assert math.isnan(history[1].model.metrics["mae"])


@pytest.mark.parametrize("apart", [1, 12_000])
def test_a_model_that_comes_twice_leaves_no_snapshot(registry, add, model, apart):
    others = (dataclasses.replace(model, key_text=str(number)) for number in range(apart))
    with pytest.raises(InvalidInput, match="comes twice"):
        add((model, *others, model))
    assert registry.fleet("flights").latest is None
    assert registry.snapshots("flights") == []
    assert [entry.action for entry in registry.audit()] == ["fleet.create"]
    assert add((model,)).version == 1


def test_more_new_models_than_models_or_an_unknown_parent_leave_no_snapshot(registry, add, model):
    with pytest.raises(InvalidInput, match="1 new models, but only 0"):
        add((model,), model_count=0)
    with pytest.raises(NotFound, match="parent"):
        add(lineage=Lineage(parent=1))
    assert registry.snapshots("flights") == []


def test_what_is_not_there_is_named_and_the_next_step_said(registry, add, model):
    for call in (
        lambda: registry.fleet("flights"),
        lambda: registry.snapshots("flights"),
        lambda: registry.describe("flights", owner="x", actor="ann"),
        lambda: registry.resolve("flights"),
        lambda: registry.promote("flights", 1, actor="ann"),
        lambda: registry.rollback("flights", actor="ann"),
        lambda: registry.aliases("flights"),
        lambda: registry.alias_history("flights"),
        lambda: registry.lineage("flights", 1),
        lambda: registry.model_history("flights", "x"),
        lambda: registry.add_snapshot("flights", digest="", models=(), model_count=0, lineage=Lineage(), actor="ann"),
    ):
        with pytest.raises(NotFound, match="no fleet 'flights'; `shoal fleets list`"):
            call()
    registry.create_fleet("flights", actor="ann")
    with pytest.raises(NotFound, match="no snapshot yet"):
        registry.resolve("flights")
    add((model,))
    with pytest.raises(NotFound, match="shoal promote flights:1 --alias champion"):
        registry.resolve("flights")
    with pytest.raises(NotFound, match="no alias 'challenger', and no other yet"):
        registry.resolve("flights@challenger")
    with pytest.raises(NotFound, match="no alias 'challenger', and no other yet"):
        registry.alias_history("flights", "challenger")
    for version in (2, 2**31 - 1):
        with pytest.raises(NotFound, match="newest is 1"):
            registry.resolve(f"flights:{version}")
    with pytest.raises(NotFound, match="never had a model 'x'"):
        registry.model_history("flights", "x")


def test_ten_thousand_models_are_one_quick_transaction(registry, add, model):
    models = tuple(dataclasses.replace(model, key_text=f"device={n}") for n in range(10_000))
    assert add(models).new_models == 10_000
    assert registry.model_history("flights", "device=9999")[0].model == models[-1]
    assert len(registry.audit()) == 2


def test_models_are_records(registry, add):
    add((ModelRecord(key_text="", level=(), family="affine"),))
    assert registry.model_history("flights", "")[0].model == ModelRecord(key_text="", level=(), family="affine")
