"""What a batch job should do: the fields of ``shoal score``, of a YAML file and of a Python call alike."""

import datetime as dt
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import msgspec

from shoal.batch.partition import Template
from shoal.errors import InvalidSpec
from shoal.requests.spec import ServingSpec
from shoal.storage.documents import load_document, read_document
from shoal.storage.query import check_predicate, check_preprocess
from shoal.storage.tables import SUFFIXES
from shoal.times import iso_time
from shoal.types import RESERVED_COLUMNS

InputFormat = Literal["auto", "parquet", "csv", "jsonl"]
OutputFormat = Literal["auto", "parquet", "csv", "jsonl"]
IfExists = Literal["fail", "replace", "append"]
MissingModel = Literal["fallback", "null", "fail"]
FailurePolicy = Literal["retry-all", "retry-failed", "leave"]

KIND = "score"
"""What the ledger calls runs of these jobs."""

OTHER_ENDINGS = frozenset(
    {".arrow", ".avro", ".bz2", ".feather", ".gz", ".json", ".tsv", ".txt", ".xlsx", ".zip", ".zst"}
)
"""Endings of files that Shoal does not write."""

PINNED = "pinned_serving"
"""What the ledger calls the definition that a run has pinned, beside the fields of its job."""

ROW_IDS = frozenset({"_file", "_row"})
"""Columns that say where a row is from; what the input has under these names is not read."""

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
          "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
_LONGEST_S = 3_153_600_000
_MOST_DIGITS = 12
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class ScoreSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A batch job.

    Attributes
    ----------
    fleet : str
        ``name``, ``name@alias`` or ``name:version``; resolved once, when the run is planned.
    input : tuple of str
        Files, folders (searched for files of a known ending) and globs.
    output : str
        A file (its ending gives the format) or a folder.
    format : str
        Format of the input; ``auto`` goes by each file's ending.
    where : str, optional
        SQL predicate over the input's columns; rows for which it is not true are not scored.
    date, from_, until : str, optional
        Only rows whose column ``date`` lies in ``[from, until)``; ISO dates or times.
    preprocess : str, optional
        One SQL query over the table ``input``, or ``module:function`` from LazyFrame to LazyFrame.
    rename : mapping of str to str
        Old column name to new, applied last.
    serving : bool or mapping, optional
        Checks, threshold, rules and lookup, as requests meet them: ``True`` for what the fleet is served with when the
        run is planned, or a serving spec; see :class:`shoal.requests.spec.ServingSpec`.
    time : str, optional
        Column with each row's own time: the lookup brings what its source had then, and not what it has now.
    output_format : str
        ``auto`` goes by the output's ending, Parquet for a folder.
    partition : str, optional
        Template of subfolders such as ``{category}/{date}/``.
    carry : tuple of str
        Input columns to carry along into the output.
    if_exists : str
        When the output is already there: ``fail``, ``replace``, or ``append`` (folders only).
    missing_model : str
        For a row whose segment has no model of its own: take the ``fallback``, write a row of nulls, or ``fail``.
    max_errors : str or int, optional
        Most rows that may be ``invalid`` or ``failed``: a number, or a share of all rows such as ``"1%"``.
    failure_policy : str
        What becomes of shards that failed, see ``docs/decisions``: ``retry-failed``, ``retry-all`` or ``leave``.
    expires : str, optional
        How long rows that were left may be picked up by the next run of the job, e.g. ``"7d"``.
    memory : str, optional
        Bound of the process's anonymous memory, e.g. ``"2GiB"``; by default a quarter of the machine's.
    shard_rows : int, optional
        Rows per shard; by default derived from ``memory``.
    threads : int, optional
        Threads to score with; by default one per core.
    """

    fleet: str
    input: tuple[str, ...]
    output: str
    format: InputFormat = "auto"
    where: str | None = None
    date: str | None = None
    from_: str | None = None
    until: str | None = None
    preprocess: str | None = None
    rename: dict[str, str] = {}
    serving: bool | dict[str, object] | None = None
    time: str | None = None
    output_format: OutputFormat = "auto"
    partition: str | None = None
    carry: tuple[str, ...] = ()
    if_exists: IfExists = "fail"
    missing_model: MissingModel = "fallback"
    max_errors: str | int | None = None
    failure_policy: FailurePolicy = "retry-failed"
    expires: str | None = None
    memory: str | None = None
    shard_rows: int | None = None
    threads: int | None = None

    @property
    def single_file(self) -> bool:
        """Whether the output is one file rather than a folder."""
        return self.partition is None and Path(self.output).suffix.lower() in SUFFIXES

    @property
    def written_as(self) -> Literal["parquet", "csv", "jsonl"]:
        """The format of the output files."""
        if self.output_format != "auto":
            return self.output_format
        return SUFFIXES.get(Path(self.output).suffix.lower(), "parquet")

    @property
    def template(self) -> Template | None:
        """The partition template, parsed."""
        return Template.parse(self.partition) if self.partition else None

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else parse_size(self.memory)

    @property
    def expires_after(self) -> dt.timedelta | None:
        """``expires`` as a duration."""
        return None if self.expires is None else parse_duration(self.expires)

    def error_limit(self, rows: int) -> int | None:
        """How many rows may be ``invalid`` or ``failed`` out of ``rows``; None for any number."""
        if self.max_errors is None:
            return None
        number, percent = parse_limit(self.max_errors)
        return int(rows * number / 100) if percent else int(number)

    def document(self) -> dict[str, object]:
        """The spec as plain JSON values, as the ledger keeps it; :func:`load` reads it back."""
        return cast("dict[str, object]", msgspec.json.decode(msgspec.json.encode(self)))


def load(source: "ScoreSpec | Mapping[str, object] | Path | str") -> ScoreSpec:
    """Read and check a job description.

    Parameters
    ----------
    source : ScoreSpec, mapping, or path of a YAML file
        A mapping has the fields of :class:`ScoreSpec`; ``input`` may be one text, ``serving`` a :class:`ServingSpec`.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    """
    if isinstance(source, Path | str):
        source = read_document(Path(source))
    if isinstance(source, Mapping):
        source = {**source, "serving": _serving(source.get("serving"))}
    spec = load_document(source, ScoreSpec, lists=("input", "carry"))
    _check(spec)
    return spec


def load_planned(document: Mapping[str, object]) -> ScoreSpec:
    """The job of a run, as the ledger has it beside what was pinned."""
    return load({name: value for name, value in document.items() if name != PINNED})


def _serving(given: object) -> object:
    """What was said of serving, as plain values; no less than nothing."""
    return given.document() if isinstance(given, ServingSpec) else None if given is False else given


def _check(spec: ScoreSpec) -> None:
    if not spec.input:
        raise InvalidSpec("field 'input' is empty: name at least one file, folder or glob")
    _check_texts(spec)
    _check_numbers(spec)
    _check_selection(spec)
    _check_output(spec)


def _check_texts(spec: ScoreSpec) -> None:
    for name in ("fleet", "output"):
        if not getattr(spec, name).strip():
            raise InvalidSpec(f"field {name!r} is empty")
    if "" in spec.input:
        raise InvalidSpec("field 'input' has an empty path")


def _check_numbers(spec: ScoreSpec) -> None:
    for name in ("shard_rows", "threads"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise InvalidSpec(f"field {name!r} is {value}: it must be at least 1")
    if spec.memory is not None:
        parse_size(spec.memory)
    if spec.expires is not None:
        parse_duration(spec.expires)
        if spec.failure_policy != "leave":
            raise InvalidSpec("field 'expires' is about rows that are left: set failure_policy to 'leave'")
    if spec.max_errors is not None:
        parse_limit(spec.max_errors)


def _check_selection(spec: ScoreSpec) -> None:
    if (spec.from_ or spec.until) and not spec.date:
        raise InvalidSpec("fields 'from' and 'until' need 'date', the name of the column they are about")
    if spec.date and not (spec.from_ or spec.until):
        raise InvalidSpec("field 'date' needs 'from' or 'until'")
    for name in ("from_", "until"):
        value = getattr(spec, name)
        if value:
            parse_time(value, name.rstrip("_"))
    if spec.where is not None:
        check_predicate(spec.where)
    if spec.preprocess is not None:
        check_preprocess(spec.preprocess)
    if spec.time is not None and spec.serving is None:
        raise InvalidSpec("field 'time' is about the lookup of a serving spec: set 'serving' as well")
    ids = ROW_IDS.intersection({*spec.rename, *spec.rename.values()})
    if ids:
        raise InvalidSpec(
            f"field 'rename': {sorted(ids)[0]!r} is Shoal's row id; an input column of that name is not read"
        )
    if len(set(spec.rename.values())) != len(spec.rename):
        raise InvalidSpec("field 'rename' gives two columns the same new name")


def _check_output(spec: ScoreSpec) -> None:
    taken = RESERVED_COLUMNS.intersection(spec.carry)
    if taken:
        raise InvalidSpec(f"field 'carry': {sorted(taken)[0]!r} is a column Shoal writes itself; rename the input's")
    if len(set(spec.carry)) != len(spec.carry):
        raise InvalidSpec("field 'carry' names a column twice")
    if spec.partition is not None:
        Template.parse(spec.partition)
        if Path(spec.output).suffix.lower() in SUFFIXES:
            raise InvalidSpec("field 'partition' needs a folder as output: leave out the file name's ending")
    if spec.if_exists == "append" and spec.single_file:
        raise InvalidSpec("field 'if_exists': only a folder can be appended to; name a folder as output")
    _refuse_mistyped_ending(spec)
    by_name = SUFFIXES.get(Path(spec.output).suffix.lower())
    if spec.output_format != "auto" and by_name not in (None, spec.output_format):
        raise InvalidSpec(f"field 'output_format' is {spec.output_format}, but {spec.output} ends like {by_name}")


def _refuse_mistyped_ending(spec: ScoreSpec) -> None:
    """``scores.parqet`` and ``scores.csv.gz`` are hardly meant to be folders; ``scores.v2`` may be."""
    ending = Path(spec.output).suffix.lower()
    if ending in SUFFIXES or spec.output.endswith("/") or Path(spec.output).expanduser().is_dir():
        return
    if ending in OTHER_ENDINGS or difflib.get_close_matches(ending, SUFFIXES, n=1, cutoff=0.75):
        raise InvalidSpec(
            f"field 'output': {spec.output!r} ends with none of {', '.join(SUFFIXES)}; for a folder of that name write "
            f"{spec.output + '/'!r}"
        )


def parse_size(text: str) -> int:
    """Bytes of a text such as ``"2GiB"`` or ``"512 MB"``.

    Raises
    ------
    InvalidSpec
        It is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", text, re.IGNORECASE)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) == 0:
        raise InvalidSpec(f"field 'memory': {text!r} is not a size; write e.g. 2GiB or 512MiB")
    return int(float(match[1]) * unit)


def parse_duration(text: str) -> dt.timedelta:
    """Duration of a text such as ``"36h"``, ``"7d"`` or ``"90m"``.

    Raises
    ------
    InvalidSpec
        It is not a duration.
    """
    match = re.fullmatch(r"\s*(\d+)\s*([smhdw])\s*", text)
    if match is None:
        raise InvalidSpec(f"field 'expires': {text!r} is not a duration; write e.g. 36h or 7d")
    seconds = int(match[1]) * _SECONDS[match[2]] if len(match[1]) < _MOST_DIGITS else _LONGEST_S + 1
    if seconds > _LONGEST_S:
        raise InvalidSpec(
            f"field 'expires': {text[:60]!r} is more than 100 years; leave it out for a run that waits on"
        )
    return dt.timedelta(seconds=seconds)


def parse_limit(text: str | int) -> tuple[float, bool]:
    """Number of ``max_errors``, and whether it is a percentage.

    Raises
    ------
    InvalidSpec
        It is neither a number of rows nor a percentage up to 100.
    """
    match = re.fullmatch(r"\s*(?:(\d+)|(\d+(?:\.\d+)?)\s*%)\s*", str(text))
    if match is None or (match[2] and float(match[2]) > 100):
        raise InvalidSpec(f"field 'max_errors': {text!r} is neither a number of rows nor a percentage such as 1%")
    return (float(match[2]), True) if match[2] else (float(match[1]), False)


def parse_time(text: str, field: str) -> dt.datetime:
    """Time of an ISO date or time; without a zone it is read as the column's own.

    Raises
    ------
    InvalidSpec
        It is not one.
    """
    moment = iso_time(text)
    if moment is None:
        raise InvalidSpec(f"field {field!r}: {text!r} is not a date or time; write e.g. 2026-11-21")
    return moment
