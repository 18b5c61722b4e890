"""What a server should serve, by the registry and by what it was started with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.errors import InvalidInput, NotFound, Unloaded
from shoal.registry import CHAMPION, Desired, Head, Reference, Registry, SnapshotRecord, parse_reference
from shoal.types import Json

#: How many earlier snapshots are tried where the one that is wanted cannot be opened.
STAND_INS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A fleet that should be served, or of which it is known why not.

    Attributes
    ----------
    fleet : str
        Its name.
    snapshot : SnapshotRecord or None
        Which snapshot; None if there is none to serve.
    loaded : bool
        False: it should not be served.
    spec : mapping
        How it is served beside its models.
    sources : mapping of str to mapping
        The named sources that the spec refers to.
    reason : str
        Why it is not served.
    alias : str
        The alias that led to the snapshot; empty where a version was named or pinned.
    """

    fleet: str
    snapshot: SnapshotRecord | None
    loaded: bool = True
    spec: Mapping[str, Json] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    reason: str = ""
    alias: str = field(default="", compare=False)  # where nothing else changed, nothing has to be opened anew


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a process of the server knows of the registry.

    Attributes
    ----------
    at_s : float
        When the registry last answered, by ``time.monotonic()``, which the processes of a machine share.
    wanted : tuple of Wanted
        What it said.
    served : mapping of str to Wanted
        What is served by the name of a fleet, where that is something else.
    """

    at_s: float
    wanted: tuple[Wanted, ...]
    served: Mapping[str, Wanted]


class Selection:
    """The fleets that a server was started for. Not safe for threads.

    Parameters
    ----------
    references : sequence of str
        ``NAME`` follows what the registry says of the fleet, ``NAME@alias`` and ``NAME:version`` do not; none for all
        fleets that the registry says are to be served.
    category : str
        Only fleets of this category, unless it is empty or fleets are named.

    Raises
    ------
    InvalidInput
        A text is no reference, or two are of the same fleet.
    """

    def __init__(self, references: Sequence[str] = (), *, category: str = "") -> None:
        self._category = category
        self._fixed: dict[str, Reference | None] = {}
        self._head: Head | None = None
        for text in references:
            reference = parse_reference(text)
            if reference.fleet in self._fixed:
                raise InvalidInput(f"fleet {reference.fleet!r} is named twice; a server serves one snapshot by a name")
            self._fixed[reference.fleet] = None if text == reference.fleet else reference

    def may_serve(self, fleet: str) -> bool:
        """Whether the server was started for a fleet, as far as that shows in its name."""
        return not self._fixed or fleet in self._fixed

    def require_aliases(self, registry: Registry) -> None:
        """Refuse an alias that a fleet does not have, but for the champion before anything was promoted.

        Raises
        ------
        NotFound
            Says which aliases the fleet has. A fleet that is not there yet is no matter: it is served when it is.
        """
        known = {fleet.name: fleet.aliases for fleet in registry.fleets()}
        for name, reference in self._fixed.items():
            if reference is None or reference.alias is None or name not in known:
                continue
            if known[name] or reference.alias != CHAMPION:
                _ = registry.resolve(f"{name}@{reference.alias}")  # raises if it is not there

    def look(self, registry: Registry) -> list[Wanted] | None:
        """Ask the registry what should be served now; one tiny query while nothing changes.

        Returns
        -------
        list of Wanted or None
            None when nothing has changed since the last time.

        Raises
        ------
        StorageError
            The registry cannot be reached.
        """
        head = registry.head()
        if head == self._head:
            return None
        known = {desired.fleet: desired for desired in registry.serving()}
        sources = {source.name: source.spec for source in registry.sources()}
        if self._fixed:
            wanted = [self._named(registry, name, known.get(name), sources) for name in self._fixed]
        else:
            wanted = [_wanted(one, sources) for one in known.values() if self._concerns(one)]
        self._head = head  # what happened meanwhile is seen at the next look
        return wanted

    def _concerns(self, desired: Desired) -> bool:
        """Whether the fleet is for this server; one that nobody spoke of and that has no champion is no news."""
        if self._category and desired.category != self._category:
            return False
        return desired.snapshot is not None or desired.changed_at is not None

    def _named(
        self, registry: Registry, name: str, desired: Desired | None, sources: Mapping[str, Mapping[str, Json]]
    ) -> Wanted:
        if desired is None:
            return Wanted(fleet=name, snapshot=None, reason=f"there is no fleet {name!r}; register it")
        wanted = _wanted(desired, sources)
        reference = self._fixed[name]
        if reference is None or not wanted.loaded:
            return wanted
        snapshot, reason = _resolved(registry, reference)
        return Wanted(
            fleet=name,
            snapshot=snapshot,
            spec=wanted.spec,
            sources=wanted.sources,
            reason=reason,
            alias=reference.alias or "",
        )


def earlier(registry: Registry, wanted: Wanted) -> list[SnapshotRecord]:
    """The snapshots that the alias named before the one that is wanted, latest first, but not many.

    Raises
    ------
    StorageError
        The registry cannot be reached.
    """
    if not wanted.alias or wanted.snapshot is None:
        return []
    named = dict.fromkeys(change.after for change in registry.alias_history(wanted.fleet, wanted.alias))
    named.pop(wanted.snapshot.version, None)
    records = [registry.snapshot(wanted.fleet, version) for version in list(named)[:STAND_INS]]
    return [record for record in records if record.collected_at is None]


def unloaded(fleet: str) -> Unloaded:
    """The refusal of what is asked of a fleet that was unloaded."""
    return Unloaded(f"the fleet {fleet!r} is unloaded; `shoal fleets load {fleet}` loads it", retry_after_s=None)


def _wanted(desired: Desired, sources: Mapping[str, Mapping[str, Json]]) -> Wanted:
    name = desired.fleet
    reason = ""
    if not desired.loaded:
        reason = "it was unloaded; load it to have it served again"
    elif desired.snapshot is None:
        option = "" if desired.alias == CHAMPION else f" --alias {desired.alias}"
        reason = f"no snapshot is its {desired.alias}; promote one with `shoal promote {name}:VERSION{option}`"
    used = {source: sources[source] for source in _texts(desired.spec) if source in sources}
    return Wanted(
        fleet=name,
        snapshot=desired.snapshot,
        loaded=desired.loaded,
        spec=desired.spec,
        sources=used,
        reason=reason,
        alias=desired.alias if desired.pinned is None else "",
    )


def _texts(value: Json) -> set[str]:
    """All texts in a value: among them the names of the sources that a spec refers to."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return {text for part in parts for text in _texts(part)}


def _resolved(registry: Registry, reference: Reference) -> tuple[SnapshotRecord | None, str]:
    text = f"{reference.fleet}:{reference.version}" if reference.version else f"{reference.fleet}@{reference.alias}"
    try:
        return registry.resolve(text), ""
    except NotFound as error:
        return None, str(error)
