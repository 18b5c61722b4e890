"""Which rows models are fitted on and which they are measured on; a row is never both, at no level."""

import datetime as dt
import enum
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.times import iso_time
from shoal.training.spec import Split, TrainSpec, Window


class Role(enum.IntEnum):
    """What a row is used for."""

    UNUSED = 0
    TRAIN = 1
    VALIDATION = 2


Roles = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """Rows by their use.

    Attributes
    ----------
    roles : ndarray of uint8, shape (rows,)
        A :class:`Role` per row.
    description : str
        How it was decided, for people.
    window : tuple of (datetime, datetime) or None
        First and last time of the rows that models end up fitted on; with a split by time only.
    """

    roles: Roles
    description: str
    window: tuple[dt.datetime, dt.datetime] | None = None

    def count(self, role: Role) -> int:
        """How many rows are used so."""
        return int((self.roles == role).sum())


def divide(frame: pl.DataFrame, spec: TrainSpec) -> Division:
    """Divide rows into those to fit on and those to measure on.

    Parameters
    ----------
    frame : polars.DataFrame
        The usable rows, sorted by key.
    spec : TrainSpec
        Says how.

    Raises
    ------
    InvalidInput
        One of the two parts is empty.
    """
    split = spec.split
    if split.time is None:
        division = _at_random(frame, spec)
    elif split.fraction is not None:
        division = _latest(frame[split.time], split.fraction)
    else:
        division = _windows(frame[split.time], split)
    for role, word in ((Role.TRAIN, "to train on"), (Role.VALIDATION, "to measure on")):
        if not division.count(role):
            raise InvalidInput(f"the split ({division.description}) leaves no rows {word}; change 'split'")
    if split.time is None:
        return division
    fitted = division.roles != Role.UNUSED if spec.refit else division.roles == Role.TRAIN
    return replace(division, window=span(frame[split.time].filter(pl.Series(fitted))))


def _at_random(frame: pl.DataFrame, spec: TrainSpec) -> Division:
    """Hold out the fraction of every segment, drawn by the seed; what is left of a row, by chance."""
    fraction = spec.split.fraction or 0.0
    sizes = frame.group_by(spec.keys, maintain_order=True).len("rows")["rows"].to_numpy() if spec.keys else [len(frame)]
    sizes = np.asarray(sizes, dtype=np.int64)
    segment = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(spec.seed)
    order = np.lexsort((rng.random(len(frame)), segment))
    place = np.arange(len(frame)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = np.floor(sizes * fraction + rng.random(len(sizes)))
    roles = np.full(len(frame), Role.TRAIN, dtype=np.uint8)
    roles[order[place < np.repeat(held, sizes)]] = Role.VALIDATION
    return Division(roles=roles, description=f"{fraction:.0%} of every segment at random, seed {spec.seed}")


def _latest(times: pl.Series, fraction: float) -> Division:
    """Hold out the latest rows; rows of one moment stay together, on the later side."""
    cut = times.sort()[len(times) - max(1, round(len(times) * fraction))]
    held = (times >= cut).to_numpy()
    roles = np.where(held, np.uint8(Role.VALIDATION), np.uint8(Role.TRAIN))
    return Division(roles=roles, description=f"the latest rows, from {cut}")


def _windows(times: pl.Series, split: Split) -> Division:
    held = split.validation or Window()
    train = split.train or Window()
    begin = Window(from_=train.from_, until=train.until or held.from_)
    roles = np.zeros(len(times), dtype=np.uint8)
    roles[_within(times, begin)] = Role.TRAIN
    roles[_within(times, held)] = Role.VALIDATION
    description = f"{split.time}: train {_text(begin)}, measure {_text(held)}"
    return Division(roles=roles, description=description)


def _within(times: pl.Series, window: Window) -> NDArray[np.bool_]:
    inside = np.ones(len(times), dtype=np.bool_)
    if window.from_ is not None:
        inside &= (times >= _moment(window.from_, times.dtype)).to_numpy()
    if window.until is not None:
        inside &= (times < _moment(window.until, times.dtype)).to_numpy()
    return inside


def _moment(text: str, dtype: pl.DataType) -> dt.date | dt.datetime:
    """A text as a value that compares with the column; without a zone it is in the column's own."""
    moment = iso_time(text)
    assert moment is not None  # the spec was checked
    if not isinstance(dtype, pl.Datetime):
        return moment.date() if moment.time() == dt.time.min else moment.date() + dt.timedelta(days=1)
    column = pl.Series([moment])
    if moment.tzinfo is None and dtype.time_zone is not None:
        column = column.dt.replace_time_zone(dtype.time_zone)
    elif moment.tzinfo is not None:
        column = column.dt.convert_time_zone(dtype.time_zone or "UTC")
        column = column if dtype.time_zone else column.dt.replace_time_zone(None)
    value = column.item()
    assert isinstance(value, dt.datetime)
    return value


def span(times: pl.Series) -> tuple[dt.datetime, dt.datetime]:
    """First and last of some dates or times, in UTC."""
    ends = pl.Series([times.min(), times.max()], dtype=times.dtype).cast(pl.Datetime("us", _zone(times)))
    first, last = ends
    return _utc(first), _utc(last)


def _zone(times: pl.Series) -> str | None:
    return times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None


def _utc(moment: dt.datetime) -> dt.datetime:
    """A time without a zone is taken for UTC."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _text(window: Window) -> str:
    return f"[{window.from_ or 'the first'}, {window.until or 'the last'})"
