"""What every verb says of itself."""

from collections.abc import Iterator

import click
import pytest

from shoal.cli import main

WIDTH = 100


def verbs(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from verbs(command, (*words, name))


VERBS = dict(verbs(main))


@pytest.mark.parametrize("words", [(), *VERBS], ids=" ".join)
def test_help_is_whole_lines(shoal, words):
    lines = shoal(*words, "--help").stdout.splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    assert [
        line for line in lines if "\b" in line or "\\b" in line or (line.endswith("...") and "Usage" not in line)
    ] == []


TAKE_ARGUMENTS = [words for words, verb in VERBS.items() if any(isinstance(p, click.Argument) for p in verb.params)]


@pytest.mark.parametrize("words", TAKE_ARGUMENTS, ids=" ".join)
def test_a_verb_that_takes_arguments_shows_examples_a_line_each(shoal, words):
    examples = shoal(*words, "--help").stdout.partition("  Examples:\n")[2].splitlines()
    assert examples
    # A line that goes on the next one ends in a backslash.
    starts = [line for before, line in zip(["", *examples], examples, strict=False) if not before.endswith("\\")]
    assert all(line.strip().startswith(" ".join(("shoal", *words))) for line in starts), examples
    assert all(line.count("shoal ") == 1 for line in starts)


@pytest.mark.parametrize("words", TAKE_ARGUMENTS, ids=" ".join)
def test_examples_name_options_that_are_there(shoal, words):
    text = shoal(*words, "--help").stdout.partition("  Examples:\n")[2]
    options = {flag for parameter in VERBS[words].params for flag in parameter.opts}
    assert {word for word in text.split() if word.startswith("--")} <= options
