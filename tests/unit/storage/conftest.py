import pytest

from shoal.storage.sql import Database
from tests.databases import Databases


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.migrated()


@pytest.fixture
def database(url: str) -> Database:
    return Database(url)
