"""The quickstart, all five acts, as a stranger would run it, with a smaller race."""

import io
import re

import polars as pl
import pytest
from rich.console import Console

from shoal.quickstart import play, race
from shoal.quickstart.findings import Findings
from shoal.quickstart.stage import Stage
from shoal.telemetry.progress import SILENT
from shoal.workspace import Workspace, open_workspace

pytestmark = pytest.mark.xdist_group("quickstart")  # the acts are played once, by one worker


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with open_workspace(tmp_path_factory.mktemp("quickstart")) as opened:
        yield opened


@pytest.fixture(scope="module")
def said() -> Console:
    return Console(record=True, width=100, file=io.StringIO())


@pytest.fixture(scope="module")
def findings(workspace: Workspace, said: Console) -> Findings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "MODELS", 200)
        return play.play(Stage(console=said, progress=SILENT), workspace)


def test_shoal_wins_the_race_with_the_same_answers(findings):
    assert findings.race.models == 200
    assert findings.race.rows == 200 * race.ROWS_EACH
    assert findings.race.difference < 1e-9


def test_many_models_beat_one(findings):
    errors = {alternative.name: alternative.error_min for alternative in findings.air_time.alternatives}
    assert errors["One Ridge for all routes"] == pytest.approx(10.06, abs=0.05)
    assert errors["A Ridge per route, in a loop"] == pytest.approx(8.07, abs=0.05)
    assert errors["What Shoal chose"] < errors["One Ridge for all routes"]
    assert errors["What Shoal chose"] < errors["One gradient boosting for all routes"]


def test_the_ledger_counts_november_and_december(findings, workspace):
    ledger = findings.air_time.ledger
    year = pl.read_parquet(workspace.settings.home / "quickstart" / "flights.parquet")
    assert ledger.source_rows == year.height
    assert ledger.counts.rows == year.filter(pl.col("date").dt.month() >= 11).height
    assert ledger.counts.reconciles
    assert ledger.counts.fallback > 0


def test_routes_are_measured_on_all_their_flights(findings, workspace):
    scored = pl.read_parquet(workspace.settings.home / "quickstart" / "air-time.parquet").drop_nulls("air_time")
    routes = findings.air_time.routes
    assert sum(route.flights for route in routes) == scored.height
    overall = sum(route.error_min * route.flights for route in routes) / scored.height
    assert overall == pytest.approx(findings.air_time.alternatives[-1].error_min)
    assert {route.level for route in routes} == {"route", "destination", "global"}


def test_the_known_faults_of_2013_are_the_strangest_hours(findings):
    strangest = findings.sensors.anomalies[0]
    assert (strangest.station, strangest.sensor, round(strangest.reading)) == ("EWR", "wind_speed", 1048)
    may = [a for a in findings.sensors.anomalies[:4] if (a.station, a.sensor) == ("JFK", "temp")]
    assert [f"{anomaly.time:%m-%d}" for anomaly in may] == ["05-09"]
    assert findings.sensors.models == 27


def test_nothing_is_lost_or_repeated_by_a_power_cut(findings):
    cut = findings.power_cut
    assert 0 < cut.done_before < cut.shards
    assert cut.whole


def test_the_fleets_are_there_to_be_used(workspace, findings):
    assert len(workspace.fleet("weather-sensors@champion")) == 27
    assert workspace.fleet("air-time@champion").version == 1


def test_the_page_and_the_terminal_say_the_same(findings, workspace, said):
    page = (workspace.settings.home / "quickstart" / "report.html").read_text()
    text = said.export_text()
    chosen = f"{findings.air_time.alternatives[-1].error_min:.2f} min"
    for words in (chosen, findings.air_time.ledger.run, findings.power_cut.ledger.run, "1,048 mph"):
        assert words in page
        assert words in text
    assert re.search(r"Done in \d+ s", text)
