"""Reading a serving spec and finding what is wrong with it, as far as that shows without the fleet."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shoal.errors import InvalidSpec
from shoal.requests.spec import PROCESS, LookupSpec, ServingSpec, Threshold
from shoal.storage.documents import load_document, read_document

ADVICE: Final = "write fields such as 'store: durable', one per line, or {} for none of them"
"""What to do about a file that has no fields."""


def load(source: ServingSpec | Mapping[str, object] | Path | str) -> ServingSpec:
    """Read and check a spec.

    Parameters
    ----------
    source : ServingSpec, mapping, or path of a YAML file
        A mapping has the fields of :class:`ServingSpec`. ``rules`` may be one mapping of output to expression, and
        ``keys`` and ``features`` of a lookup may be lists where the source calls the columns by the same names.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    """
    if isinstance(source, Path | str):
        source = read_document(Path(source), ADVICE)
    if not isinstance(source, ServingSpec | Mapping):
        raise InvalidSpec(f"a serving spec has fields, which {repr(source)[:60]} has not; {ADVICE}")
    spec = source if isinstance(source, ServingSpec) else load_document(_spelled_out(source), ServingSpec, lists=())
    for problem in _problems(spec):
        raise InvalidSpec(problem)
    return spec


def load_lookup(source: LookupSpec | Mapping[str, object]) -> LookupSpec:
    """Read and check the description of a lookup; raises as :func:`load`."""
    spec = source if isinstance(source, LookupSpec) else load_document(named(source), LookupSpec, lists=())
    for problem in problems_of_lookup(spec):
        raise InvalidSpec(problem)
    return spec


def _spelled_out(source: Mapping[str, object]) -> dict[str, object]:
    """The spec with its shorthands written out."""
    values = dict(source)
    rules, lookup = values.get("rules"), values.get("lookup")
    if isinstance(rules, Mapping):
        values["rules"] = [{"set": rules}] if rules else []
    if isinstance(lookup, Mapping):
        values["lookup"] = named(lookup)
    return values


def named(lookup: Mapping[str, object]) -> dict[str, object]:
    """A lookup's description whose lists of columns are mappings to the source's names."""
    values = dict(lookup)
    for field in ("keys", "features"):
        columns = values.get(field)
        if isinstance(columns, str):
            columns = [columns]
        if isinstance(columns, list | tuple):
            values[field] = {str(name): str(name) for name in columns}
    return values


def _problems(spec: ServingSpec) -> Iterator[str]:
    yield from _problems_of_rules(spec)
    yield from _problems_of_threshold(spec.threshold)
    yield from _problems_of_numbers(spec)
    for side in ("inputs", "outputs"):
        for name, check in getattr(spec.checks, side).items():
            field = f"checks.{side}.{name}"
            if check.min is not None and check.max is not None and check.min > check.max:
                yield f"field '{field}': min {check.min:g} lies above max {check.max:g}"
            if check.one_of == ():
                yield f"field '{field}.one_of' is empty: name the values that are allowed, or leave it out"
            if check == type(check)():
                yield f"field '{field}' checks nothing: give type, not_null, min, max, one_of or pattern"
    if spec.lookup is not None:
        yield from problems_of_lookup(spec.lookup)
    if spec.cache is not None and not spec.cache.store:
        yield "field 'cache.store' is empty: write process, or the name of a source of kind redis"
    if spec.cache is not None and spec.cache.store != PROCESS and spec.cache.size_bytes is not None:
        yield "field 'cache.size_bytes' is the memory of a process: leave it out, in Redis its own maxmemory counts"


def _problems_of_rules(spec: ServingSpec) -> Iterator[str]:
    for number, rule in enumerate(spec.rules, 1):
        if not rule.set:
            yield f"field 'rules[{number}].set' is empty: name an output and its SQL expression"
        for name in rule.set:
            if not name.strip():
                yield f"field 'rules[{number}].set': an output has no name"


def _problems_of_threshold(threshold: Threshold | None) -> Iterator[str]:
    if threshold is None:
        return
    about_class = threshold.label is not None and threshold.probability is not None
    if (threshold.score is not None) == about_class or (threshold.label is None) != (threshold.probability is None):
        yield "field 'threshold' needs either 'score', or 'label' and 'probability'"
    if threshold.probability is not None and not 0 <= threshold.probability <= 1:
        yield f"field 'threshold.probability' is {threshold.probability:g}: it must lie between 0 and 1"


def _problems_of_numbers(spec: ServingSpec) -> Iterator[str]:
    least: dict[str, tuple[float | None, float]] = {
        "cache.ttl_s": (spec.cache.ttl_s if spec.cache else None, 0.001),
        "cache.size_bytes": (spec.cache.size_bytes if spec.cache else None, 1024),
        "limits.max_rows": (spec.limits.max_rows, 1),
        "limits.timeout_s": (spec.limits.timeout_s, 0.001),
        "log.sample": (spec.log.sample if spec.log else None, 0),
        "log.file_s": (spec.log.file_s if spec.log else None, 0.1),
        "log.keep_days": (spec.log.keep_days if spec.log else None, 1),
        "keep_s": (spec.keep_s, 1),
    }
    yield from _too_small(least)
    if spec.log is not None and spec.log.sample > 1:
        yield f"field 'log.sample' is {spec.log.sample:g}: it is a share, at most 1"
    if spec.store is None and spec.keep_s is not None:
        yield "field 'keep_s' is about durable results: add `store: durable`"
    if spec.store is None and spec.sink is not None:
        yield "field 'sink' is about durable results: add `store: durable`; a single request names its own sink"


def problems_of_lookup(spec: LookupSpec) -> Iterator[str]:
    """What is wrong with a lookup, as far as that shows without fleet and source."""
    if not spec.source:
        yield "field 'lookup.source' is empty: name a source; `shoal sources list` shows them"
    yield from _problems_of_columns(spec)
    if spec.max_age_s is not None and spec.as_of is None:
        yield "field 'lookup.max_age_s' needs 'as_of', the source's column that tells the age"
    cache = spec.cache
    least: dict[str, tuple[float | None, float]] = {
        "lookup.timeout_ms": (spec.timeout_ms, 1),
        "lookup.max_age_s": (spec.max_age_s, 0),
        "lookup.cache.ttl_s": (cache.ttl_s if cache else None, 0.001),
        "lookup.cache.missing_ttl_s": (cache.missing_ttl_s if cache else None, 0),
        "lookup.cache.size_bytes": (cache.size_bytes if cache else None, 1024),
    }
    yield from _too_small(least)


def _problems_of_columns(spec: LookupSpec) -> Iterator[str]:
    for field, columns in (("keys", spec.keys), ("features", spec.features)):
        if not columns:
            yield f"field 'lookup.{field}' is empty: name at least one column"
        if "" in columns or "" in columns.values():
            yield f"field 'lookup.{field}': a column has no name"
        sources = [*columns.values(), *([spec.as_of] if spec.as_of else [])]
        if len(set(sources)) < len(sources):
            yield f"field 'lookup.{field}': a column of the source is named twice"
    for name in spec.features:
        if name in spec.keys:
            yield f"field 'lookup.features': {name!r} is looked up by, so it cannot be looked up"
    for field, named, among in (("defaults", spec.defaults, "features"), ("key_types", spec.key_types, "keys")):
        for name in named:
            if name not in getattr(spec, among):
                yield f"field 'lookup.{field}': {name!r} is not among the {among} {list(getattr(spec, among))}"


def _too_small(least: Mapping[str, tuple[float | None, float]]) -> Iterator[str]:
    for name, (value, lowest) in least.items():
        if value is not None and not lowest <= value < float("inf"):
            yield f"field {name!r} is {value:g}: it must be at least {lowest:g}, and finite"
