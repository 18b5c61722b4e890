import pytest

from shoal.serving import contact


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A busy machine may keep a process from asking the registry for seconds; it is not away for that."""
    monkeypatch.setattr(contact, "SLOW_S", 60.0)
