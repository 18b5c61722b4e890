"""``shoal serve``: real-time inference over REST and gRPC."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from shoal.cli.invocation import Invocation
from shoal.cli.output import examples
from shoal.errors import InvalidInput
from shoal.storage.decoding import decodable
from shoal.storage.files import storage_errors

if TYPE_CHECKING:
    from shoal.server.listening import Addresses
    from shoal.server.options import TlsFiles

_OPEN = (
    "No API keys: whoever is on this machine may ask and change everything. Only loopback is served; make a key with "
    "`shoal keys create NAME --role predictor`."
)
_UNFLUSHED = (
    "The database has {0} switched off: results that were answered, and requests that were accepted, may be lost in a "
    "power cut. Switch {0} on there."
)
_FILE = click.Path(path_type=Path)
_PORT = click.IntRange(0, 65535)
_NEEDED = ("uvicorn", "uvloop", "httptools", "fastapi", "grpc", "prometheus_client")


@click.command(
    epilog=examples(
        "shoal serve",
        "shoal serve pumps flights@canary --workers 4",
        "shoal serve --host 10.0.0.7",
        "shoal serve --tls-certificate tls.crt --tls-key tls.key",
    )
)
@click.argument("fleets", nargs=-1)
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that serve.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=8080, show_default=True, help="Port of REST; 0 takes a free one.")
@click.option("--grpc-port", type=_PORT, default=8081, show_default=True, help="Port of gRPC; 0 takes a free one.")
@click.option("--no-grpc", is_flag=True, help="Do without gRPC.")
@click.option("--admin-port", type=_PORT, help="Port of management and metrics, which then are not on --port.")
@click.option("--category", default="", help="Where no fleets are named: only those of this category.")
@click.option("--tls-certificate", type=_FILE, help="Secure all ports with the certificate in this file, in PEM.")
@click.option("--tls-key", type=_FILE, help="Its private key, in PEM.")
@click.option("--tls-client-ca", type=_FILE,
              help="Serve only clients with a certificate of one of these authorities, in PEM.")  # fmt: skip
@click.option("--url", metavar="URL", help="Where others reach REST, when that is not where it listens.")
@click.option("--drain-timeout", type=click.FloatRange(min=0), default=30.0, show_default=True,
              help="Seconds that requests under way may take to finish when the server ends.")  # fmt: skip
@click.option("--request-timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True,
              help="Seconds that a request may take.")  # fmt: skip
@click.option("--max-body", type=click.IntRange(min=1), default=64 * 2**20, show_default=True,
              help="Bytes that a request may have.")  # fmt: skip
@click.option("--max-rows", type=click.IntRange(min=1), default=200_000, show_default=True,
              help="Rows that a request may have; a fleet may allow fewer.")  # fmt: skip
@click.option("--max-requests", type=click.IntRange(min=1), default=4096, show_default=True,
              help="Requests under way at once, per worker; more are refused.")  # fmt: skip
@click.option("--batching/--no-batching", default=True, show_default=True,
              help="Let requests that wait at the same moment share a kernel call.")  # fmt: skip
@click.option("--keep-predictions", type=click.FloatRange(min=1), default=86_400.0, show_default=True,
              help="Seconds that results of requests that nobody waited for are kept.")  # fmt: skip
@click.option("--max-backlog", type=click.IntRange(min=1), default=200_000, show_default=True,
              help="Such requests that may wait; more are refused.")  # fmt: skip
@click.option("--access-log", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of the requests that are logged; failures of the server always are.")  # fmt: skip
@click.option("--otlp-endpoint", metavar="URL", help="Send traces there, e.g. http://localhost:4318/v1/traces.")
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the addresses there as JSON when the server is ready.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON.")
@click.pass_obj
def serve(
    invocation: Invocation,
    /,
    fleets: tuple[str, ...],
    no_grpc: bool,
    grpc_port: int,
    drain_timeout: float,
    request_timeout: float,
    max_body: int,
    max_rows: int,
    max_requests: int,
    keep_predictions: float,
    max_backlog: int,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    ready_file: Path | None,
    as_json: bool,
    **options: object,
) -> None:
    """Serve fleets over the open inference protocol, by REST and gRPC.

    FLEETS are NAME, NAME@ALIAS or NAME:VERSION; without any, what the registry says is to be served. A promotion
    reaches a running server within a second. SIGTERM and Ctrl-C let requests under way finish; a second one ends at
    once.
    """
    _require_extra()
    if no_grpc and _is_given("grpc_port"):
        raise InvalidInput("--no-grpc does without the port that --grpc-port names; give one of them")
    from shoal.server.options import Limits, ServerOptions
    from shoal.server.supervisor import Supervisor, may_listen
    from shoal.serving.deferred_options import DeferredOptions

    limits = Limits(request_s=request_timeout, body_bytes=max_body, rows=max_rows, requests=max_requests)
    wanted = msgspec.convert(
        {
            **options,
            "fleets": fleets,
            "grpc_port": None if no_grpc else grpc_port,
            "drain_s": drain_timeout,
            "limits": limits,
            "tls": _tls(tls_certificate, tls_key, tls_client_ca),
            "deferred": DeferredOptions(keep_s=keep_predictions, backlog=max_backlog),
        },
        decodable(ServerOptions),
    )

    def tell(addresses: "Addresses") -> None:
        if ready_file is not None:
            _write_whole(ready_file, msgspec.json.encode(addresses))
        click.echo(msgspec.json.encode(addresses).decode() if as_json else _sentence(addresses))

    def report(text: str) -> None:
        click.echo(text, err=True)

    with invocation.workspace() as workspace:
        workspace.require_servable(fleets)
        open_to_all = not may_listen(workspace, wanted.host)
        settings, unflushed = workspace.settings, workspace.unflushed()
    if unflushed:
        click.secho(_UNFLUSHED.format(" and ".join(unflushed)), err=True, bold=True)
    if open_to_all:
        click.secho(_OPEN, err=True, bold=True)
    if not Supervisor(wanted, settings, on_ready=tell, on_news=report).run():
        raise click.exceptions.Exit(1)


def _is_given(option: str) -> bool:
    """Whether an option was written on the command line."""
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> "TlsFiles | None":
    from shoal.server.options import TlsFiles

    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise InvalidInput("TLS needs a certificate and its key: give both --tls-certificate and --tls-key")
    # Workers may stand in another folder, and links are left alone: they are what is replaced when secrets are renewed.
    told = None if client_ca is None else str(client_ca.absolute())
    return TlsFiles(certificate=str(certificate.absolute()), key=str(key.absolute()), client_ca=told)


def _require_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"serving needs {', '.join(missing)}; install Shoal with its extra: pip install 'shoal[serve]'"
        )


def _sentence(addresses: "Addresses") -> str:
    parts = [f"REST on {addresses.url}"]
    if addresses.grpc:
        parts.append(f"gRPC on {addresses.grpc}")
    if addresses.admin_url:
        parts.append(f"management on {addresses.admin_url}")
    served = ", ".join(addresses.fleets) or "no fleet yet; `shoal fleets list` says which there are"
    return f"Ready: {', '.join(parts)}. Serving {served}."


def _write_whole(path: Path, content: bytes) -> None:
    """Whoever waits for the file never reads half of it."""
    beside = path.with_name(f".{path.name}.part")
    with storage_errors(path):
        beside.write_bytes(content)
        beside.replace(path)
