import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shoal.cli import main
from shoal.registry import Lineage, ModelRecord, Registry
from shoal.storage.sql import Database

Shoal = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def database(home: Path) -> Database:
    database = Database(f"sqlite:///{home / 'shoal.db'}")
    database.migrate()
    return database


@pytest.fixture
def registry(database: Database) -> Registry:
    """A registry in the home with one fleet of three snapshots, two of them promoted."""
    registry = Registry(database)
    registry.create_fleet("flights", owner="ops", category="air", tags=["demo"], actor="ann")
    model = ModelRecord(key_text="LAX", level=("dest",), family="affine", rows=60, metrics={"mae": 8.25})
    for number in range(3):
        lineage = Lineage(parent=number or None, parameters={"alpha": number})
        registry.add_snapshot(
            "flights", digest=f"d{number}", models=[model], model_count=9, lineage=lineage, actor="ann"
        )
    registry.promote("flights", 1, actor="ann", reason="first")
    registry.promote("flights", 2, actor="bob", reason="better")
    return registry


@pytest.fixture
def shoal(home: Path) -> Shoal:
    """Calls the command line with the home; output and errors apart."""

    def call(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["--home", str(home), *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    return call


@pytest.fixture
def shoal_json(shoal: Shoal) -> Callable[..., object]:
    def call(*arguments: object) -> object:
        return json.loads(shoal(*arguments, "--json").stdout)

    return call
