"""``shoal warm``: compile the kernels ahead."""

import time

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import json_option, print_json


@click.command()
@json_option
@click.pass_obj
def warm(invocation: Invocation, as_json: bool) -> None:
    """Compile the kernels, or load them from their cache, so that the first scoring need not.

    `make install` does this. Compiled kernels are kept beside the package, or in the home where that cannot be written.
    """
    # Importing the families takes most of a second; `shoal --help` need not wait for it.
    from shoal.scoring.warming import warm_kernels

    started = time.perf_counter()
    seconds = warm_kernels()
    total = time.perf_counter() - started
    if as_json:
        print_json({"kernels": seconds, "total_s": total})
        return
    for name, taken in seconds.items():
        click.echo(f"{name:<40} {taken:6.2f} s")
    click.echo(f"{len(seconds)} kernels ready in {total:.1f} s")
