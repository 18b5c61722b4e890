"""Settings that all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.collectors import collector  # noqa: F401
from tests.databases import (  # noqa: F401
    databases,
    module_database,
    postgresql,
    postgresql_databases,
    sqlite_databases,
    sqlite_template,
)

# Two idle cores are rare where tests run, and OpenMP's threads spin while they wait for a core. Libraries read this
# when they are loaded, which is later than this file; processes that tests start inherit it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The database of the person who runs the tests is none of theirs; what a test or a module sets for itself stays.
os.environ.pop("SHOAL_DATABASE_URL", None)

# Compiling a kernel takes seconds the first time, which says nothing about the test that happens to be first.
settings.register_profile("shoal", deadline=None, max_examples=int(os.environ.get("SHOAL_TEST_EXAMPLES", "50")))
settings.load_profile("shoal")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or touches the home of the person who runs it."""
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
