import importlib.metadata
import os
import pty
import signal
import subprocess
import sys
import time

import click
import pytest

from shoal.cli import VERBS, main
from shoal.errors import NotFound

CALL = "import sys; from shoal.cli import main; main(sys.argv[1:])"


def run(*arguments: str, code: str = CALL) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_imported_and_explains_itself(shoal, verb):
    command = main.get_command(click.Context(main), verb)
    assert command.name == verb
    for each in [command, *getattr(command, "commands", {}).values()]:
        assert each.help
        assert each.get_short_help_str()
    assert "Usage:" in shoal(verb, "--help").stdout


NOTHING_HEAVY = """
import sys
from shoal.cli import main
main(["--help"], standalone_mode=False)
heavy = {"polars", "numba", "sqlalchemy", "pyarrow", "sklearn", "alembic"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_names_every_verb_and_imports_none():
    done = run(code=NOTHING_HEAVY)
    assert done.returncode == 0, done.stderr
    for verb, (_, summary) in VERBS.items():
        assert verb in done.stdout
        assert summary.split()[0] in done.stdout


def test_the_version_is_the_package_s():
    assert run("--version").stdout == f"shoal {importlib.metadata.version('shoal')}\n"


@pytest.mark.parametrize(
    "arguments", [(), ("nothing",), ("--nothing",), ("promote",), ("runs", "show"), ("runs", "list", "--limit", "0")]
)
def test_wrong_usage_exits_with_2_and_says_how_to_get_help(shoal, arguments):
    result = shoal(*arguments, code=2)
    assert "Usage:" in result.stderr
    assert result.stdout == ""


def test_an_error_of_ours_is_one_line_and_exits_with_1(shoal):
    shoal("fleets", "list")
    result = shoal("fleets", "show", "flights", code=1)
    assert result.stdout == ""
    assert result.stderr == "Error: there is no fleet 'flights'; `shoal fleets list` shows those there are\n"


def test_debug_shows_where_an_error_came_from(home):
    done = run("--home", str(home), "--debug", "fleets", "show", "flights")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "NotFound" in done.stderr


def test_an_error_of_several_lines_becomes_one(shoal, monkeypatch):
    def broken(*_: object) -> None:
        raise NotFound("one\ntwo")

    monkeypatch.setattr("shoal.cli.invocation.Invocation.workspace", broken)
    assert shoal("fleets", "list", code=1).stderr == "Error: one two\n"


def test_a_home_that_cannot_be_is_one_line(tmp_path, shoal):
    (tmp_path / "home").write_text("a file")
    result = shoal("fleets", "list", code=2)
    assert "is a file" in result.stderr


def test_interrupting_exits_with_130():
    code = (
        "import time; from shoal.cli import invocation, main\n"
        "def wait(self):\n    print('waiting', flush=True); time.sleep(60)\n"
        "invocation.Invocation.workspace = wait\nmain(['fleets', 'list'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "\nInterrupted.\n"


def test_only_a_terminal_gets_colours(home, registry):
    arguments = [sys.executable, "-c", CALL, "--home", str(home), "fleets", "list"]
    forced = {**os.environ, "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color"}
    piped = subprocess.run(arguments, capture_output=True, text=True, env=forced, check=True).stdout
    assert "\x1b" not in piped
    assert "flights" in piped
    assert "\x1b" in on_a_terminal(arguments)


def on_a_terminal(arguments: list[str]) -> str:
    parent, child = pty.openpty()
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color"}
    process = subprocess.Popen(arguments, stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    process.wait(timeout=30)
    os.close(parent)
    return shown.decode()
