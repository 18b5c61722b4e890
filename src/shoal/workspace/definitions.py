"""What the names of connections mean: sources and sinks are defined, found and removed in one way."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from shoal.errors import Conflict, NotFound
from shoal.registry import Registry, SourceRecord
from shoal.requests.loading import load as load_serving
from shoal.requests.sources import KINDS as SOURCE_KINDS
from shoal.requests.sources import Source, load_source
from shoal.requests.sources import document as source_document
from shoal.serving.sinks import KINDS as SINK_KINDS
from shoal.serving.sinks import SinkSpec, load_sink
from shoal.serving.sinks import document as sink_document
from shoal.types import Json

Spec = TypeVar("Spec")
Written: TypeAlias = Mapping[str, object] | str | Path
"""A definition that is still to be read: its fields, or the path of a YAML file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sort(Generic[Spec]):
    """One sort of connections.

    Attributes
    ----------
    noun : str
        What one is called, as the command line does.
    described : str
        What one is called to those who took it for something else.
    kinds : collection of str
        The kinds there are of it.
    load : callable
        Reads and checks a definition; raises :class:`~shoal.errors.InvalidSpec`.
    document : callable
        The definition as it is written down.
    """

    noun: str
    described: str
    kinds: Collection[str]
    load: Callable[[Spec | Written], Spec]
    document: Callable[[Spec], dict[str, Json]]

    def among(self, records: Iterable[SourceRecord]) -> dict[str, Spec]:
        """Those of this sort, by name."""
        return {record.name: self.load(record.spec) for record in records if record.spec.get("kind") in self.kinds}


SOURCES: Final[Sort[Source]] = Sort(
    noun="source", described="source of features", kinds=SOURCE_KINDS, load=load_source, document=source_document
)
SINKS: Final[Sort[SinkSpec]] = Sort(
    noun="sink", described="sink", kinds=SINK_KINDS, load=load_sink, document=sink_document
)


class Definitions(Generic[Spec]):
    """The connections of one sort by name. The sorts share their names.

    Parameters
    ----------
    registry : Registry
        What names mean, and which fleets are served with them.
    actor : str
        In whose name changes are made.
    sort : Sort
        Which these are.
    """

    def __init__(self, registry: Registry, actor: str, sort: Sort[Spec]) -> None:
        self._registry = registry
        self._actor = actor
        self._sort = sort

    def every(self) -> dict[str, Spec]:
        """All of them, by name."""
        return self._sort.among(self._registry.sources())

    def one(self, name: str) -> Spec:
        """The one of a name.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        found = self.every().get(name)
        if found is None:
            noun = self._sort.noun
            raise NotFound(f"there is no {noun} {name!r}; see `shoal {noun}s list`")
        return found

    def change(self, name: str, spec: Spec | Written | None) -> None:
        """Say what a name means from now on.

        Parameters
        ----------
        name : str
            The name.
        spec : the sort's spec, mapping, path of a YAML file, or None
            Its definition, see :mod:`shoal.requests.sources` and :mod:`shoal.serving.sinks`; None: the name means
            nothing any more.

        Raises
        ------
        InvalidSpec
            A field is wrong.
        InvalidInput
            The name is not safe.
        Conflict
            It is the name of one of another sort, or is to be removed and a fleet is served with it.
        """
        self._require_free(name)
        if spec is None:
            self._require_unused(name)
        document = None if spec is None else self._sort.document(self._sort.load(spec))
        self._registry.set_source(name, document, actor=self._actor, noun=self._sort.noun)

    def _require_free(self, name: str) -> None:
        for other in (SOURCES, SINKS):
            if other is not self._sort and name in other.among(self._registry.sources()):
                raise Conflict(f"{name!r} is a {other.described}; give the {self._sort.noun} another name")

    def _require_unused(self, name: str) -> None:
        for desired in self._registry.serving():
            spec = load_serving(desired.spec)
            if name in (spec.lookup and spec.lookup.source, spec.cache and spec.cache.store, spec.sink):
                raise Conflict(f"fleet {desired.fleet!r} is served with {name!r}; change its serving spec first")
