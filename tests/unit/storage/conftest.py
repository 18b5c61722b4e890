from pathlib import Path

import pytest

from shoal.storage.sql import Database


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'db' / 'shoal.db'}"


@pytest.fixture
def database(url: str) -> Database:
    database = Database(url)
    database.migrate()
    return database
