import getpass

import pytest


@pytest.mark.parametrize("snapshot", [("flights:3",), ("flights", "3"), ("flights@challenger",)])
def test_promoting(shoal, registry, snapshot):
    registry.promote("flights", 3, alias="challenger", actor="ann")
    result = shoal("promote", *snapshot, "--reason", "4% better", "--expected", "2")
    assert result.stdout == "flights@champion is flights:3 now; it was 2\n"
    change = registry.alias_history("flights", "champion")[0]
    assert (change.after, change.reason, change.actor) == (3, "4% better", getpass.getuser())


def test_promoting_to_a_new_alias(shoal_json, registry):
    change = shoal_json("promote", "flights:1", "--alias", "nightly")
    assert (change["alias"], change["before"], change["after"], change["move"]) == ("nightly", None, 1, "promote")
    assert registry.resolve("flights@nightly").version == 1


@pytest.mark.usefixtures("registry")
def test_promoting_what_is_not_clear_says_what_is_missing(shoal):
    assert "say which snapshot" in shoal("promote", "flights", code=1).stderr
    assert "leave 2 out" in shoal("promote", "flights:1", "2", code=1).stderr
    assert "not 1; look again" in shoal("promote", "flights:3", "--expected", "1", code=1).stderr
    assert "no snapshot 9" in shoal("promote", "flights:9", code=1).stderr


def test_the_actor_comes_from_the_environment(shoal, registry, monkeypatch):
    monkeypatch.setenv("SHOAL_ACTOR", "release-bot")
    shoal("promote", "flights:3")
    assert registry.alias_history("flights")[0].actor == "release-bot"


def test_rolling_back(shoal, shoal_json, registry):
    assert shoal_json("rollback", "flights", "--expected", "2")["after"] == 1
    assert "named nothing before 1" in shoal("rollback", "flights@champion", code=1).stderr
    assert "not a version" in shoal("rollback", "flights:1", code=1).stderr
    assert registry.resolve("flights").version == 1


@pytest.mark.usefixtures("registry")
def test_the_audit_is_verified(shoal, shoal_json, database):
    check = shoal_json("audit", "--verify")
    assert check["intact"]
    assert shoal_json("audit", "--verify", "--noted", check["newest"]) == check
    assert check["newest"] in shoal("audit", "--verify").stdout
    assert "noted" in shoal("audit", "--verify", "--noted", "x", code=1).stdout
    assert "--verify" in shoal("audit", "--noted", "x", code=1).stderr
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE audit_head SET number = number + 1")
    assert "the end was cut or changed" in shoal("audit", "--verify", code=1).stdout
