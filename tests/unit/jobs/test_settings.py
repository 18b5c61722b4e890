import dataclasses
import os
from pathlib import Path

import pytest

from shoal.settings import DOCUMENTED, Settings


def test_without_an_environment_everything_lies_below_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings.home == tmp_path / ".shoal"
    assert settings.database_url == f"sqlite:///{tmp_path}/.shoal/shoal.db"
    assert settings.actor


def test_the_environment_decides_and_the_argument_more_so(tmp_path):
    environment = {"SHOAL_HOME": "/srv/shoal", "SHOAL_DATABASE_URL": "postgresql://db/x", "SHOAL_ACTOR": "ann"}
    settings = Settings.from_environment(environment)
    assert settings == Settings(home=Path("/srv/shoal"), database_url="postgresql://db/x", actor="ann")
    assert Settings.from_environment(environment, home=tmp_path).home == tmp_path


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("SHOAL_HOME", "~/fleets")
    monkeypatch.setenv("SHOAL_DATABASE_URL", "")
    settings = Settings.from_environment()
    assert settings.home == Path.home() / "fleets"
    assert settings.database_url == f"sqlite:///{Path.home()}/fleets/shoal.db"


def test_a_user_without_a_name_is_a_number(monkeypatch):
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert Settings.from_environment({}).actor == f"uid-{os.getuid()}"


def test_settings_do_not_change_and_each_is_documented():
    settings = Settings.from_environment({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.actor = "bob"  # type: ignore[misc]
    variables = {f"SHOAL_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    assert variables <= set(DOCUMENTED)
