"""Training and serving with one lookup: the same features in both, and none from the future."""

import asyncio
import contextlib
import datetime as dt
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl
import psycopg
import pytest
from click.testing import CliRunner
from sklearn.linear_model import Ridge

import shoal
from shoal.cli import main
from shoal.errors import InvalidInput, InvalidSpec
from shoal.serving.messages import Datatype, InferenceRequest, RequestContext, Tensor
from shoal.types import Label
from tests.databases import PostgresqlServer

SHOPS = ("a", "b", "c")
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0, tzinfo=None)
DEFAULT = -1.0
RIDGE = {"sklearn.linear_model.Ridge": {"alpha": 0.5}}


def history(rng: np.random.Generator) -> list[tuple[str, dt.datetime, float | None]]:
    """When the size of each shop changed; also after now, which nobody may see yet."""
    hours = sorted(rng.choice(2000, size=60, replace=False).tolist())
    rows = [
        (SHOPS[int(rng.integers(2))], NOW + dt.timedelta(hours=int(h) - 1900), float(rng.normal(5, 2))) for h in hours
    ]
    return [(shop, at, None if i % 9 == 8 else size) for i, (shop, at, size) in enumerate(rows)]


def size_at(past: list[tuple[str, dt.datetime, float | None]], shop: str, at: dt.datetime) -> float:
    """The plain way: go through all that was known by then."""
    size: float | None = None
    for one, since, value in past:
        if one == shop and since <= at:
            size = value
    return DEFAULT if size is None else size


def visits(rng: np.random.Generator, past: list[tuple[str, dt.datetime, float | None]]) -> pl.DataFrame:
    times = [NOW - dt.timedelta(hours=float(h)) for h in rng.uniform(1, 2000, size=240)]
    shops = [SHOPS[i % 3] for i in range(240)]
    sizes = [size_at(past, shop, at) for shop, at in zip(shops, times, strict=True)]
    x = rng.normal(size=240)
    y = 2 * np.array(sizes) + x + rng.normal(scale=0.01, size=240)
    return pl.DataFrame({"shop": shops, "at": times, "x": x, "y": y, "truth": sizes})


def published(
    kind: str, rows: list[tuple[str, dt.datetime, float | None]], folder: Path, server: PostgresqlServer
) -> object:
    if kind == "parquet":
        frame = pl.DataFrame(
            rows, schema={"name": pl.String, "since": pl.Datetime("us"), "size": pl.Float64}, orient="row"
        )
        frame.sample(fraction=1, shuffle=True, seed=2).write_parquet(folder / "shops.parquet")
        return {"kind": "parquet", "path": str(folder / "shops.parquet")}
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(folder / "shops.db")) as connection, connection:
            connection.execute("CREATE TABLE shops (name TEXT, since TEXT, size REAL)")
            connection.executemany("INSERT INTO shops VALUES (?, ?, ?)", [(n, str(s), z) for n, s, z in rows])
        return {"kind": "sql", "url": f"sqlite:///{folder / 'shops.db'}", "table": "shops"}
    database = server.create()
    with psycopg.connect(server.url(database)) as connection:
        connection.execute("CREATE TABLE shops (name text, since timestamp, size double precision)")
        connection.cursor().executemany("INSERT INTO shops VALUES (%s, %s, %s)", rows)
    return {"kind": "sql", "url": server.url(database), "table": "shops"}


def spec_of(input_: Path, **changes: object) -> dict[str, object]:
    lookup = {
        "source": "shops", "keys": {"shop": "name"}, "features": ["size"], "as_of": "since", "time": "at",
        "defaults": {"size": DEFAULT},
    }  # fmt: skip
    return {
        "fleet": "visits", "input": str(input_), "keys": ["shop"], "features": ["x", "size"], "target": "y",
        "task": "regression", "candidates": [{"name": "ridge", "steps": [RIDGE]}],
        "keep": {"rule": "always"}, "refit": True, "processes": 1, "promote": True, "lookup": {**lookup, **changes},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "sqlite", "postgresql"])
def test_a_key_alone_is_answered_with_the_features_that_training_would_use_now(
    kind: str, tmp_path: Path, postgresql: PostgresqlServer
) -> None:
    rng = np.random.default_rng(7)
    past = history(rng)
    rows = visits(rng, past)
    rows.drop("truth").write_parquet(tmp_path / "visits.parquet")
    with shoal.open(tmp_path / "home") as workspace:
        workspace.set_source("shops", published(kind, past, tmp_path, postgresql))  # type: ignore[arg-type]
        trained = workspace.train(spec_of(tmp_path / "visits.parquet"))  # type: ignore[arg-type]
        truth = {
            shop: Ridge(alpha=0.5).fit(
                rows.filter(shop=shop).select("x", "truth").to_numpy(), rows.filter(shop=shop)["y"]
            )
            for shop in SHOPS
        }
        again = trained.fleet.predict(rows.rename({"truth": "size"}))["prediction"]
        for shop in SHOPS:
            mine = rows.filter(shop=shop)
            np.testing.assert_allclose(
                again.filter(rows["shop"] == shop), truth[shop].predict(mine.select("x", "truth").to_numpy()), rtol=1e-9
            )
        job = {
            "fleet": "visits", "input": str(tmp_path / "visits.parquet"), "output": str(tmp_path / "scored.parquet"),
            "serving": {"lookup": {"on_failure": "fail"}}, "time": "at", "shard_rows": 50, "carry": ["size"],
        }  # fmt: skip
        workspace.score(job)  # type: ignore[arg-type]
        scored = pl.read_parquet(tmp_path / "scored.parquet")
        assert scored["prediction"].to_list() == again.to_list()
        assert scored["size"].to_list() == rows["truth"].to_list()
        served = workspace.set_serving("visits", {"lookup": {"timeout_ms": 10_000, "on_failure": "fail"}})
        assert served.lookup is not None
        assert served.lookup.as_of == "since"
        answers = asyncio.run(asked(workspace, [0.5, 0.5, -1.0]))
        now = [[x, size_at(past, shop, NOW)] for x, shop in zip((0.5, 0.5, -1.0), SHOPS, strict=True)]
        expected = [truth[shop].predict([row])[0] for shop, row in zip(SHOPS, now, strict=True)]
        np.testing.assert_allclose(np.array(answers, dtype=float), expected, rtol=1e-9)


async def asked(workspace: "shoal.Workspace", x: list[float]) -> list[Label]:
    plane = workspace.data_plane(["visits"])
    await plane.start()
    try:
        request = InferenceRequest(
            model="visits",
            inputs=(
                Tensor(name="shop", datatype=Datatype.BYTES, shape=(3,), data=list(SHOPS)),
                Tensor(name="x", datatype=Datatype.FP64, shape=(3,), data=x),
            ),
        )
        response = await plane.infer(request, RequestContext(request_id="r", principal="p"))
    finally:
        await plane.drain(1)
    (prediction,) = (output for output in response.outputs if output.name == "prediction")
    return list(prediction.data)  # type: ignore[arg-type]


def test_serving_may_not_differ_from_training(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    rng = np.random.default_rng(8)
    past = history(rng)
    visits(rng, past).write_parquet(tmp_path / "visits.parquet")
    with shoal.open(tmp_path / "home") as workspace:
        workspace.set_source("shops", published("parquet", past, tmp_path, postgresql))  # type: ignore[arg-type]
        workspace.train(spec_of(tmp_path / "visits.parquet"))  # type: ignore[arg-type]
        alike = {"source": "shops", "keys": {"shop": "name"}, "features": ["size"], "as_of": "since"}
        with pytest.raises(InvalidSpec, match=r"field 'lookup.defaults' is None, but the models were trained with"):
            workspace.set_serving("visits", {"lookup": alike})
        with pytest.raises(InvalidSpec, match=r"field 'lookup.max_age_s' is 5.0, but"):
            workspace.set_serving("visits", {"lookup": {**alike, "defaults": {"size": DEFAULT}, "max_age_s": 5}})
        fast = {"source": "fast", "keys": {"shop": "shop"}, "features": ["size"], "defaults": {"size": DEFAULT}}
        workspace.set_source("fast", {"kind": "redis", "url": "redis://h", "key": "shop:{shop}"})
        workspace.set_serving("visits", {"lookup": fast})


def test_the_plan_looks_up_and_says_what_is_wrong(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    rng = np.random.default_rng(9)
    past = history(rng)
    visits(rng, past).drop("truth").write_parquet(tmp_path / "visits.parquet")
    file = tmp_path / "spec.yaml"

    def planned(**changes: object) -> str:
        file.write_text(__import__("json").dumps(spec_of(tmp_path / "visits.parquet", **changes)))
        answer = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "train", str(file), "--dry-run"])
        return answer.output + answer.stderr

    assert "no source 'shops'" in planned()
    with shoal.open(tmp_path / "home") as workspace:
        workspace.set_source("shops", published("sqlite", past, tmp_path, postgresql))  # type: ignore[arg-type]
        workspace.set_source("fast", {"kind": "redis", "url": "redis://h", "key": "{name}"})
    assert "240" in planned()
    assert "keeps no history" in planned(source="fast")
    assert "which 'lookup' goes by" in planned(time="when")
    assert "'shop' is String, not a date or time" in planned(time="shop")
    assert "so that no row sees its future" in planned(time=None)
    assert "needs 'as_of'" in planned(as_of=None)
    assert "no such column: shops.sighs" in planned(features={"size": "sighs"})
    assert "'speed' is not among the features" in planned(features=["speed"], defaults={})


def test_without_a_workspace_there_are_no_sources(tmp_path: Path) -> None:
    from shoal.training.plan import plan

    rng = np.random.default_rng(9)
    visits(rng, history(rng)).drop("truth").write_parquet(tmp_path / "visits.parquet")
    with pytest.raises(InvalidInput, match=r"train with Workspace\.train"):
        plan(spec_of(tmp_path / "visits.parquet"))
