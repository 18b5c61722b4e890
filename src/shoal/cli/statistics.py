"""``shoal fleets stats``: what servers say of how much they were asked."""

import click
import msgspec

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, console, examples, json_option, print_listing
from shoal.errors import NotFound, StorageError
from shoal.serving.messages import ModelStatistics

_COLUMNS = ("server", "name", "version", "requests", "failures", "rows", "batches", "cache_hits", "mean_ms")
_NONE = "no server is alive; start one with `shoal serve`, or name one with --url"
_NEVER = "nothing was asked yet"
_TIMEOUT_S = 10.0


@click.command(
    epilog=examples("shoal fleets stats", "shoal fleets stats pumps --json", "shoal fleets stats --url http://10.0.0.7:8080")
)  # fmt: skip
@click.argument("name", required=False)
@click.option("--url", metavar="URL", help="Ask this server.  [default: all that are alive]")
@click.option("--api-key", metavar="KEY", envvar="SHOAL_API_KEY", help="Shown to servers; SHOAL_API_KEY unless given.")
@json_option
@click.pass_obj
def stats(invocation: Invocation, name: str | None, url: str | None, api_key: str | None, as_json: bool) -> None:
    """Show what servers were asked, per fleet and snapshot.

    Counted since each server began to serve the snapshot. Without NAME: every fleet.
    """
    asked = {address: _asked(address, api_key) for address in _servers(invocation, url)}
    if all(told is None for told in asked.values()):
        raise StorageError("no server answers; `shoal services` lists those that are alive")
    found = [(address, one) for address, told in asked.items() for one in told or () if name in (None, one.name)]
    if name is not None and not found:
        raise NotFound(f"no server serves a fleet {name!r}; `shoal services` lists what they serve")
    print_listing([_shown(*one) for one in found], _COLUMNS, as_json=as_json, empty=_NEVER)


def _servers(invocation: Invocation, url: str | None) -> list[str]:
    if url is not None:
        return [url]
    with invocation.workspace() as workspace:
        alive = [service.url for service in workspace.services()]
    if not alive:
        raise NotFound(_NONE)
    return alive


def _asked(url: str, api_key: str | None) -> list[ModelStatistics] | None:
    """What a server says; one that is gone by now says nothing, which costs the others' numbers nothing."""
    from shoal.client import connect  # needs httpx, which not every installation has

    try:
        with connect(url, api_key=api_key, timeout_s=_TIMEOUT_S) as client:
            return client.statistics()
    except StorageError as error:
        console(err=True).print(str(error))
        return None


def _shown(url: str, one: ModelStatistics) -> dict[str, Cell]:
    mean_ms = one.request_ns / one.requests / 1e6 if one.requests else None
    return {"server": url, **msgspec.structs.asdict(one), "mean_ms": mean_ms}
