"""The documents are true: what they show runs, and nothing a user can reach goes unmentioned."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shoal.batch.spec import ScoreSpec
from shoal.cli import main
from shoal.settings import DOCUMENTED
from shoal.training import spec as training

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
CAPABILITIES = (ROOT / "docs" / "capabilities.md").read_text()
SOURCES = [path.read_text() for path in sorted((ROOT / "src").rglob("*.py"))]

PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")
ROW = re.compile(r"^\| ([A-F]\d+a?b?c?) \|(.*)\|$", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(group: click.Group, prefix: str = "shoal") -> Iterator[tuple[str, click.Command]]:
    """Every command that a user can type, with the words that reach it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        elif command is not None and not command.hidden:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(main))


def section(command: str) -> str:
    """What the reference says about a command."""
    found = re.search(rf"^### `{command}[ `].*?(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference.md has no section for {command!r}: add '### `{command} ...`'"
    return found[0]


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON.search(page.read_text())], ids=name_of)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    program = "\n".join(PYTHON.findall(page.read_text()))
    exec(compile(program, name_of(page), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command):
    options = [option for p in COMMANDS[command].params if isinstance(p, click.Option) for option in p.opts]
    words = section(command)
    assert [option for option in options if option.startswith("--") and f"`{option}" not in words] == []


def test_no_command_is_documented_that_is_not_there():
    assert set(re.findall(r"^### `(shoal [a-z ]*[a-z])", REFERENCE, re.MULTILINE)) <= set(COMMANDS)


def test_every_setting_is_documented():
    read = {name for source in SOURCES for name in re.findall(r"\bSHOAL_[A-Z_]*[A-Z]\b", source)}
    assert read == set(DOCUMENTED), "shoal.settings.DOCUMENTED must name each variable that Shoal reads"
    assert [name for name in DOCUMENTED if f"| `{name}` |" not in REFERENCE] == []


@pytest.mark.parametrize(
    "spec",
    [ScoreSpec, training.TrainSpec, training.Split, training.Outliers, training.Candidate, training.Keep],
    ids=lambda spec: spec.__name__,
)
def test_every_field_of_a_job_is_documented(spec):
    assert [name for name in spec.__struct_encode_fields__ if f"| `{name}` |" not in REFERENCE] == []


def test_every_capability_has_its_line():
    wanted = [f"A{i}" for i in range(1, 15)] + [f"B{i}" for i in range(1, 14)] + ["B3a", "B3b", "B3c", "B4a"]
    wanted += [f"C{i}" for i in range(1, 17)] + [f"D{i}" for i in range(1, 8)]
    wanted += [f"E{i}" for i in range(1, 11)] + [f"F{i}" for i in range(1, 11)]
    assert sorted(number for number, _ in ROW.findall(CAPABILITIES)) == sorted(wanted)


@pytest.mark.parametrize(("number", "cells"), ROW.findall(CAPABILITIES), ids=lambda cell: cell if len(cell) < 5 else "")
def test_what_a_capability_points_at_is_there(number, cells):
    paths = re.findall(r"`((?:src|tests|benchmarks|docs)/[^`:]*)`", cells)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    if "not yet" not in cells:
        assert any(path.startswith(("tests/", "benchmarks/")) for path in paths), f"{number}: which test shows it?"
