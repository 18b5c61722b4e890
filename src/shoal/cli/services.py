"""``shoal services``: which servers are alive, and what they hold."""

import click
import msgspec

from shoal.cli.invocation import Invocation
from shoal.cli.output import examples, json_option, print_listing

_NONE = "no server is alive; start one with `shoal serve`"
_NONE_OF_THESE = "no server that is alive holds such a fleet; `shoal services` lists those that are"


@click.command(epilog=examples("shoal services", "shoal services --fleet pumps", "shoal services --key d7:temp --json"))
@click.option("--fleet", "name", help="Only servers of this fleet.")
@click.option("--tag", help="Only servers of fleets with this tag.")
@click.option("--category", help="Only servers of fleets of this category.")
@click.option("--key", help="Only servers of fleets that answer for this segment key, KEY1:KEY2.")
@json_option
@click.pass_obj
def services(
    invocation: Invocation, name: str | None, tag: str | None, category: str | None, key: str | None, as_json: bool
) -> None:
    """List the servers that are alive, and the fleets that they hold."""
    with invocation.workspace() as workspace:
        found = workspace.services(name=name, tag=tag, category=category, key=key)
    rows = [
        msgspec.to_builtins(service)
        if as_json
        else {
            "url": service.url,
            "grpc": service.grpc_url,
            "secured": service.secured,
            "authenticated": service.authenticated,
            "category": service.category,
            "staleness_s": service.staleness_s,
            "fleets": tuple(f"{fleet.name}:{fleet.version}" for fleet in service.fleets),
        }
        for service in found
    ]
    columns = ("url", "grpc", "secured", "authenticated", "category", "staleness_s", "fleets")
    is_narrow = any(one is not None for one in (name, tag, category, key))
    print_listing(rows, columns, as_json=as_json, empty=_NONE_OF_THESE if is_narrow else _NONE)
