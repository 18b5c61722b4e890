"""Named sources: where features are looked up and predictions cached.

A definition is for the person at the machine: it holds addresses, queries and paths. Specs and requests only name it.
What is secret in it is a reference ``${NAME}`` to an environment variable, which is read when the source is opened and
never stored.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec

from shoal.errors import InvalidSpec
from shoal.storage.documents import load_document, read_document
from shoal.types import Json

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PLACEHOLDER = re.compile(r"(?<!\$)\{([^{}]*)\}")
_SECRET_HEADER = re.compile(r"auth|cookie|token|secret|key|password", re.IGNORECASE)


class SqlSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sql"):
    """A table or query of a database: SQLite, PostgreSQL, or what else SQLAlchemy has a driver for.

    Attributes
    ----------
    url : str
        SQLAlchemy's URL; the password as ``${NAME}``.
    table : str, optional
        Name of a table or view, with its schema where needed: ``shop.customers``.
    query : str, optional
        Instead: a SELECT.
    connections : int
        Most connections of each process.
    """

    url: str
    table: str | None = None
    query: str | None = None
    connections: int = 4


class RedisSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="redis"):
    """Redis or Valkey.

    Attributes
    ----------
    url : str
        ``redis://host:port/0``; the password as ``${NAME}``.
    key : str, optional
        Where the features of a key are, e.g. ``customer:{id}``; needed for lookups. With several placeholders, values
        are percent-encoded, so that two keys never mean the same place.
    format : {"hash", "json"}
        A hash with a field per feature, or a text with a JSON object.
    """

    url: str
    key: str | None = None
    format: Literal["hash", "json"] = "hash"


class ParquetSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="parquet"
):
    """A Parquet file. It is indexed once and mapped; a file that takes its place is noticed.

    Attributes
    ----------
    path : str
        The file.
    """

    path: str


class HttpSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="http"):
    """A service that answers JSON.

    Attributes
    ----------
    url : str
        With placeholders, e.g. ``https://host/customers/{id}``: asked once per key, answers an object, or 404.
        Without: gets ``{"keys": [{"id": 1}, ...]}`` by POST and answers ``{"rows": [{...}, null, ...]}``.
    hosts : tuple of str
        Hosts that it may be at, ``name`` or ``name:port``; the URL's own and redirects are held against it.
    headers : mapping of str to str
        Headers to send; secrets as ``${NAME}``.
    max_bytes : int
        Longest answer.
    connections : int
        Most requests at a time, of each process.
    """

    url: str
    hosts: tuple[str, ...]
    headers: dict[str, str] = {}
    max_bytes: int = 1 << 20
    connections: int = 16


Source: TypeAlias = SqlSource | RedisSource | ParquetSource | HttpSource
KINDS: Mapping[str, type[Source]] = {
    "sql": SqlSource, "redis": RedisSource, "parquet": ParquetSource, "http": HttpSource,
}  # fmt: skip


def load_source(source: Source | Mapping[str, object] | Path | str) -> Source:
    """Read and check a definition.

    Parameters
    ----------
    source : Source, mapping, or path of a YAML file
        A mapping has the fields of the kind that its ``kind`` names.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    """
    if isinstance(source, Path | str):
        source = read_document(Path(source), "write fields such as 'kind: sql', one per line")
    loaded = _of_kind(source) if isinstance(source, Mapping) else source
    for problem in _problems(loaded):
        raise InvalidSpec(problem)
    if isinstance(loaded, ParquetSource):
        loaded = ParquetSource(path=str(Path(loaded.path).expanduser().absolute()))
    return loaded


def document(source: Source) -> dict[str, Json]:
    """The definition as plain JSON values; :func:`load_source` reads it back."""
    return cast("dict[str, Json]", msgspec.to_builtins(source))


def resolved(text: str, environment: Mapping[str, str] | None = None, *, what: str = "a source") -> str:
    """The text with its references to environment variables filled in.

    Parameters
    ----------
    text : str
        With references ``${NAME}``.
    environment : mapping of str to str, optional
        The variables; those of the process unless told.
    what : str
        Whose text it is, for the message.

    Raises
    ------
    InvalidSpec
        A variable is not set; the message names it.
    """
    values = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InvalidSpec(f"the environment variable {match[1]} is not set, which {what} refers to; set it")
        return values[match[1]]

    return _REFERENCE.sub(value, text)


def placeholders(template: str) -> list[str]:
    """Names in braces, in order; references to the environment are none."""
    return _PLACEHOLDER.findall(template)


def _of_kind(values: Mapping[str, object]) -> Source:
    kind = values.get("kind")
    if kind not in KINDS:
        raise InvalidSpec(f"field 'kind' is {kind!r}: it must be one of {', '.join(KINDS)}")
    fields = {name: value for name, value in values.items() if name != "kind"}
    return load_document(fields, KINDS[cast("str", kind)], lists=("hosts",))


def _problems(source: Source) -> Iterator[str]:
    if not isinstance(source, ParquetSource):
        yield from _problems_of_url(source.url)
    if isinstance(source, SqlSource):
        if (source.table is None) == (source.query is None):
            yield "give either 'table' or 'query'"
        if source.query is not None and not re.match(r"\s*(SELECT|WITH)\b", source.query, re.IGNORECASE):
            yield "field 'query': write one SELECT"
        if source.query is not None and ";" in source.query:
            yield "field 'query': write one SELECT, without a semicolon"
    if isinstance(source, SqlSource | HttpSource) and source.connections < 1:
        yield "field 'connections' must be at least 1"
    if isinstance(source, HttpSource):
        yield from _problems_of_http(source)


def _problems_of_url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        yield "field 'url' cannot be read"
        return
    if not parts.scheme:
        yield "field 'url' names no protocol, such as postgresql://"
    if password and not _REFERENCE.fullmatch(password):
        yield "field 'url' holds a password: put it into an environment variable and write ${NAME} instead"


def _problems_of_http(source: HttpSource) -> Iterator[str]:
    parts = urlsplit(source.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield "field 'url' must be an address such as https://host/customers/{id}"
    if "{" in parts.netloc:
        yield "field 'url': the host is fixed; placeholders may stand behind it"
    elif not allowed(source.url, source.hosts):
        yield f"field 'hosts': {not_among(source.url)}"
    if parts.fragment or "@" in parts.netloc:
        yield "field 'url': send credentials in a header, as ${NAME}"
    for name, value in source.headers.items():
        if _SECRET_HEADER.search(name) and not _REFERENCE.search(value):
            yield f"field 'headers.{name}' looks like a secret: put it into an environment variable and write ${{NAME}}"
    if source.max_bytes < 1:
        yield "field 'max_bytes' must be at least 1"


def allowed(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether an address is at one of the hosts; a host without a port means the protocol's own."""
    name, port, usual = _place(url)
    spellings = {f"{name}:{port or usual}"} | ({name} if port in (None, usual) else set())
    return usual is not None and any(host.lower() in spellings for host in hosts)


def not_among(url: str) -> str:
    """What is wrong where an address is at none of its hosts, and how its own would have to be written."""
    name, port, usual = _place(url)
    host = name if port in (None, usual) else f"{name}:{port}"
    return f"the URL's own host {host!r} is not among them; write it as it is here"


def _place(url: str) -> tuple[str, int | None, int | None]:
    """The host of an address, its port where it says one, and the port that its protocol usually has."""
    parts = urlsplit(url)
    name = (parts.hostname or "").lower()
    try:
        port, usual = parts.port, {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = usual = None
    return f"[{name}]" if ":" in name else name, port, usual
