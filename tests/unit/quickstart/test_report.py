"""The page holds what the acts found, loads nothing, and escapes what it is given."""

import dataclasses
import datetime as dt
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from shoal.quickstart import charts, report
from shoal.quickstart.findings import (
    AirTime,
    Alternative,
    Anomaly,
    Findings,
    LedgerEntry,
    PowerCut,
    Race,
    Route,
    Sensors,
)
from shoal.types import Counts

STEPS = (("Do this:", "shoal score 'a' < b"),)
NOON = dt.datetime(2013, 7, 1, 12, tzinfo=dt.UTC)


def route(origin: str, dest: str, error: float, level: str = "route", flights: int = 50) -> Route:
    return Route(origin=origin, dest=dest, distance_mi=len(dest) * error, flights=flights, error_min=error, level=level)


def anomaly(sensor: str = "temp", station: str = "JFK", time: dt.datetime = NOON, strangeness: float = 0.5) -> Anomaly:
    return Anomaly(station=station, sensor=sensor, time=time, reading=57.2, change=-44.1, strangeness=strangeness)


@pytest.fixture
def findings() -> Findings:
    counts = Counts(rows=100, scored=80, fallback=15, invalid=5)
    ledger = LedgerEntry(run="20261121-044012-x7f3", snapshot="air-time:1", source_rows=110, counts=counts)
    routes = [route("JFK", f"D{i:02}", 3 + i / 4, "route" if i % 3 else "global") for i in range(40)]
    return Findings(
        race=Race(models=10_000, rows=600_000, loop_s=5.0, shoal_s=0.05, difference=1e-15),
        air_time=AirTime(
            routes=tuple(routes),
            alternatives=(
                Alternative(name="one for all", error_min=10.0),
                Alternative(name="What Shoal chose", error_min=8.0),
            ),
            segments=40,
            kept=26,
            ledger=ledger,
        ),
        sensors=Sensors(models=27, readings=1000, invalid=17, anomalies=(anomaly(), anomaly("wind_speed", "EWR"))),
        power_cut=PowerCut(shards=8, done_before=4, ledger=ledger, recounted=100, input_rows=100, repeated=0),
    )


class Page(HTMLParser):
    """What a browser would load, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "xlink:href", "data", "action"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_loads_nothing(findings, tmp_path):
    path = report.write(findings, tmp_path / "new" / "report.html", steps=STEPS, made_at=NOON)
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_page_says_what_the_acts_found(findings):
    text = report.render(findings, steps=STEPS, made_at=NOON)
    said = ("100\N{MULTIPLICATION SIGN}", "8.00 min", "20261121-044012-x7f3", "26 of 40 routes", "57.2 °F", "-44.1 °F")
    for words in (*said, "JFK to D39"):
        assert words in text, words
    assert text.count("<title>JFK to") == 40


def test_names_are_escaped(findings):
    air_time = dataclasses.replace(
        findings.air_time, alternatives=(Alternative(name="<script>alert(1)</script>", error_min=1.0),)
    )
    text = report.render(dataclasses.replace(findings, air_time=air_time), steps=STEPS, made_at=NOON)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_no_number_of_the_page_is_missing(findings):
    text = report.render(findings, steps=STEPS, made_at=NOON)
    assert not re.search(r"\b(nan|None|Undefined)\b", text)


def test_heat_map_cells_lie_in_the_picture_and_apart(findings):
    chart = charts.heat_map(findings.air_time.routes)
    assert len(chart.marks) == len(findings.air_time.routes)
    for mark in chart.marks:
        assert mark.x >= 0
        assert mark.x + mark.width <= chart.width
        assert mark.y + mark.height <= chart.height
    assert len({(mark.x, mark.y) for mark in chart.marks}) == len(chart.marks)


def test_the_darker_the_further_off(findings):
    chart = charts.heat_map(findings.air_time.routes)
    errors = [found.error_min for found in findings.air_time.routes]
    shades = [int(re.match(r"shade-(\d)", mark.style)[1]) for mark in chart.marks]
    ordered = [shade for _, shade in sorted(zip(errors, shades, strict=True))]
    assert all(low <= high for low, high in pairwise(ordered))
    assert max(shades) == len([style for style, _ in chart.legend if style.startswith("shade")]) - 1


def test_a_borrowed_answer_looks_borrowed(findings):
    chart = charts.heat_map(findings.air_time.routes)
    for mark, found in zip(chart.marks, findings.air_time.routes, strict=True):
        assert ("borrowed" in mark.style) is not found.own


def test_equal_errors_still_give_a_legend():
    chart = charts.heat_map([route("JFK", "AAA", 5.0), route("JFK", "BBB", 5.0)])
    assert [words for _, words in chart.legend][:2] == ["under 5", "5 and more"]


def test_outcomes_fill_the_bar_without_gaps():
    chart = charts.outcomes(Counts(rows=10, scored=7, invalid=3))
    first, second = chart.marks
    assert (first.style, second.style) == ("scored", "invalid")
    assert second.x == pytest.approx(first.width)
    assert second.x + second.width == pytest.approx(chart.width)
    assert charts.outcomes(Counts()).marks == ()


def test_time_runs_from_left_to_right():
    early, late = (
        anomaly(time=dt.datetime(2013, 1, 1, tzinfo=dt.UTC)),
        anomaly(time=dt.datetime(2013, 12, 31, tzinfo=dt.UTC)),
    )
    chart = charts.time_line([early, late])
    assert chart.marks[0].x == chart.columns[0].x
    assert chart.columns[-1].x < chart.marks[1].x < chart.width


def test_stranger_hours_have_larger_dots():
    chart = charts.time_line([anomaly(strangeness=0.1), anomaly(strangeness=0.9)])
    assert chart.marks[0].width < chart.marks[1].width


def test_a_power_cut_is_whole_only_when_everything_agrees(findings):
    cut = findings.power_cut
    assert cut.whole
    assert not dataclasses.replace(cut, repeated=1).whole
    assert not dataclasses.replace(cut, recounted=99).whole
    lost = dataclasses.replace(cut.ledger, counts=dataclasses.replace(cut.ledger.counts, scored=79))
    assert not dataclasses.replace(cut, ledger=lost).whole
