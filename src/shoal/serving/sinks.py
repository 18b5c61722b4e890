"""Sinks: named places where results go instead of to the caller.

A definition is for the person at the machine, as that of a source of features is; requests only name it. What is secret
in it is a reference ``${NAME}`` to an environment variable, which is read when the sink is used and never stored.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

import msgspec

from shoal.errors import InvalidInput, InvalidSpec, NotFound, NotReady, StorageError
from shoal.requests.sources import allowed, not_among, resolved
from shoal.security.header_values import header_value
from shoal.serving.sink_kinds import FolderSink, Sink, TableSink
from shoal.storage.columns import json_text
from shoal.storage.documents import load_document, read_document
from shoal.storage.sink_parquet import SinkFolder
from shoal.types import Json

_REFERENCE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_DATABASES: Final = ("sqlite", "postgresql", "postgres")
_TABLE: Final = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*")
_SECRET_HEADER: Final = re.compile(r"auth|cookie|token|secret|key|password", re.IGNORECASE)
_REMEMBERED_S: Final = 1.0

_log = logging.getLogger("shoal.serving")


class SqlSinkSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sql_sink"
):
    """A table of SQLite or PostgreSQL, made when it is not there: a row for each prediction, written once.

    Attributes
    ----------
    url : str
        SQLAlchemy's URL; the password as ``${NAME}``.
    table : str
        Its name, with its schema where needed.
    """

    url: str
    table: str


class ParquetSinkSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="parquet_sink"
):
    """A folder of Parquet files: a row for each row of an answer, written once.

    Attributes
    ----------
    folder : str
        Made when it is not there; each fleet has a folder of its own in it.
    """

    folder: str


class WebhookSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"
):
    """A service that gets each result by POST.

    Attributes
    ----------
    url : str
        Where to.
    hosts : tuple of str
        Hosts that it may be at, ``name`` or ``name:port``.
    secret : str
        What to sign with, as ``${NAME}``; see :mod:`shoal.security.signing`.
    old_secret : str, optional
        While the secret is replaced: the one before, as ``${NAME}``. Both signatures are sent.
    headers : mapping of str to str
        Headers to send; secrets as ``${NAME}``.
    timeout_s : float
        How long the service may take to answer, in seconds.
    """

    url: str
    hosts: tuple[str, ...]
    secret: str
    old_secret: str | None = None
    headers: dict[str, str] = {}
    timeout_s: float = 10.0


SinkSpec: TypeAlias = SqlSinkSpec | ParquetSinkSpec | WebhookSpec
KINDS: Final[Mapping[str, type[SinkSpec]]] = {
    "sql_sink": SqlSinkSpec, "parquet_sink": ParquetSinkSpec, "webhook": WebhookSpec,
}  # fmt: skip

FindSpec: TypeAlias = Callable[[str], Mapping[str, Json]]


def load_sink(source: SinkSpec | Mapping[str, object] | Path | str) -> SinkSpec:
    """Read and check a definition.

    Parameters
    ----------
    source : SinkSpec, mapping, or path of a YAML file
        A mapping has the fields of the kind that its ``kind`` names.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    """
    if isinstance(source, Path | str):
        source = read_document(Path(source), "write fields such as 'kind: sql_sink', one per line")
    loaded = _of_kind(source) if isinstance(source, Mapping) else source
    if isinstance(loaded, SqlSinkSpec):
        _check_table(loaded)
    if isinstance(loaded, ParquetSinkSpec):
        loaded = ParquetSinkSpec(folder=str(Path(loaded.folder).expanduser().absolute()))
    if isinstance(loaded, WebhookSpec):
        _check_webhook(loaded)
    return loaded


def document(spec: SinkSpec) -> dict[str, Json]:
    """The definition as plain JSON values; :func:`load_sink` reads it back."""
    return cast("dict[str, Json]", msgspec.to_builtins(spec))


def _of_kind(values: Mapping[str, object]) -> SinkSpec:
    kind = values.get("kind")
    if kind not in KINDS:
        raise InvalidSpec(f"field 'kind' is {kind!r}: a sink is one of {', '.join(KINDS)}")
    fields = {name: value for name, value in values.items() if name != "kind"}
    return load_document(fields, KINDS[cast("str", kind)], lists=("hosts",))


def _check_table(spec: SqlSinkSpec) -> None:
    if not _TABLE.fullmatch(spec.table):
        raise InvalidSpec(f"field 'table' is {spec.table!r}: write a name such as results or shop.results")
    scheme, says, _ = spec.url.partition("://")
    database = scheme.partition("+")[0]
    if not _REFERENCE.match(spec.url) and not (says and database in _DATABASES):
        which = f", not of {database[:30]!r}" if says else ""
        raise InvalidSpec(
            f"field 'url': results go to tables of SQLite or PostgreSQL{which}; write sqlite:///PATH or "
            "postgresql://USER@HOST/DATABASE"
        )


def _check_webhook(spec: WebhookSpec) -> None:
    if not spec.url.startswith(("http://", "https://")):
        raise InvalidSpec("field 'url' must be an address such as https://host/results")
    if not allowed(spec.url, spec.hosts):
        raise InvalidSpec(f"field 'hosts': {not_among(spec.url)}")
    for name, value in {"secret": spec.secret, "old_secret": spec.old_secret}.items():
        if value is not None and not _REFERENCE.fullmatch(value):
            raise InvalidSpec(f"field {name!r}: put it into an environment variable and write ${{NAME}} here")
    for name, value in spec.headers.items():
        if _SECRET_HEADER.search(name) and not _REFERENCE.search(value):
            raise InvalidSpec(
                f"field 'headers.{name}' looks like a secret: put it into an environment variable and write ${{NAME}}"
            )
    if spec.timeout_s <= 0:
        raise InvalidSpec("field 'timeout_s' must be above 0")


class Sinks:
    """The sinks of a workspace, opened when they are first used. Belongs to one event loop.

    Parameters
    ----------
    find : callable
        The definition of a name; raises NotFound where there is none. It is called in a thread.
    """

    def __init__(self, find: FindSpec) -> None:
        self._find = find
        self._open: dict[str, tuple[str, Sink]] = {}
        self._checked_s: dict[str, float] = {}
        self._lock = asyncio.Lock()

    async def open(self, name: str) -> Sink:
        """The sink that a name means now; a definition that changed is opened anew.

        Raises
        ------
        NotFound
            There is none of that name.
        InvalidSpec
            An environment variable is not set; the log says which, callers need not know.
        InvalidInput
            Its URL is none, or its driver is not installed.
        NotReady
            The registry does not say what it means.
        """
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            if name in self._open and now_s < self._checked_s[name] + _REMEMBERED_S:
                return self._open[name][1]
            values = await self._found(name)
            written = json_text(cast("Json", values))
            if name not in self._open or self._open[name][0] != written:
                before = self._open.pop(name, None)
                self._open[name] = (written, _opened(name, load_sink(values)))
                if before is not None:
                    await before[1].close()
            self._checked_s[name] = now_s
            return self._open[name][1]

    async def _found(self, name: str) -> Mapping[str, Json]:
        """The definition of a sink; sources share their names with sinks and are none."""
        try:
            values = await asyncio.to_thread(self._find, name)
        except NotFound:
            values = {}
        except StorageError as error:
            raise NotReady(f"the registry does not say now what the sink {name!r} is", detail=str(error)) from error
        if values.get("kind") not in KINDS:
            raise NotFound(f"there is no sink {name[:100]!r}; see `shoal sinks list`")
        return values

    async def close(self) -> None:
        """Let go of all connections."""
        for _, sink in self._open.values():
            await sink.close()
        self._open = {}


def _opened(name: str, spec: SinkSpec) -> Sink:
    if isinstance(spec, SqlSinkSpec):
        return TableSink(_filled(name, spec.url), spec.table)
    if isinstance(spec, ParquetSinkSpec):
        return FolderSink(SinkFolder(Path(spec.folder)))
    from shoal.serving.sink_webhook import WebhookSink  # its client of HTTP is not always installed

    texts = [text for text in (spec.secret, spec.old_secret) if text is not None]
    headers = {header: _header(name, header, value) for header, value in spec.headers.items()}

    def secrets() -> list[bytes]:
        return [_filled(name, text).encode() for text in texts]

    secrets()  # whoever names the sink hears now if there are none
    return WebhookSink(_filled(name, spec.url), secrets, headers, spec.timeout_s)


def _header(sink: str, name: str, text: str) -> str:
    """A header of a sink's definition with its references filled in."""
    with _told_in_the_log(sink):
        return header_value(resolved(text, what="a sink"), f"field 'headers.{name}'")


def _filled(sink: str, text: str) -> str:
    """A text of a sink's definition with its references filled in."""
    with _told_in_the_log(sink):
        return resolved(text, what="a sink")


@contextlib.contextmanager
def _told_in_the_log(sink: str) -> Iterator[None]:
    """What is wrong with a sink's secrets is not for whoever names it."""
    try:
        yield
    except InvalidInput as error:
        _log.error("sink %r cannot be used: %s", sink, error)
        raise InvalidSpec(
            f"sink {sink!r} cannot be used here: its secrets are not set up; the server's log says which"
        ) from error
