import pytest

import shoal
from shoal.serving import contact
from shoal.serving.options import ServingOptions

OPTIONS = ServingOptions(poll_s=0.02)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A busy machine may keep a process from asking the registry for seconds; it is not away for that."""
    monkeypatch.setattr(contact, "SLOW_S", 60.0)


@pytest.fixture
def workspace(tmp_path):
    with shoal.open(tmp_path / "home", actor="ada") as opened:
        yield opened


@pytest.fixture
def publish(workspace):
    """Registers fleets and promotes what was registered."""

    def register(*fleets):
        for fleet in fleets:
            version = workspace.register(fleet).version
            workspace.promote(fleet.name, version)
        return workspace

    return register
