"""What is wrong with a request to the management API, as sentences that say what to send instead.

They name fields and what these may be, and repeat nothing of what was sent but names of fields and versions.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

from pydantic import BaseModel

from shoal.errors import InvalidInput, ShoalError
from shoal.serving.addresses import no_version

Problem: TypeAlias = Mapping[str, object]
"""One of the problems that pydantic lists: its ``type``, ``loc``, ``input``, ``ctx`` and ``msg``."""

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "a text",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
}
_BOUNDS: Final = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "enum": "one of {expected}",
    "string_pattern_mismatch": "a text that matches {pattern}",
}
_LONGEST: Final = 60


def refusal(problems: Sequence[Problem], body: type[BaseModel] | None, query: Sequence[str]) -> ShoalError:
    """The refusal of a request.

    Parameters
    ----------
    problems : sequence of Problem
        What pydantic found.
    body : type or None
        What the route takes as its body; None where it takes none.
    query : sequence of str
        The parameters that the route knows.
    """
    for problem in problems:
        if _place(problem) == ("path", "version"):
            return no_version(str(problem["input"]))
    fields = [] if body is None else list(body.model_fields)
    return InvalidInput("; ".join(_sentence(problem, fields, query) for problem in problems))


def _sentence(problem: Problem, fields: Sequence[str], query: Sequence[str]) -> str:
    kind, (where, *steps) = str(problem["type"]), _place(problem)
    is_body = where == "body"
    if kind == "json_invalid":
        return f"the body is no JSON: {_context(problem).get('error', 'it cannot be read')}"
    if is_body and not steps:
        found = "is missing" if kind == "missing" else "is no JSON object"
        return f"the body {found}; its fields are {', '.join(fields)}"
    name = _name(steps)
    if kind == "missing":
        return f"{name!r} is missing; {_there(fields if is_body else query, is_body=is_body)}"
    if kind == "extra_forbidden":
        return f"{name!r} is not known here; {_advice(str(steps[0]), fields)}"
    return f"{name!r} has to be {_wanted(kind, problem)}"


def _there(names: Sequence[str], *, is_body: bool) -> str:
    return f"{'the fields of the body' if is_body else 'the parameters'} are {', '.join(names)}"


def _advice(name: str, fields: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f"did you mean {close[0]!r}?" if close else _there(fields, is_body=True)


def _wanted(kind: str, problem: Problem) -> str:
    """What a value has to be."""
    if kind in _BOUNDS:
        return _BOUNDS[kind].format_map(_context(problem))
    for part in ("_type", "_parsing", "_parsing_size", "_from_float"):
        known = _KINDS.get(kind.removesuffix(part))
        if known is not None:
            return known
    return f"something else: {problem['msg']}"


def _context(problem: Problem) -> Mapping[str, object]:
    return cast("Mapping[str, object]", problem.get("ctx", {}))


def _place(problem: Problem) -> tuple[str | int, ...]:
    return cast("tuple[str | int, ...]", problem["loc"])


def _name(steps: Sequence[str | int]) -> str:
    """A field as people write it; items of lists are counted from 1."""
    named = [f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in steps]
    return "".join(named).removeprefix(".")[:_LONGEST]
