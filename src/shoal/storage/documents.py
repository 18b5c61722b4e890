"""Descriptions of jobs, of serving, of sources: from a YAML file, a mapping or a value to a checked value.

Errors name the field and what it may be.
"""

import datetime as dt
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec
import yaml
from msgspec import inspect

from shoal.errors import InvalidSpec
from shoal.storage.decoding import decodable

_FIELDS: Final = "write fields such as 'fleet: NAME', one per line"
_STEP: Final = re.compile(r"[^.\[\]`]+|\.{3}")
_ENTRY: Final = "..."
_CHOICE: Final = re.compile(r"Invalid enum value (.+)", re.DOTALL)

Spec = TypeVar("Spec", bound=msgspec.Struct)


def load_document(source: Spec | Mapping[str, object] | Path | str, spec: type[Spec], lists: Sequence[str]) -> Spec:
    """Read a description.

    Parameters
    ----------
    source : Spec, mapping, or path of a YAML file
        A mapping has the fields of ``spec``.
    spec : type
        What it becomes.
    lists : sequence of str
        Fields that are lists, but may be given as one text.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    """
    if isinstance(source, Path | str):
        source = read_document(Path(source))
    if isinstance(source, spec):
        return source
    assert isinstance(source, Mapping)
    values = {str(name): _plain(value) for name, value in source.items()}
    for name in lists:
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    kind = inspect.type_info(decodable(spec))
    _refuse_unknown(values, kind, "")
    try:
        return msgspec.convert(values, decodable(spec))
    except msgspec.ValidationError as error:
        raise InvalidSpec(_misfit(str(error), values, spec)) from error


def _misfit(error: str, values: Mapping[str, object], spec: type[msgspec.Struct]) -> str:
    """What msgspec found, with the field named as people write it, and the values that there are to choose from."""
    found, _, place = error.partition(" - at `$")
    if not place:
        return f"the description does not fit: {found}"
    steps = _STEP.findall(place)
    kind = inspect.type_info(decodable(spec))
    named = _named(steps, error, values, spec)
    field = "".join(
        f"[{int(step) + 1}]" if step.isdigit() else f".{name}" for step, name in zip(steps, named, strict=True)
    )
    field = field.removeprefix(".")
    choices = sorted(map(str, _choices(kind, steps)))
    value = _CHOICE.fullmatch(found)
    if value is None or not choices:
        return f"field {field!r} does not fit: {found}"
    return f"field {field!r} is {value[1]}: it must be {' or '.join(choices)}"


def _named(steps: Sequence[str], error: str, values: Mapping[str, object], spec: type[msgspec.Struct]) -> list[str]:
    """The way to a field, with the names of entries of mappings, for which msgspec has three dots."""
    names: list[str] = []
    for step in steps:
        if step == _ENTRY:
            alone = ((name, _only(values, names, name)) for name in _at(values, names))
            step = next((name for name, rest in alone if _error(rest, spec) == error), "*")
        names.append(step)
    return names


def _at(value: object, steps: Sequence[str]) -> list[str]:
    """The names of the entries of the mapping that these steps lead to."""
    for step in steps:
        value = value[int(step)] if isinstance(value, list) else cast("Mapping[str, object]", value)[step]
    return list(cast("Mapping[str, object]", value))


def _only(value: object, steps: Sequence[str], name: str) -> object:
    """A description of which one mapping has but one entry."""
    if isinstance(value, list):
        return [_only(part, steps[1:], name) if at == int(steps[0]) else part for at, part in enumerate(value)]
    entries = cast("Mapping[str, object]", value)
    if not steps:
        return {name: entries[name]}
    return {**entries, steps[0]: _only(entries[steps[0]], steps[1:], name)}


def _error(values: object, spec: type[msgspec.Struct]) -> str | None:
    try:
        msgspec.convert(values, decodable(spec))
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _choices(kind: inspect.Type, steps: Sequence[str]) -> set[object]:
    """The values that a field may have, where they can be told."""
    if isinstance(kind, inspect.UnionType):
        return {value for choice in kind.types for value in _choices(choice, steps)}
    if isinstance(kind, inspect.LiteralType) and not steps:
        return set(kind.values)
    if isinstance(kind, inspect.EnumType) and not steps:
        return {member.value for member in kind.cls}
    if isinstance(kind, inspect.StructType) and steps:
        return {
            value for field in kind.fields if field.encode_name == steps[0] for value in _choices(field.type, steps[1:])
        }
    if isinstance(kind, inspect.DictType) and steps:
        return _choices(kind.value_type, steps[1:])
    if isinstance(kind, inspect.VarTupleType | inspect.ListType) and steps:
        return _choices(kind.item_type, steps[1:])
    return set()


def _refuse_unknown(value: object, kind: inspect.Type, where: str) -> None:
    """Refuse fields that there are not, at any depth; msgspec would not say which there are."""
    if isinstance(kind, inspect.UnionType):
        for choice in kind.types:
            _refuse_unknown(value, choice, where)
    elif isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
        known = {field.encode_name: field.type for field in kind.fields}
        for name in sorted(map(str, set(value) - set(known))):
            raise InvalidSpec(f"field {where + name!r} is not known: {_advice(name, list(known))}")
        for name, part in value.items():
            _refuse_unknown(part, known[name], f"{where}{name}.")
    elif isinstance(kind, inspect.DictType) and isinstance(value, Mapping):
        for name, part in value.items():
            _refuse_unknown(part, kind.value_type, f"{where}{name}.")
    elif isinstance(kind, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
        for number, part in enumerate(value, 1):
            _refuse_unknown(part, kind.item_type, f"{where.removesuffix('.')}[{number}].")


def _advice(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def read_document(path: Path, advice: str = _FIELDS) -> Mapping[str, object]:
    """The fields of a YAML file.

    Parameters
    ----------
    path : Path
        The file.
    advice : str
        What to write into a file that has no fields.

    Raises
    ------
    InvalidSpec
        It cannot be read, or holds no fields.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpec(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, Mapping):
        found = "is empty" if document is None else "has no fields"
        raise InvalidSpec(f"{path}: {found}; {advice}")
    return document


def _plain(value: object) -> object:
    """YAML reads dates as dates, Python callers give paths and tuples: bring them to text and lists."""
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
