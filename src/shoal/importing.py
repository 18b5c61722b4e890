"""A folder of fitted models, one joblib or pickle file each, becomes a fleet.

Such a file can run any code when it is read, so nothing is read unless the caller says that the files are trusted,
and then once, in a process of its own, which leaves a fleet folder behind: what comes back is data, and is checked as
any stored fleet is. A file whose reading kills that process costs one model, not the import.
"""

import datetime as dt
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import msgspec

from shoal.errors import InvalidInput, NotFound, UnsupportedEstimator
from shoal.families import pack
from shoal.fleet import Fleet
from shoal.storage.decoding import decodable
from shoal.table.assembly import Entry
from shoal.table.facts import ModelFacts
from shoal.telemetry.progress import SILENT, Progress
from shoal.types import Feature, Key, KeyColumn, KeyType, Task

SUFFIXES = (".joblib", ".pickle", ".pkl")
"""Endings of the files that a path template without an ending means."""

MOST_DEATHS = 10
"""How many files may kill the reading process before the import gives up."""

_TYPES: Mapping[KeyType, type[str | int | bool | dt.date]] = {
    KeyType.STRING: str,
    KeyType.INTEGER: int,
    KeyType.BOOLEAN: bool,
    KeyType.DATE: dt.date,
}

_FIELD = re.compile(r"\{(\w+)\}")


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A file that did not become a model.

    Attributes
    ----------
    path : str
        The file.
    part : str
        What stopped it: a step, a parameter, a class, or ``file``.
    reason : str
        Why.
    """

    path: str
    part: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of a folder of models.

    Attributes
    ----------
    fleet : Fleet
        The models that could be laid out.
    refused : tuple of Refusal
        The files that could not.
    warned : tuple of Refusal
        Files that were read with a warning, such as another version of scikit-learn having written them.
    """

    fleet: Fleet
    refused: tuple[Refusal, ...]
    warned: tuple[Refusal, ...]


class _File(msgspec.Struct, frozen=True):
    path: str
    key: tuple[str, ...]


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the reading process is asked to do."""

    name: str
    files: tuple[_File, ...]
    keys: tuple[tuple[str, str], ...]
    features: tuple[str, ...]
    task: str
    output: str


class PathTemplate:
    """Where a model's key stands in the path of its file, e.g. ``{device}/{sensor}.joblib``.

    Parameters
    ----------
    text : str
        Names of key columns in braces, relative to the folder. Without an ending, every one of ``SUFFIXES`` fits.
    keys : sequence of KeyColumn
        The key columns; the template has each exactly once.

    Raises
    ------
    InvalidInput
        A key column is missing, repeated or unknown.
    """

    def __init__(self, text: str, keys: Sequence[KeyColumn]) -> None:
        found = _FIELD.findall(text)
        names = [key.name for key in keys]
        if sorted(found) != sorted(names):
            raise InvalidInput(f"path template {text!r} must name each key column once: {', '.join(names) or 'none'}")
        pattern = _FIELD.sub(r"(?P<\1>[^/]+?)", re.sub(r"[^\w{}]", lambda m: re.escape(m[0]), text))
        ending = "" if text.endswith(SUFFIXES) else f"(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)})"
        self._pattern = re.compile(pattern + ending)
        self._names = names

    @classmethod
    def for_keys(cls, keys: Sequence[KeyColumn]) -> Self:
        """A folder per key column, the last one names the file."""
        return cls("/".join(f"{{{key.name}}}" for key in keys) or "model", keys)

    def key(self, path: str) -> tuple[str, ...] | None:
        """The key that a path stands for, relative to the folder; None if it does not fit."""
        match = self._pattern.fullmatch(path)
        return tuple(match[name] for name in self._names) if match else None


def import_models(
    folder: Path,
    *,
    into: Path,
    name: str,
    keys: Sequence[KeyColumn],
    features: Sequence[str],
    task: Task,
    path: str | None = None,
    trust_pickle: bool = False,
    progress: Progress = SILENT,
) -> Imported:
    """Read every model file of a folder once and lay the models out as a fleet.

    Parameters
    ----------
    folder : Path
        Holds the files, at any depth.
    into : Path
        An empty folder; the fleet is written there and mapped from there.
    name : str
        Name of the fleet.
    keys : sequence of KeyColumn
        The key columns; their values come from the files' paths.
    features : sequence of str
        The columns that the estimators were fitted on, in their order.
    task : Task
        What they predict.
    path : str, optional
        Path template such as ``{device}/{sensor}.joblib``; by default a folder per key column.
    trust_pickle : bool
        Whether the files may be read at all.
    progress : Progress
        Told of every file.

    Raises
    ------
    InvalidInput
        The files are not trusted, or none of them could be laid out.
    NotFound
        No file of the folder fits the template.
    """
    if not trust_pickle:
        raise InvalidInput(
            f"{folder} was not read: joblib and pickle files run whatever code is in them. If you trust everybody who "
            "could write there, say so with --trust-pickle (in Python: trust_pickle=True)"
        )
    template = PathTemplate(path, keys) if path else PathTemplate.for_keys(keys)
    files = tuple(_matching(folder, template))
    if not files:
        raise NotFound(f"no file in {folder} fits the path template; give one with --path, e.g. '{{device}}.joblib'")
    request = _Request(
        name=name,
        files=files,
        keys=tuple((key.name, key.type.value) for key in keys),
        features=tuple(features),
        task=task.value,
        output=str(into.absolute()),
    )
    refused, warned = _read_all(request, progress)
    if len(refused) == len(files):
        first = refused[0]
        raise InvalidInput(f"none of {len(files)} files became a model; {first.path}: {first.part}: {first.reason}")
    return Imported(fleet=Fleet.load(into), refused=refused, warned=warned)


def _matching(folder: Path, template: PathTemplate) -> Iterator[_File]:
    """Every file that fits, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        key = template.key(path.relative_to(folder).as_posix())
        if key is not None and path.is_file():
            yield _File(str(path.absolute()), key)


def _read_all(request: _Request, progress: Progress) -> tuple[tuple[Refusal, ...], tuple[Refusal, ...]]:
    """Let processes read until one gets through; each file that kills one is left out from then on."""
    task = f"Reading {len(request.files):,} model files"
    deaths: list[Refusal] = []
    while True:
        progress.start(task, len(request.files))
        refused, warned, killer = _read_once(request, task, progress)
        progress.finish(task)
        if killer is None:
            return (*deaths, *refused), warned
        deaths.append(killer)
        remaining = tuple(file for file in request.files if file.path != killer.path)
        if len(deaths) > MOST_DEATHS or not remaining:
            raise InvalidInput(f"reading {killer.path} and {len(deaths) - 1} other files failed: {killer.reason}")
        request = msgspec.structs.replace(request, files=remaining)


def _read_once(
    request: _Request, task: str, progress: Progress
) -> tuple[tuple[Refusal, ...], tuple[Refusal, ...], Refusal | None]:
    """Run one reading process; the last value is the file that killed it."""
    command = [sys.executable, "-m", "shoal.importing"]
    refused: list[Refusal] = []
    warned: list[Refusal] = []
    current = ""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:  # noqa: S603 - our own module
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write(msgspec.json.encode(request))
        reader.stdin.close()
        for line in reader.stdout:
            kind, *details = msgspec.json.decode(line, type=tuple[str, ...])
            if kind == "reading":
                current = details[0]
                progress.advance(task)
            elif kind == "done":
                current = ""
            else:
                (refused if kind == "refused" else warned).append(
                    Refusal(path=details[0], part=details[1], reason=details[2])
                )
    if reader.returncode == 0:
        return tuple(refused), tuple(warned), None
    reason = f"the process that read it ended with status {reader.returncode}"
    if not current:
        raise InvalidInput(f"the models could not be laid out as a fleet: {reason}; its message is above")
    return (), (), Refusal(path=current, part="file", reason=reason)


def _serve(request: _Request, report: IO[str]) -> None:
    """Read, lay out and save; the body of the reading process."""
    task = Task(request.task)
    columns = tuple(KeyColumn(name=name, type=KeyType(kind)) for name, kind in request.keys)
    features: list[Feature] = []
    entries: list[Entry] = []
    for file in request.files:
        entries.extend(_entry(file, columns, request.features, task, report))
    _tell(report, "done")
    if entries:
        level = tuple(column.name for column in columns)
        fleet = Fleet.from_packed(
            keys=columns, levels=[level], models=entries, features=features, task=task, name=request.name
        )
        fleet.save(request.output)


def _entry(
    file: _File, columns: Sequence[KeyColumn], features: Sequence[str], task: Task, report: IO[str]
) -> Iterator[Entry]:
    """The packed model of one file; nothing when it is refused, which is told."""
    _tell(report, "reading", file.path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            packed = pack(_load(file.path), features)
        if packed.layout.task is not task:
            raise UnsupportedEstimator("task", f"the model's is {packed.layout.task}, the fleet's is {task}")
        key = _typed(file.key, columns)
    except UnsupportedEstimator as error:
        _tell(report, "refused", file.path, error.part, error.reason)
        return
    for warning in caught:
        _tell(report, "warned", file.path, warning.category.__name__, str(warning.message).partition("\n")[0])
    written = dt.datetime.fromtimestamp(Path(file.path).stat().st_mtime, tz=dt.UTC)
    yield tuple(column.name for column in columns), key, packed, ModelFacts(trained_at=written)


def _load(path: str) -> object:
    """Read one file. Whatever its code raises is this file's failure and nobody else's."""
    import joblib

    try:
        estimator: object = joblib.load(path)
    except Exception as error:
        raise UnsupportedEstimator("file", f"reading it raised {type(error).__name__}: {error}") from error
    return estimator


def _typed(values: Sequence[str], columns: Sequence[KeyColumn]) -> Key:
    """The texts of a path as values of the key columns' types."""
    try:
        return tuple(
            msgspec.convert(value, _TYPES[column.type], strict=False)
            for value, column in zip(values, columns, strict=True)
        )
    except msgspec.ValidationError as error:
        raise UnsupportedEstimator("key", f"{'/'.join(values)}: {error}") from error


def _tell(report: IO[str], *words: str) -> None:
    report.write(json.dumps(words) + "\n")
    report.flush()


def main() -> None:
    """Read a request from standard input; report line by line on what was standard output."""
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a model prints while it is read must not be taken for a report
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=decodable(_Request))
    with report:
        _serve(request, report)


if __name__ == "__main__":
    main()
