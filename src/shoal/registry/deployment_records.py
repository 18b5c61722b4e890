"""What the registry keeps for servers to share, as values."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.registry.records import SnapshotRecord
from shoal.types import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Desired:
    """What servers are to do with a fleet.

    Attributes
    ----------
    fleet : str
        Its name.
    alias : str
        Which alias they follow.
    pinned : int or None
        The version that stays wherever the alias moves; None while none is pinned.
    loaded : bool
        Whether it is to be served.
    snapshot : SnapshotRecord or None
        What that means now; None while the alias names nothing.
    spec : mapping
        How it is served beside its models; empty where nobody said.
    category : str
        The fleet's category.
    tags : tuple of str
        The fleet's tags, sorted.
    changed_at : datetime or None
        When somebody last said so, UTC; None where all of this is the default.
    """

    fleet: str
    alias: str
    pinned: int | None
    loaded: bool
    snapshot: SnapshotRecord | None
    spec: Mapping[str, Json]
    category: str
    tags: tuple[str, ...]
    changed_at: dt.datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerRecord:
    """A server as it tells of itself.

    Attributes
    ----------
    id : str
        Unique among servers, new at each start.
    url : str
        Where it answers requests.
    grpc_url, admin_url : str or None
        Where it answers gRPC and management; None where it does not.
    category : str
        The category whose fleets it serves; empty for all.
    fleets : mapping of str to int
        The fleets it serves and their versions.
    missed : mapping of str to int
        Versions that it should serve and cannot, by fleet.
    staleness_s : float
        Seconds since it last heard from the registry when it told this.
    started_at : datetime
        When it started, by its own clock, UTC.
    beat_at : datetime or None
        When it was last heard of, by the database's clock, UTC; the registry writes it.
    """

    id: str
    url: str
    grpc_url: str | None = None
    admin_url: str | None = None
    category: str = ""
    fleets: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    staleness_s: float = 0.0
    started_at: dt.datetime
    beat_at: dt.datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreRecord:
    """The snapshot store of a category.

    Attributes
    ----------
    category : str
        The category.
    folder : str
        Absolute path of its store.
    changed_at : datetime
        When it was set, UTC.
    changed_by : str
        Who set it.
    """

    category: str
    folder: str
    changed_at: dt.datetime
    changed_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """A named source of features, or sink of results.

    Attributes
    ----------
    name : str
        Its name.
    spec : mapping
        What it is and how it is reached; secrets only as names of environment variables.
    changed_at : datetime
        When it was set, UTC.
    changed_by : str
        Who set it.
    """

    name: str
    spec: Mapping[str, Json]
    changed_at: dt.datetime
    changed_by: str
