"""Whom a client trusts over HTTPS, what it shows of itself, and what a handshake that failed means."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from shoal.errors import InvalidInput

Certificate: TypeAlias = str | Path | tuple[str | Path, str | Path]
"""A PEM file with a certificate and its key, or one file for each."""

_NO_TLS: Final = ("it does not speak TLS", "write http:// instead of https:// in the address")
_MEANINGS: Final = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,  # the same since OpenSSL 3.2
    "CERTIFICATE_REQUIRED": (
        "it wants to see a certificate", "show yours: shoal.connect(url, certificate=(PATH, KEY_PATH))",
    ),
    "UNKNOWN_CA": ("it does not take your certificate", "show one of an authority of its --tls-client-ca"),
}  # fmt: skip
_RENEW: Final = "the server needs a new one"
_RENAME: Final = "ask by one of the names that the certificate is for"
_ADVICE: Final = {
    "ostname mismatch": _RENAME,
    "address mismatch": _RENAME,
    "expired": _RENEW,
    "not yet valid": _RENEW,
    "": "give the authority that has signed it: shoal.connect(url, ca=PATH), or SSL_CERT_FILE=PATH",
}
"""By what OpenSSL says of a certificate; the first that fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """How a client and its servers know each other.

    Attributes
    ----------
    ca : str or Path or None
        PEM file, or folder of such, with the authorities whose certificates are taken; None for the usual ones.
    certificate : str or Path or tuple or None
        What the client shows to servers that want to see a certificate.
    """

    ca: str | Path | None = None
    certificate: Certificate | None = None

    def context(self, usual: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """What connections are made with.

        Parameters
        ----------
        usual : callable
            Makes one that trusts whom this machine trusts, by ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` for instance.

        Raises
        ------
        InvalidInput
            A file cannot be read, or does not hold what it should.
        """
        try:
            context = usual() if self.ca is None else _trusting(Path(self.ca))
        except OSError as error:
            named = "SSL_CERT_FILE" if self.ca is None else f"ca {self.ca}"
            raise InvalidInput(f"{named}: no certificates in PEM can be read from it: {_why(error)}") from error
        if self.certificate is not None:
            _show(context, *(self.certificate if isinstance(self.certificate, tuple) else (self.certificate, None)))
        return context


def _trusting(authorities: Path) -> ssl.SSLContext:
    if authorities.is_dir():
        return ssl.create_default_context(capath=authorities)
    return ssl.create_default_context(cafile=authorities)


def _show(context: ssl.SSLContext, chain: str | Path, key: str | Path | None) -> None:
    try:
        context.load_cert_chain(chain, key)
    except OSError as error:
        raise InvalidInput(f"the certificate {chain} or its key cannot be used: {_why(error)}") from error


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def meaning(error: BaseException) -> tuple[str, str] | None:
    """Why a handshake failed, and what to do; None of an error that is no such thing."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = cause.verify_message.rstrip(".")
        advice = next(advice for part, advice in _ADVICE.items() if part in said)
        return f"its certificate is not taken ({said})", advice
    known = (meant for reason, meant in _MEANINGS.items() if reason in str(cause))
    return next(known, (str(cause), "is it a server of Shoal?"))
