"""What is known of a model beside its parameters."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.types import Key, Level


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What is known of a model beside its parameters.

    Attributes
    ----------
    rows : int
        Rows it was trained on.
    trained_at : datetime, optional
        When, in UTC.
    metrics : mapping of str to float
        Its figures of merit, by name.
    window : tuple of (datetime, datetime), optional
        First and last time of its training rows.
    libraries : mapping of str to str
        Versions of the libraries that fitted it.
    run : str, optional
        The run that made it.
    """

    rows: int = 0
    trained_at: dt.datetime | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    window: tuple[dt.datetime, dt.datetime] | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    run: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAddress:
    """Which model: its level and its key.

    Attributes
    ----------
    level : Level
        The key columns it is keyed by.
    key : Key
        Their values, in the order of the fleet's key columns.
    """

    level: Level
    key: Key
