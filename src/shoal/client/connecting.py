"""From an address to a client."""

from pathlib import Path

from shoal.client.async_client import AsyncClient
from shoal.client.client import Client
from shoal.client.routes import Routes, shown
from shoal.client.transport import AsyncTransport, Transport
from shoal.client.trust import Certificate, Trust
from shoal.errors import InvalidInput
from shoal.security.header_values import header_value


def connect(
    url: str,
    *,
    api_key: str | None = None,
    timeout_s: float = 30.0,
    ca: str | Path | None = None,
    certificate: Certificate | None = None,
) -> Client:
    """Connect to Shoal's servers.

    Parameters
    ----------
    url : str
        Address of any of them, such as ``http://127.0.0.1:8080``; the others are found by discovery. From one of HTTPS
        on, only servers of HTTPS are asked.
    api_key : str, optional
        Sent with every question; white space around it, such as the end of a file's line, is left out.
    timeout_s : float
        How long one answer may take, in seconds.
    ca : path, optional
        PEM file, or folder of such, with the authorities whose certificates are taken over HTTPS; those of
        ``SSL_CERT_FILE``, or else the usual ones, unless told.
    certificate : path or pair of paths, optional
        What is shown to servers that want to see a certificate, in PEM: one file with the key in it, or two.

    Raises
    ------
    InvalidInput
        The address is none, the key is none, a certificate cannot be read, or httpx is not installed.

    Examples
    --------
    >>> client = shoal.connect("http://127.0.0.1:8080")  # doctest: +SKIP
    >>> client.fleet("pumps").predict({"device": ["d1"], "sensor": ["s1"], "x": [0.5]})  # doctest: +SKIP
    """
    return Client(Transport(_routes(url), _headers(api_key), timeout_s, Trust(ca=ca, certificate=certificate)))


def connect_async(
    url: str,
    *,
    api_key: str | None = None,
    timeout_s: float = 30.0,
    ca: str | Path | None = None,
    certificate: Certificate | None = None,
) -> AsyncClient:
    """Connect to Shoal's servers from an event loop; parameters as of :func:`connect`."""
    trust = Trust(ca=ca, certificate=certificate)
    return AsyncClient(AsyncTransport(_routes(url), _headers(api_key), timeout_s, trust))


def _routes(url: str) -> Routes:
    url = url.strip()
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{shown(url)!r} is no address of a server; write one like http://127.0.0.1:8080")
    return Routes(entry=url.rstrip("/"))


def _headers(api_key: str | None) -> dict[str, str]:
    key = header_value(api_key or "", "the API key")
    return {"X-API-Key": key} if key else {}
