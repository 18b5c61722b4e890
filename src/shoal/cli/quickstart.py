"""``shoal quickstart``: five acts on real data."""

import click

from shoal.cli import output
from shoal.cli.invocation import Invocation
from shoal.cli.progress import reporting
from shoal.errors import NotFound


@click.command()
@click.pass_obj
def quickstart(invocation: Invocation) -> None:
    """See what Shoal does, on real data, in five acts and under two minutes.

    Nothing leaves this machine. Fleets and runs land in Shoal's home as any others do, data and the page in its folder
    ``quickstart``.
    """
    try:
        from shoal.quickstart.play import play
        from shoal.quickstart.stage import Stage
    except ImportError as error:
        raise NotFound(f"{error.name} is not installed; run: pip install 'shoal[quickstart]'") from error
    with invocation.workspace() as workspace, reporting() as progress:
        play(Stage(console=output.console(), progress=progress), workspace)
