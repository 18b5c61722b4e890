"""The order of the acts."""

import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path

from shoal.quickstart import flights, powercut, race, report, sensors
from shoal.quickstart.findings import Findings
from shoal.quickstart.stage import Stage
from shoal.workspace import Workspace

_OWN_MODELS = """\
shoal import models --name pumps --keys device,sensor --features a,b,c --task anomaly --trust-pickle
shoal promote pumps:1
shoal score pumps --input 'readings/*.parquet' --output scores.parquet
"""

_OWN_SERVICE = """\
import shoal
pumps = shoal.open().fleet("pumps@champion")  # a memory map; open it once and keep it
pumps.predict({"device": ["pump-7"], "sensor": ["vibration"], "a": [0.1], "b": [2.0], "c": [3.5]})
"""

NEXT_STEPS: Sequence[tuple[str, str]] = (
    ("Three commands for a folder of your own models, such as models/pump-7/vibration.joblib:", _OWN_MODELS),
    ("To answer from within a service of your own, in Python:", _OWN_SERVICE),
)
"""What a reader can do now, and how: on the terminal and on the page."""


def play(stage: Stage, workspace: Workspace) -> Findings:
    """Play all five acts.

    Parameters
    ----------
    stage : Stage
        Where they print.
    workspace : Workspace
        Keeps the fleets and runs; data and the page go to ``quickstart`` in its home.

    Returns
    -------
    Findings
        What the acts found.
    """
    started = time.monotonic()
    folder = workspace.settings.home / "quickstart"
    findings = Findings(
        race=race.run(stage),
        air_time=flights.run(stage, workspace, folder),
        sensors=sensors.run(stage, workspace),
        power_cut=powercut.run(stage, workspace, folder),
    )
    page = report.write(findings, folder / "report.html", steps=NEXT_STEPS, made_at=dt.datetime.now(dt.UTC))
    _close(stage, page, time.monotonic() - started)
    return findings


def _close(stage: Stage, page: Path, seconds: float) -> None:
    stage.open(5, "A page", "All of it, as one file that needs no network:")
    stage.say((page.as_uri(), "bold"))
    for words, commands in NEXT_STEPS:
        stage.say("")
        stage.say(words)
        stage.code(commands)
    stage.say("")
    stage.say(f"Done in {seconds:.0f} s. What there is now: shoal fleets list, shoal runs list.")
