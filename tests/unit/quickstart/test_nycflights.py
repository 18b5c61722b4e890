"""The quickstart's data is what the act says it is."""

import math

import polars as pl
import pytest

from shoal.quickstart import nycflights


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    return nycflights.flights()


@pytest.fixture(scope="module")
def readings() -> pl.DataFrame:
    return nycflights.sensor_readings()


def test_every_flight_is_there_once(flights):
    assert flights.height == 336_776
    assert flights["air_time"].null_count() == 9_430
    assert flights.select(nycflights.KEYS).n_unique() == 224
    assert flights["time_hour"].is_sorted()


def test_joining_the_weather_neither_repeats_nor_drops(flights):
    july = flights.filter(pl.col("time_hour").dt.month() == 7)
    assert july["temp"].null_count() / july.height < 0.01
    assert flights["distance"].null_count() == 0


def test_wind_keeps_its_speed_and_blows_away_from_its_direction(flights):
    weather = nycflights._read("weather.csv")
    first = flights.row(0, named=True)
    row = weather.filter((pl.col("origin") == first["origin"]) & (pl.col("time_hour") == first["time_hour"]))
    speed, direction = row["wind_speed"][0], row["wind_dir"][0]
    assert math.hypot(first["wind_u"], first["wind_v"]) == pytest.approx(speed)
    assert math.degrees(math.atan2(-first["wind_u"], -first["wind_v"])) % 360 == pytest.approx(direction % 360)


def test_circles_have_radius_one(flights):
    for name in ("season", "hour"):
        radius = (flights[f"{name}_sin"] ** 2 + flights[f"{name}_cos"] ** 2).sqrt()
        assert (radius - 1).abs().max() < 1e-12


def test_readings_are_long_and_changes_stay_within_one_sensor(readings):
    assert readings.height == 26_115 * 9
    assert readings.select("station", "sensor").n_unique() == 27
    firsts = readings.group_by("station", "sensor", maintain_order=True).first()
    assert firsts["change"].null_count() == 27
