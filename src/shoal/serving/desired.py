"""What a server should serve, by the registry and by what it was started with."""

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import InvalidInput, NotFound
from shoal.registry import CHAMPION, Reference, Registry, SnapshotRecord, parse_reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A fleet that should be served.

    Attributes
    ----------
    fleet : str
        Its name.
    snapshot : SnapshotRecord or None
        Which snapshot; None if there is none to serve.
    reason : str
        Why there is none.
    """

    fleet: str
    snapshot: SnapshotRecord | None
    reason: str = ""


class Selection:
    """The fleets that a server was started with.

    Parameters
    ----------
    references : sequence of str
        ``NAME``, ``NAME@alias`` or ``NAME:version``; none for all that the registry says.

    Raises
    ------
    InvalidInput
        A text is no reference, or two are of the same fleet.
    """

    def __init__(self, references: Sequence[str]) -> None:
        self.references: dict[str, Reference] = {}
        for text in references:
            reference = parse_reference(text)
            if reference.fleet in self.references:
                raise InvalidInput(f"fleet {reference.fleet!r} is named twice; a server serves one snapshot by a name")
            self.references[reference.fleet] = reference

    def look(self, registry: Registry) -> list[Wanted] | None:
        """Ask the registry what should be served now.

        Returns
        -------
        list of Wanted or None
            None when nothing has changed since the last time.

        Raises
        ------
        StorageError
            The registry cannot be reached.
        """
        references = self.references or {
            record.name: Reference(fleet=record.name, alias=CHAMPION, version=None)
            for record in registry.fleets()
            if CHAMPION in record.aliases
        }
        return [_resolved(registry, reference) for reference in references.values()]


def _resolved(registry: Registry, reference: Reference) -> Wanted:
    text = f"{reference.fleet}:{reference.version}" if reference.version else f"{reference.fleet}@{reference.alias}"
    try:
        return Wanted(fleet=reference.fleet, snapshot=registry.resolve(text))
    except NotFound as error:
        return Wanted(fleet=reference.fleet, snapshot=None, reason=str(error))
