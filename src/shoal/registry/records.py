"""What the registry keeps of fleets and their changes, as values."""

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shoal.types import InputFile, Json, Level


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetRecord:
    """A fleet as the registry knows it.

    Attributes
    ----------
    name : str
        Its unique name.
    owner, description, category : str
        Free text; empty where nobody said.
    tags : tuple of str
        Sorted, each once.
    created_at : datetime
        When it was created, UTC.
    created_by : str
        Who created it.
    latest : int or None
        Version of its newest snapshot; None while it has none.
    aliases : mapping of str to int
        Which version each alias names.
    """

    name: str
    owner: str
    description: str
    category: str
    tags: tuple[str, ...]
    created_at: dt.datetime
    created_by: str
    latest: int | None
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A model that is new in a snapshot.

    Attributes
    ----------
    key_text : str
        The segment key as text.
    level : Level
        The key columns it is keyed by; ``()`` for the global model.
    family : str
        Name of its family.
    rows : int
        Rows it was trained on.
    trained_at : datetime or None
        When, aware; None when unknown.
    metrics : mapping of str to float
        What was measured on it. NaN where a metric is not defined; infinity is kept as NaN.
    """

    key_text: str
    level: Level
    family: str
    rows: int = 0
    trained_at: dt.datetime | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A model and the snapshot that brought it.

    Attributes
    ----------
    version : int
        The snapshot in which the model was new.
    model : ModelRecord
        The model.
    created_at : datetime
        When the snapshot was registered, UTC.
    created_by : str
        Who registered it.
    run : str or None
        The run that trained it.
    """

    version: int
    model: ModelRecord
    created_at: dt.datetime
    created_by: str
    run: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Where a snapshot comes from.

    Attributes
    ----------
    inputs : tuple of InputFile
        The files it was trained on, pinned by digest.
    code_version : str
        Version of the code that made it, e.g. a commit.
    parameters : mapping
        What the training was told.
    libraries : mapping of str to str
        Name and version of the libraries that fitted the models.
    parent : int or None
        Version of the snapshot that it was made from.
    run : str or None
        The run that made it.
    """

    inputs: tuple[InputFile, ...] = ()
    code_version: str = ""
    parameters: Mapping[str, Json] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    parent: int | None = None
    run: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotRecord:
    """A snapshot as the registry knows it.

    Attributes
    ----------
    fleet : str
        Name of its fleet.
    version : int
        From 1, without gaps.
    digest : str
        Digest of its manifest.
    model_count : int
        Models it has.
    new_models : int
        How many of them are new in it.
    note : str
        What its maker said about it.
    created_at : datetime
        When it was registered, UTC.
    created_by : str
        Who registered it.
    run : str or None
        The run that made it.
    collected_at : datetime or None
        When garbage collection gave up its files, None while they are there.
    """

    fleet: str
    version: int
    digest: str
    model_count: int
    new_models: int
    note: str
    created_at: dt.datetime
    created_by: str
    run: str | None
    collected_at: dt.datetime | None

    @property
    def reference(self) -> str:
        """The text that names it, e.g. ``flights:3``."""
        return f"{self.fleet}:{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasRecord:
    """Where an alias points.

    Attributes
    ----------
    fleet, alias : str
        Their names.
    version : int
        The snapshot it names.
    changed_at : datetime
        When it was last moved, UTC.
    changed_by : str
        Who moved it.
    """

    fleet: str
    alias: str
    version: int
    changed_at: dt.datetime
    changed_by: str


class Move(enum.StrEnum):
    """How an alias came to move."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasChange:
    """One move of an alias.

    Attributes
    ----------
    fleet, alias : str
        Their names.
    number : int
        The alias's moves count from 1.
    move : Move
        How it came to move.
    before : int or None
        The version it named until then; None for its first move.
    after : int
        The version it names since.
    actor : str
        Who moved it.
    at : datetime
        When, UTC.
    reason : str
        Why, in the actor's words.
    """

    fleet: str
    alias: str
    number: int
    move: Move
    before: int | None
    after: int
    actor: str
    at: dt.datetime
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One change, as the audit keeps it for ever.

    Attributes
    ----------
    number : int
        From 1, without gaps.
    at : datetime
        When, UTC.
    actor : str
        Who.
    action : str
        What was done, e.g. ``alias.promote``.
    object : str
        To what, e.g. ``flights@champion``.
    before, after : Json
        The object as it was and as it is since; None where it did not exist.
    previous : str
        ``digest`` of the entry before; empty for the first.
    digest : str
        SHA-256 over all of the above.
    """

    number: int
    at: dt.datetime
    actor: str
    action: str
    object: str
    before: Json
    after: Json
    previous: str
    digest: str


class Head(NamedTuple):
    """The newest change that the audit tells of.

    Attributes
    ----------
    number : int
        Its number; 0 while there is none.
    digest : str
        Its digest: a database that came back from a backup may reach the number again, by other changes.
    """

    number: int
    digest: str
