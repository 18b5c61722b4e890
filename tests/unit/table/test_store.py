"""Fleets on disk: what was changed, cut, or crafted is refused before a kernel sees it."""

import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from shoal.errors import InvalidArtifact, NotFound
from shoal.fleet import Fleet
from shoal.kernels.program import Op
from shoal.table.block import METADATA_KEY

RNG = np.random.default_rng(3)


def forest(X, y):
    return RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, y)


def machine(X, y):
    return make_pipeline(StandardScaler(), SVC()).fit(X, y)


def encoded(X, y):
    X = np.column_stack([np.round(X[:, 0]), X[:, 1]])
    return make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), [0]), remainder="passthrough"),
        LogisticRegression(),
    ).fit(X, y)


def saved(folder, make):
    models = {}
    for store in ("a", "b", "c"):
        X = RNG.normal(size=(40, 2))
        models[store,] = make(X, np.where(X[:, 0] > 0, "up", "down"))
    Fleet.from_estimators(keys=["store"], models=models, features=["x", "y"], task="classification").save(folder)
    return folder


def rewrite(folder, kind, change):
    """Change a stored file and make everything around it consistent again, as a patient attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest[{"blocks": "blocks", "indexes": "segments"}[kind]][0]
    path = folder / kind / f"{entry['digest']}.arrow"
    batch = pa.ipc.open_file(pa.OSFile(str(path))).get_batch(0)
    changed = change(batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, changed.schema) as writer:
        writer.write_batch(changed)
    data = sink.getvalue().to_pybytes()
    entry["digest"], entry["size_bytes"] = hashlib.sha256(data).hexdigest(), len(data)
    if kind == "blocks":
        entry["models"] = changed.num_rows
    (folder / kind / f"{entry['digest']}.arrow").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def column(batch, name, change):
    """Replace the numbers of a (list) column."""
    at = batch.schema.get_field_index(name)
    old = batch.column(at)
    if pa.types.is_fixed_size_list(old.type):
        values = change(old.values.to_numpy(zero_copy_only=False).copy().reshape(len(old), -1))
        new = pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1), type=old.type.value_type), old.type.list_size
        )
    elif pa.types.is_large_list(old.type):
        new = pa.LargeListArray.from_arrays(
            old.offsets, pa.array(change(old.values.to_numpy().copy()), type=old.type.value_type)
        )
    else:
        new = pa.array(change(old.to_numpy().copy()), type=old.type)
    return pa.record_batch([*batch.columns[:at], new, *batch.columns[at + 1 :]], schema=batch.schema)


def retyped(name, values):
    """Replace the list column of this name, or the first of such a beginning, by a list of other values."""

    def change(batch):
        at = next(i for i, field in enumerate(batch.schema) if field.name.startswith(name))
        old, flat = batch.column(at), pa.array(values)
        flat = flat.take(pa.array(np.zeros(len(old.values), dtype=np.int64)))
        if pa.types.is_large_list(old.type):
            new = pa.LargeListArray.from_arrays(old.offsets, flat)
        else:
            new = pa.FixedSizeListArray.from_arrays(flat, old.type.list_size)
        columns = [*batch.columns[:at], new, *batch.columns[at + 1 :]]
        made = pa.record_batch(columns, names=batch.schema.names)
        return made.replace_schema_metadata(batch.schema.metadata)

    return change


def header(batch, change):
    content = json.loads(batch.schema.metadata[METADATA_KEY])
    change(content)
    return batch.replace_schema_metadata({METADATA_KEY: json.dumps(content)})


def first_ragged(batch):
    return next(name for name in batch.schema.names if name.startswith("ragged."))


def step(number, field, value):
    def change(batch):
        def edit(content):
            content["layout"]["program"][number][field] = value

        return header(batch, edit)

    return change


def onehot_target(batch):
    content = json.loads(batch.schema.metadata[METADATA_KEY])
    _, _, _, _, slot, count, _ = next(s for s in content["layout"]["program"] if s[0] == Op.ONEHOT)

    def point_far_away(numbers):
        numbers[0, slot + 1 + count] = 1e6
        return numbers

    return column(batch, "transform", point_far_away)


def layout(**fields):
    return lambda batch: header(batch, lambda content: content["layout"].update(fields))


CRAFTED_BLOCKS = {
    "unknown operation": (machine, step(0, 0, 99)),
    "load of a feature that is not there": (machine, step(0, 1, 2)),
    "negative source": (machine, step(0, 1, -1)),
    "write out of the scratch": (machine, step(0, 2, 10_000)),
    "slot out of range": (machine, step(2, 4, 10_000)),
    "named feature out of range": (machine, step(0, 6, 77)),
    "one-hot entry out of its columns": (encoded, onehot_target),
    "estimator reads behind the scratch": (machine, layout(width=500)),
    "negative first column": (machine, layout(first=-1)),
    "huge scratch": (machine, layout(scratch=2**40)),
    "unknown family": (machine, layout(family="os.system")),
    "no features": (machine, layout(features=[])),
    "class out of range": (machine, lambda b: column(b, "classes", lambda v: v + 7)),
    "negative class": (machine, lambda b: column(b, "classes", lambda v: v - 1)),
    "labels not sorted": (machine, lambda b: header(b, lambda c: c.update(labels=["up", "down"]))),
    "shape that does not fit": (
        machine,
        lambda b: header(b, lambda c: c["shapes"].update({k: [3, 5, 7] for k in c["shapes"]})),
    ),
    "negative shape": (machine, lambda b: header(b, lambda c: c["shapes"].update({k: [-1, -1] for k in c["shapes"]}))),
    "truth values for numbers": (machine, retyped("transform", [True])),
    "times for numbers": (machine, retyped("transform", [dt.timedelta(1)])),
    "texts for numbers": (machine, retyped("transform", ["one"])),
    "truth values for numbers of unequal count": (machine, retyped("ragged.", [True])),
    "times for numbers of unequal count": (machine, retyped("ragged.", [dt.timedelta(1)])),
    "level mask of no column": (machine, lambda b: column(b, "level", lambda v: v + 64)),
    "format of the future": (machine, lambda b: header(b, lambda c: c.update(format=999))),
    "unknown field in the metadata": (machine, lambda b: header(b, lambda c: c.update(run="rm -rf"))),
    "no metadata": (machine, lambda b: b.replace_schema_metadata({})),
    "fewer rows than the manifest's index": (machine, lambda b: b.slice(0, 1)),
}


@pytest.mark.parametrize("name", CRAFTED_BLOCKS)
def test_a_crafted_block_is_refused(tmp_path, name):
    make, change = CRAFTED_BLOCKS[name]
    folder = saved(tmp_path / "fleet", make)
    rewrite(folder, "blocks", change)
    with pytest.raises(InvalidArtifact):
        Fleet.load(folder)


def entry(number, change):
    def edit(numbers):
        numbers[:, number] = change(numbers[:, number])
        return numbers

    return lambda batch: column(batch, "entry", edit)


CRAFTED_INDEXES = {
    "place behind the end": entry(1, lambda v: v + np.uint64(1000)),
    "block that is not there": entry(1, lambda v: v | (np.uint64(9) << np.uint64(32))),
    "hashes not sorted": lambda b: b.take(pa.array(range(b.num_rows)[::-1])),
    "hashes not of the keys": entry(0, lambda v: np.sort(v + np.uint64(1))),
    "key starts elsewhere": entry(2, lambda v: v + np.uint64(1)),
    "key stops behind the end": entry(3, lambda v: v + np.uint64(10**9)),
    "other columns": lambda b: b.rename_columns(["entry", "code"]),
}


@pytest.mark.parametrize("name", CRAFTED_INDEXES)
def test_a_crafted_index_is_refused(tmp_path, name):
    folder = saved(tmp_path / "fleet", machine)
    rewrite(folder, "indexes", CRAFTED_INDEXES[name])
    with pytest.raises(InvalidArtifact):
        Fleet.load(folder)


def test_opening_and_asking_a_fleet_does_not_bring_pandas(tmp_path):
    """Where it is installed, importing it would take a quarter of a second and 40 MiB of every worker."""
    folder = saved(tmp_path / "fleet", machine)
    script = f"""
import sys
from shoal import Fleet
fleet = Fleet.load({str(folder)!r})
rows = {{"store": ["a", "nobody", None], "x": [0.5, 1.0, 2.0], "y": [None, 1.0, 2.0]}}
assert fleet.predict(rows, outcome=True, model_level=True).height == 3
sys.exit("pandas" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_untouched_rewrite_is_accepted(tmp_path):
    """The crafting itself is not what the tests above refuse."""
    folder = saved(tmp_path / "fleet", machine)
    rewrite(folder, "blocks", lambda batch: batch)
    rewrite(folder, "indexes", lambda batch: batch)
    assert len(Fleet.load(folder)) == 3


@pytest.mark.parametrize("kind", ["blocks", "indexes"])
def test_one_changed_byte_is_refused_also_after_a_first_opening(tmp_path, kind):
    folder = saved(tmp_path / "fleet", machine)
    Fleet.load(folder)
    path = next((folder / kind).iterdir())
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # dated back, as if nothing had happened
    with pytest.raises(InvalidArtifact, match="changed"):
        Fleet.load(folder)


@pytest.mark.parametrize("kind", ["blocks", "indexes"])
@pytest.mark.parametrize("length", [0, 100])
def test_a_cut_file_is_refused(tmp_path, kind, length):
    folder = saved(tmp_path / "fleet", machine)
    path = next((folder / kind).iterdir())
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(length)
    with pytest.raises(InvalidArtifact, match="changed"):
        Fleet.load(folder)


def test_a_missing_file_or_fleet_is_named(tmp_path):
    folder = saved(tmp_path / "fleet", machine)
    next((folder / "blocks").iterdir()).unlink()
    with pytest.raises(InvalidArtifact, match="missing"):
        Fleet.load(folder)
    with pytest.raises(NotFound, match="no such fleet"):
        Fleet.load(tmp_path / "nothing")


def test_offsets_behind_the_values_are_refused(tmp_path):
    """Arrow's writer would not write them, so the bytes of the file are changed."""
    folder = saved(tmp_path / "fleet", forest)
    path = next((folder / "blocks").iterdir())
    batch = pa.ipc.open_file(pa.OSFile(str(path))).get_batch(0)
    offsets = batch.column(first_ragged(batch)).offsets.to_numpy()
    far = offsets.copy()
    far[-1] += 10**6
    data = path.read_bytes().replace(offsets.tobytes(), far.tobytes())
    digest = hashlib.sha256(data).hexdigest()
    path.with_name(f"{digest}.arrow").write_bytes(data)
    edit_manifest(folder, lambda m: m["blocks"][0].update(digest=digest))
    with pytest.raises(InvalidArtifact, match=r"offsets|damaged"):
        Fleet.load(folder)


def edit_manifest(folder, change):
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


MANIFESTS = {
    "path as digest": lambda m: m["blocks"][0].update(digest="../../../etc/passwd"),
    "segment of no block": lambda m: m["segments"][0].update(blocks=[5]),
    "format of the future": lambda m: m.update(format=2),
    "other task": lambda m: m.update(task="regression"),
    "unknown task": lambda m: m.update(task="magic"),
    "level of no column": lambda m: m.update(levels=[["ghost"]]),
    "label missing": lambda m: m.update(labels=["down"]),
    "feature missing": lambda m: m.update(features=[]),
    "unknown field": lambda m: m.update(loader="pickle"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_crafted_manifest_is_refused(tmp_path, name):
    folder = saved(tmp_path / "fleet", machine)
    edit_manifest(folder, MANIFESTS[name])
    with pytest.raises(InvalidArtifact):
        Fleet.load(folder)


def test_a_second_opening_does_not_check_again(tmp_path, monkeypatch):
    folder = saved(tmp_path / "fleet", machine)
    Fleet.load(folder)
    monkeypatch.setattr("shoal.table.store.validate_block", lambda block: pytest.fail("checked again"))
    Fleet.load(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(pytest.fail.Exception):
        Fleet.load(copy)  # another file, even with the same content, is another file


def test_a_full_disk_is_a_storage_error_and_leaves_nothing_visible(tmp_path):
    script = f"""
import resource, sys
sys.path.insert(0, {str(tmp_path)!r})
from pathlib import Path
from shoal.errors import StorageError
from shoal.fleet import Fleet
fleet = Fleet.load({str(saved(tmp_path / "fleet", forest))!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    fleet.save({str(tmp_path / "full")!r})
except StorageError as error:
    print("refused:", error)
print(sorted(str(p) for p in Path({str(tmp_path / "full")!r}).rglob("*") if p.is_file()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_fleet_on_a_read_only_cache_still_opens(tmp_path, monkeypatch):
    folder = saved(tmp_path / "fleet", machine)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("SHOAL_HOME", str(blocked))
    assert len(Fleet.load(folder)) == 3


def test_manifest_is_readable_json(tmp_path):
    folder = saved(tmp_path / "fleet", machine)
    content = msgspec.json.decode((folder / "manifest.json").read_bytes())
    assert content["keys"] == [{"name": "store", "type": "string"}]
    assert content["outputs"][0] == {"name": "prediction", "type": "string"}
    assert content["models"] == 3
