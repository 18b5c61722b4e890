"""Where the marks of the page's pictures go. The template only draws what is worked out here.

Lengths are in the picture's own units; the page scales them.
"""

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.quickstart.findings import Alternative, Anomaly, Route
from shoal.types import Counts

WIDTH = 1080
SHADES = 7
YEAR = 2013
UNITS = {
    "temp": "°F",
    "dewp": "°F",
    "humid": "%",
    "wind_dir": "°",
    "wind_speed": "mph",
    "wind_gust": "mph",
    "precip": "in",
    "pressure": "mbar",
    "visib": "mi",
}
"""Unit of each sensor of a weather station."""

NAMES = {
    "temp": "temperature",
    "dewp": "dew point",
    "humid": "humidity",
    "wind_dir": "wind direction",
    "wind_speed": "wind speed",
    "wind_gust": "wind gust",
    "precip": "precipitation",
    "pressure": "pressure",
    "visib": "visibility",
}
"""Each sensor in words."""

ANSWERED_BY = {
    "route": "a model of its own",
    "destination": "its destination's model",
    "global": "the global model",
}
"""Who answered for a route, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A rectangle or a dot with something to say.

    Attributes
    ----------
    x, y : float
        Corner of a rectangle, middle of a dot.
    width, height : float
        Size of a rectangle; ``width`` is a dot's radius.
    style : str
        Class that gives it its colour.
    title : str
        Shown when the reader points at it.
    """

    x: float
    y: float
    width: float
    height: float = 0.0
    style: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A label.

    Attributes
    ----------
    x, y : float
        Where it starts, ends or has its middle.
    words : str
        What it says.
    """

    x: float
    y: float
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One picture.

    Attributes
    ----------
    width, height : float
        Its size.
    marks : tuple of Mark
        Rectangles or dots.
    rows, columns : tuple of Text
        Labels to the left, and above or below.
    legend : tuple of (style, words)
        What the colours mean.
    """

    width: float
    height: float
    marks: tuple[Mark, ...]
    rows: tuple[Text, ...] = ()
    columns: tuple[Text, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()


def heat_map(routes: Sequence[Route]) -> Chart:
    """Models by key and error: origins down, destinations across by distance, the darker the further off."""
    origins = sorted({route.origin for route in routes})
    far = {route.dest: route.distance_mi for route in routes}
    places = sorted(far, key=lambda dest: (far[dest], dest))
    left, top, tall = 44.0, 40.0, 30.0
    wide = (WIDTH - left) / len(places)
    edges = _edges([route.error_min for route in routes])
    marks = tuple(
        Mark(
            x=left + places.index(route.dest) * wide,
            y=top + origins.index(route.origin) * tall,
            width=wide - 1,
            height=tall - 2,
            style=f"shade-{_shade(route.error_min, edges)}" + ("" if route.own else " borrowed"),
            title=f"{route.origin} to {route.dest}, {route.distance_mi:,.0f} mi: off by {route.error_min:.1f} min "
            f"on average over {_flights(route.flights)}, answered by {ANSWERED_BY[route.level]}",
        )
        for route in routes
    )
    return Chart(
        width=WIDTH,
        height=top + len(origins) * tall,
        marks=marks,
        rows=tuple(Text(x=0, y=top + (i + 0.6) * tall, words=name) for i, name in enumerate(origins)),
        columns=tuple(Text(x=left + (i + 0.5) * wide, y=top - 6, words=name) for i, name in enumerate(places)),
        legend=(
            *((f"shade-{i}", words) for i, words in enumerate(_bins(edges))),
            ("borrowed", "answered by a coarser model"),
        ),
    )


def _flights(count: int) -> str:
    return "1 flight" if count == 1 else f"{count:,} flights"


def _edges(errors: Sequence[float]) -> list[float]:
    """Round borders between the shades, at equal shares of the models."""
    ordered = sorted(errors)
    borders = {round(ordered[len(ordered) * i // SHADES]) for i in range(1, SHADES)}
    return [float(border) for border in sorted(borders)]


def _shade(error: float, edges: Sequence[float]) -> int:
    return sum(error >= edge for edge in edges)


def _bins(edges: Sequence[float]) -> list[str]:
    inner = [f"{low:.0f} to {high:.0f}" for low, high in itertools.pairwise(edges)]
    return [f"under {edges[0]:.0f}", *inner, f"{edges[-1]:.0f} and more"]


def bars(alternatives: Sequence[Alternative]) -> list[tuple[Alternative, float]]:
    """Each alternative with the length of its bar, as a share of the longest."""
    longest = max(alternative.error_min for alternative in alternatives)
    return [(alternative, alternative.error_min / longest) for alternative in alternatives]


def outcomes(counts: Counts) -> Chart:
    """One bar, cut by what became of the rows."""
    parts = [(word, getattr(counts, word)) for word in ("scored", "fallback", "no_model", "invalid", "failed")]
    total = max(counts.rows, 1)
    marks, x = [], 0.0
    for word, rows in parts:
        width = WIDTH * rows / total
        title = f"{word.replace('_', ' ')}: {rows:,} of {counts.rows:,} rows"
        marks.append(Mark(x=x, y=0, width=width, height=18, style=word, title=title))
        x += width
    return Chart(width=WIDTH, height=18, marks=tuple(mark for mark in marks if mark.width > 0))


def time_line(anomalies: Sequence[Anomaly]) -> Chart:
    """The year across, one lane per sensor, a dot per strange hour: its colour is the station."""
    lanes = [sensor for sensor in NAMES if any(anomaly.sensor == sensor for anomaly in anomalies)]
    stations = sorted({anomaly.station for anomaly in anomalies})
    left, top, tall = 150.0, 28.0, 34.0
    marks = tuple(
        Mark(
            x=left + _share_of_year(anomaly.time) * (WIDTH - left - 10),
            y=top + (lanes.index(anomaly.sensor) + 0.5) * tall,
            width=2.5 + 5.5 * math.sqrt(anomaly.strangeness),
            style=f"station-{stations.index(anomaly.station)}",
            title=f"{anomaly.station}, {NAMES[anomaly.sensor]} {reading(anomaly)} ({change(anomaly)} in an hour), "
            f"{anomaly.time:%d %B %H:%M} UTC: {anomaly.strangeness:.0%} strange",
        )
        for anomaly in anomalies
    )
    months = [dt.datetime(YEAR, month, 1, tzinfo=dt.UTC) for month in range(1, 13)]
    return Chart(
        width=WIDTH,
        height=top + len(lanes) * tall,
        marks=marks,
        rows=tuple(Text(x=0, y=top + (i + 0.6) * tall, words=NAMES[lane]) for i, lane in enumerate(lanes)),
        columns=tuple(
            Text(x=left + _share_of_year(month) * (WIDTH - left - 10), y=16, words=f"{month:%b}") for month in months
        ),
        legend=tuple((f"station-{i}", station) for i, station in enumerate(stations)),
    )


def reading(anomaly: Anomaly) -> str:
    """What the sensor said, with its unit."""
    return _with_unit(f"{anomaly.reading:,.4g}", anomaly.sensor)


def change(anomaly: Anomaly) -> str:
    """How the reading moved within an hour, with its unit."""
    return _with_unit(f"{anomaly.change:+,.4g}", anomaly.sensor)


def _with_unit(number: str, sensor: str) -> str:
    unit = UNITS[sensor]
    return f"{number}{unit}" if unit in "°%" else f"{number} {unit}"


def _share_of_year(time: dt.datetime) -> float:
    start = dt.datetime(YEAR, 1, 1, tzinfo=dt.UTC)
    return min(max((time - start) / dt.timedelta(days=365), 0.0), 1.0)
