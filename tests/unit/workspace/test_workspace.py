"""Registering, opening, promoting and collecting through the workspace."""

import dataclasses
import datetime as dt
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.client import questions
from shoal.errors import InvalidArtifact, InvalidInput, NotFound
from shoal.security.permissions import Role
from shoal.table.facts import ModelFacts

RNG = np.random.default_rng(5)


def fleet_of(slopes, name="stores"):
    models = {(store,): Ridge(alpha=1e-9).fit([[0.0], [1.0]], [0.0, slope]) for store, slope in slopes.items()}
    leaf = ("store",)
    facts = {(leaf, (store,)): ModelFacts(rows=7, metrics={"mae": slope / 10}) for store, slope in slopes.items()}
    return shoal.Fleet.from_estimators(
        keys=leaf, models=models, features=["x"], task="regression", facts=facts, name=name
    )


@pytest.fixture(autouse=True)
def _each_kind_of_database(databases, monkeypatch):
    """The whole workspace on SQLite and on PostgreSQL."""
    monkeypatch.setenv("SHOAL_DATABASE_URL", databases.migrated())


@pytest.fixture
def workspace(tmp_path):
    with shoal.open(tmp_path / "home", actor="ada") as opened:
        yield opened


def answers(fleet):
    return fleet.predict({"store": ["a", "b"], "x": [1.0, 1.0]})["prediction"].round(6).to_list()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.promote("stores", "2"), "'version' has to be the number of a snapshot, such as 3, not '2'"),
        (lambda w: w.promote("stores", True), "'version' has to be the number of a snapshot"),
        (lambda w: w.promote("stores", 2, expected="1"), "'expected' has to be the number of a snapshot"),
        (lambda w: w.promote("stores", 2, alias=5), "5 cannot name an alias"),
        (lambda w: w.promote("stores", 2, reason=5), "the reason has to be a text, not 5"),
        (lambda w: w.promote("stores", 2, idempotency_key=5), "the idempotency key has to be a text, not 5"),
        (lambda w: w.rollback("stores", expected=1.0), "'expected' has to be the number of a snapshot"),
        (lambda w: w.rollback("stores", alias=None), "None cannot name an alias"),
        (lambda w: w.registry.promote("stores", 2.0, actor="ada"), "'version' has to be the number"),
        (lambda w: w.set_serving("stores", pinned=True), "'pinned' has to be the number of a snapshot"),
        (lambda w: w.set_serving("stores", pinned="1"), "'pinned' has to be the number of a snapshot"),
        (lambda w: w.set_serving("stores", pinned=2**40), "'pinned' has to be the number of a snapshot"),
        (lambda w: w.set_serving("stores", loaded="no"), "'loaded' has to be true or false, not 'no'"),
        (lambda w: w.set_serving("stores", loaded=0), "'loaded' has to be true or false, not 0"),
        (lambda w: w.set_serving("stores", alias=5), "5 cannot name an alias"),
        (lambda w: w.set_serving("stores", []), r"a serving spec has fields, which \[\] has not"),
        (lambda w: w.set_serving("stores", 5), "a serving spec has fields, which 5 has not"),
    ],
)
def test_what_is_not_of_its_type_changes_nothing(workspace, change, words):
    for slope in (1, 2):
        workspace.promote("stores", workspace.register(fleet_of({"a": slope})).version)
    workspace.set_serving("stores", {"store": "durable"}, pinned=1)
    before = workspace.registry.audit()
    with pytest.raises(InvalidInput, match=words):
        change(workspace)
    assert workspace.registry.audit() == before
    assert workspace.serving("stores").store == "durable"


def test_register_open_promote_roll_back(workspace):
    first = workspace.register(fleet_of({"a": 1, "b": 2}), owner="ada", tags=["shops"], category="retail")
    assert (first.version, first.model_count, first.new_models) == (1, 2, 2)
    with pytest.raises(NotFound, match="promote"):
        workspace.fleet("stores")
    workspace.promote("stores", 1)
    assert answers(workspace.fleet("stores")) == [1, 2]
    second = workspace.register(workspace.fleet("stores").merge(fleet_of({"b": 5})), note="b is better")
    assert (second.version, second.model_count, second.new_models) == (2, 2, 1)
    assert answers(workspace.fleet("stores@champion")) == [1, 2]
    workspace.promote("stores", 2, reason="validated")
    assert answers(workspace.fleet("stores")) == [1, 5]
    assert workspace.fleet("stores").version == 2
    workspace.rollback("stores")
    assert answers(workspace.fleet("stores")) == [1, 2]
    assert answers(workspace.fleet("stores:2")) == [1, 5]
    actions = [entry.action for entry in workspace.registry.audit(limit=20)]
    assert actions[:2] == ["alias.rollback", "alias.promote"]
    assert actions.count("alias.promote") == 2
    assert workspace.registry.verify_audit().intact
    assert {entry.actor for entry in workspace.registry.audit()} == {"ada"}


def test_a_models_history_knows_the_snapshots_that_brought_it(workspace):
    workspace.register(fleet_of({"a": 1, "b": 2}))
    workspace.register(workspace.fleet("stores:1").merge(fleet_of({"b": 5})))
    history = workspace.registry.model_history("stores", "b")
    assert [version.version for version in history] == [2, 1]
    assert [version.model.metrics["mae"] for version in history] == [0.5, 0.2]
    assert [version.version for version in workspace.registry.model_history("stores", "a")] == [1]


def test_lineage_names_the_parent(workspace):
    workspace.register(fleet_of({"a": 1, "b": 2}))
    merged = workspace.fleet("stores:1").merge(fleet_of({"b": 5}))
    lineage = shoal.Lineage(parameters={"alpha": 1.0}, code_version="abc")
    workspace.register(merged, lineage=lineage)
    kept = workspace.registry.lineage("stores", 2)
    assert kept == dataclasses.replace(lineage, parent=1)


def test_registering_winners_writes_only_them(workspace, tmp_path):
    blocks = tmp_path / "home" / "store" / "blocks"
    workspace.register(fleet_of({f"s{i}": i for i in range(500)}))
    before = {path.name: path.stat().st_size for path in blocks.iterdir()}
    workspace.register(workspace.fleet("stores:1").merge(fleet_of({"s1": 100})))
    new = {path.name: path.stat().st_size for path in blocks.iterdir() if path.name not in before}
    assert len(new) == 1
    assert sum(new.values()) < sum(before.values()) / 5


def test_gc_keeps_what_aliases_and_their_history_name(workspace, tmp_path):
    for slope in (1, 2, 3, 4):
        workspace.register(fleet_of({"a": slope, "b": slope}))
    workspace.promote("stores", 2)
    workspace.promote("stores", 1)
    planned = workspace.gc(dry_run=True)
    collected = workspace.gc()
    assert len(collected.files) >= 2
    assert collected.size_bytes > 0
    assert set(planned.files) <= set(collected.files)
    for kept in (1, 2, 4):  # aliased, rollback target, newest
        assert answers(workspace.fleet(f"stores:{kept}")) == [kept, kept]
    with pytest.raises(NotFound, match="3"):
        workspace.fleet("stores:3")
    assert workspace.gc().files == ()


def test_a_crash_before_the_registry_knows_leaves_only_litter(workspace, tmp_path):
    """Killed between the files and the registry's transaction: nothing is visible, and gc cleans up."""
    script = f"""
import os, shoal
from shoal.registry import Registry
Registry.add_snapshot = lambda *a, **k: os.kill(os.getpid(), 9)
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_workspace import fleet_of
shoal.open({str(tmp_path / "home")!r}).register(fleet_of({{"a": 1, "b": 2}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert workspace.registry.snapshots("stores") == []
    assert len(workspace.gc().files) == 3
    workspace.register(fleet_of({"a": 1, "b": 2}))
    assert answers(workspace.fleet("stores:1")) == [1, 2]


def test_gc_waits_for_a_registration_that_is_under_way(workspace, monkeypatch):
    """The files are written but not yet named when gc comes: it must wait, not delete them."""
    written, go = threading.Event(), threading.Event()
    original = workspace.registry.add_snapshot

    def slow(*arguments, **options):
        written.set()
        assert go.wait(20)
        return original(*arguments, **options)

    monkeypatch.setattr(workspace.registry, "add_snapshot", slow)
    register = threading.Thread(target=workspace.register, args=(fleet_of({"a": 1, "b": 2}),))
    register.start()
    assert written.wait(20)
    collected = []
    gc = threading.Thread(target=lambda: collected.append(workspace.gc()))
    gc.start()
    gc.join(0.3)
    assert gc.is_alive()
    go.set()
    register.join()
    gc.join()
    assert collected[0].files == ()
    assert answers(workspace.fleet("stores:1")) == [1, 2]


def test_a_tampered_snapshot_is_refused(workspace, tmp_path):
    workspace.register(fleet_of({"a": 1, "b": 2}))
    path = next((tmp_path / "home" / "store" / "snapshots").iterdir())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"models"', b'"modelz"'))
    with pytest.raises(InvalidArtifact, match="sha256"):
        workspace.fleet("stores:1")


def test_reading_while_promoting_sees_one_snapshot_or_the_other(workspace):
    workspace.register(fleet_of({"a": 1, "b": 1}))
    workspace.register(fleet_of({"a": 2, "b": 2}))
    workspace.promote("stores", 1)
    stop = threading.Event()

    def flip():
        version = 1
        while not stop.is_set():
            version = 3 - version
            workspace.promote("stores", version)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        seen = {tuple(answers(workspace.fleet("stores"))) for _ in range(40)}
    finally:
        stop.set()
        thread.join()
    assert seen <= {(1, 1), (2, 2)}


def test_export_list():
    assert sorted(shoal.__all__) == sorted(
        [
            "FeatureKind", "Fleet", "KeyType", "Lineage", "Model", "ModelFacts", "Outcome", "Task", "Workspace",
            "__version__", "connect", "connect_async", "errors", "open",
        ]
    )  # fmt: skip
    for name in shoal.__all__:
        assert getattr(shoal, name) is not None
    assert isinstance(shoal.open, type(test_export_list))


def test_a_fleet_keeps_its_key_columns_and_its_task(workspace):
    workspace.register(fleet_of({"a": 1}))
    model = Ridge().fit([[0.0], [1.0]], [0.0, 1.0])
    other = shoal.Fleet.from_estimators(keys=["shop"], models={("a",): model}, features=["x"], task="regression")
    with pytest.raises(InvalidInput, match="another name"):
        workspace.register(other, "stores")
    assert [snapshot.version for snapshot in workspace.registry.snapshots("stores")] == [1]


def test_lineage_says_which_code_and_libraries_unless_told(workspace):
    workspace.register(fleet_of({"a": 1}))
    lineage = workspace.registry.lineage("stores", 1)
    assert lineage.code_version.startswith("shoal ")
    assert "scikit-learn" in lineage.libraries


@pytest.mark.parametrize("role", ["predictor", Role.PREDICTOR])
def test_a_key_is_made_for_a_role_or_its_name(workspace, role):
    assert workspace.create_key("shop", role).record.role is Role.PREDICTOR
    [kept] = workspace.registry.keys()
    assert kept.role is Role.PREDICTOR


NO_LIVES = [0, -1.0, 1e10, 1e300, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("expires_s", NO_LIVES)
def test_a_time_that_no_key_can_be_taken_is_refused_here_and_by_clients(workspace, expires_s):
    key = workspace.create_key("shop", "reader").record.id
    for make in (
        lambda: workspace.create_key("shop", "reader", expires_s=expires_s),
        lambda: workspace.rotate_key(key, expires_s=expires_s),
        lambda: questions.create_key("shop", "reader", expires_s),
        lambda: questions.rotate_key(key, 1, expires_s),
    ):
        with pytest.raises(InvalidInput, match="100 years"):
            make()
    for overlap_s in set(NO_LIVES) - {0}:
        for rotate in (lambda s: workspace.rotate_key(key, overlap_s=s), lambda s: questions.rotate_key(key, s, None)):
            with pytest.raises(InvalidInput, match="a year"):
                rotate(overlap_s)
    [kept] = workspace.registry.keys()
    assert kept.id == key


def test_predictions_are_asked_for_by_times_that_there_are(workspace):
    beyond = dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=1)))
    workspace.register(fleet_of({"a": 1}))
    for ask in (
        lambda: workspace.predictions.listed(since=beyond),
        lambda: workspace.predictions.listed(until=dt.datetime(2026, 1, 31)),
        lambda: workspace.predictions.purge("stores", before=beyond),
    ):
        with pytest.raises(InvalidInput, match=r"is no time|time zone"):
            ask()


@pytest.mark.parametrize("role", ["Predictor", "root", "", None])
def test_a_role_that_there_is_not_is_refused_with_those_that_there_are(workspace, role):
    for make in (workspace.create_key, lambda name, role: questions.create_key(name, role, None)):
        with pytest.raises(InvalidInput, match="use one of predictor, reader, operator, admin"):
            make("shop", role)
    assert workspace.registry.keys() == []
