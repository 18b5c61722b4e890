"""Act five: everything on one page that needs no network."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from shoal.quickstart import charts
from shoal.quickstart.findings import Findings, Route
from shoal.storage.files import write_atomically

WORST = 8
"""How many anomalies and routes the page names in words."""


def write(findings: Findings, path: Path, *, steps: Sequence[tuple[str, str]], made_at: dt.datetime) -> Path:
    """Write the page.

    Parameters
    ----------
    findings : Findings
        What the acts found.
    path : Path
        The HTML file; replaced when it is there.
    steps : sequence of (words, commands)
        What the reader can do next.
    made_at : datetime
        When, for the page's foot.

    Returns
    -------
    Path
        ``path``, absolute.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    write_atomically(path, render(findings, steps=steps, made_at=made_at).encode())
    return path.absolute()


def render(findings: Findings, *, steps: Sequence[tuple[str, str]], made_at: dt.datetime) -> str:
    """Draw the page as one HTML document with everything in it."""
    air_time, power_cut = findings.air_time, findings.power_cut
    template = _environment().get_template("report.html.j2")
    return template.render(
        findings=findings,
        steps=steps,
        made_at=made_at,
        heat_map=charts.heat_map(air_time.routes),
        bars=charts.bars(air_time.alternatives),
        chosen=air_time.alternatives[-1],
        baselines=air_time.alternatives[:-1],
        time_line=charts.time_line(findings.sensors.anomalies),
        ledgers=[
            ("November and December, scored in one job", air_time.ledger, charts.outcomes(air_time.ledger.counts)),
            (
                "The job that was killed, after it was resumed",
                power_cut.ledger,
                charts.outcomes(power_cut.ledger.counts),
            ),
        ],
        worst_routes=_worst(air_time.routes),
        strangest=[
            (anomaly, charts.NAMES[anomaly.sensor], charts.reading(anomaly), charts.change(anomaly))
            for anomaly in findings.sensors.anomalies[:WORST]
        ],
        answered_by=charts.ANSWERED_BY,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shoal.quickstart"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["rounded"] = "{:.1f}".format
    return environment


def _worst(routes: Sequence[Route]) -> list[Route]:
    """Where the models are furthest off, among routes with enough flights to tell."""
    flown = [route for route in routes if route.flights >= 30]
    return sorted(flown, key=lambda route: -route.error_min)[:WORST]
