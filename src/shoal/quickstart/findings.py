"""What the acts found, as the terminal prints it and the page draws it."""

import datetime as dt
from dataclasses import dataclass

from shoal.types import Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """How the race went.

    Attributes
    ----------
    models, rows : int
        How many models answered how many rows.
    loop_s, shoal_s : float
        Time of the loop over preloaded scikit-learn models, and of one ``fleet.predict``.
    difference : float
        The largest absolute difference between two answers to the same row.
    """

    models: int
    rows: int
    loop_s: float
    shoal_s: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times as fast Shoal was."""
        return self.loop_s / self.shoal_s


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """What the ledger says about one run.

    Attributes
    ----------
    run : str
        Its id.
    snapshot : str
        Fleet and version it scored with, e.g. ``air-time:1``.
    source_rows : int
        Rows read from the input.
    counts : Counts
        What became of the rows that preprocessing left.
    """

    run: str
    snapshot: str
    source_rows: int
    counts: Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """How well one route's flights were predicted in November and December.

    Attributes
    ----------
    origin, dest : str
        Airport codes.
    distance_mi : float
        Miles between them.
    flights : int
        Flights with a known time in the air.
    error_min : float
        Mean absolute error, minutes.
    level : str
        Which model answered: the ``route``'s own, its ``destination``'s, or the ``global`` one.
    """

    origin: str
    dest: str
    distance_mi: float
    flights: int
    error_min: float
    level: str

    @property
    def own(self) -> bool:
        """Whether the route has a model of its own."""
        return self.level == "route"


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One way to predict the time in the air, and how far off it is.

    Attributes
    ----------
    name : str
        What it is.
    error_min : float
        Mean absolute error over all flights of November and December, minutes.
    """

    name: str
    error_min: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AirTime:
    """Many models on real data.

    Attributes
    ----------
    routes : tuple of Route
        Every route flown in November and December.
    alternatives : tuple of Alternative
        The baselines, and what Shoal chose last.
    segments, kept : int
        Routes seen in training, and those that kept a model of their own.
    ledger : LedgerEntry
        The batch job's account.
    """

    routes: tuple[Route, ...]
    alternatives: tuple[Alternative, ...]
    segments: int
    kept: int
    ledger: LedgerEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class Anomaly:
    """An hour in which a sensor said something out of the ordinary.

    Attributes
    ----------
    station, sensor : str
        Which instrument.
    time : datetime
        When, in UTC.
    reading, change : float
        What it said, and by how much more than an hour ago, in the sensor's own unit.
    strangeness : float
        0 at the border of the ordinary, 1 where the reading resembles nothing its model was trained on.
    """

    station: str
    sensor: str
    time: dt.datetime
    reading: float
    change: float
    strangeness: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensors:
    """A year of weather stations.

    Attributes
    ----------
    models, readings : int
        How many models looked at how many readings.
    invalid : int
        Readings the instruments did not give, which the models refuse to guess at.
    anomalies : tuple of Anomaly
        The strangest hours of every instrument, the strangest of all first.
    """

    models: int
    readings: int
    invalid: int
    anomalies: tuple[Anomaly, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerCut:
    """A job that was killed and finished later.

    Attributes
    ----------
    shards, done_before : int
        Parts of the job, and how many were done when it was killed.
    ledger : LedgerEntry
        The account after resuming.
    recounted : int
        Rows in the output, counted from the files and not from the ledger.
    input_rows : int
        Rows in the input, counted the same way.
    repeated : int
        Rows that are in the output more than once.
    """

    shards: int
    done_before: int
    ledger: LedgerEntry
    recounted: int
    input_rows: int
    repeated: int

    @property
    def whole(self) -> bool:
        """Whether every row of the input is in the output exactly once, and the ledger says the same."""
        counted = self.recounted == self.input_rows == self.ledger.counts.rows
        return counted and self.repeated == 0 and self.ledger.counts.reconciles


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All four acts.

    Attributes
    ----------
    race, air_time, sensors, power_cut
        What each act found.
    """

    race: Race
    air_time: AirTime
    sensors: Sensors
    power_cut: PowerCut
