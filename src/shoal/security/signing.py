"""Signatures of webhooks: who receives one can tell that it is ours, whole, and not an old one sent again.

The signature is HMAC-SHA256 (RFC 2104) over ``<timestamp>.<body>`` with a secret that both sides know. It travels in
one header, ``t=<seconds since 1970>,v1=<hexadecimal digits>``. While a secret is replaced, a sender may sign with both:
then there are several ``v1``, and one that fits is enough.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from shoal.errors import Unauthenticated

HEADER: Final = "Shoal-Signature"
"""Name of the header."""

TOLERANCE_S: Final = 300.0
"""How far apart the two sides' clocks may be, in seconds."""

_VERSION: Final = "v1"
_LONGEST_HEADER: Final = 1024
_DIGITS: Final = 12


def sign(body: bytes, secrets: Sequence[bytes], *, at_s: float) -> str:
    """The header's value for a body.

    Parameters
    ----------
    body : bytes
        As it is sent.
    secrets : sequence of bytes
        What both sides know; more than one while the secret is replaced.
    at_s : float
        Now, in seconds since 1970, UTC.
    """
    moment = str(int(at_s))
    return ",".join([f"t={moment}", *(f"{_VERSION}={_digest(body, secret, moment)}" for secret in secrets)])


def verify(header: str, body: bytes, secret: bytes, *, now_s: float, tolerance_s: float = TOLERANCE_S) -> None:
    """Raise unless a body was signed with this secret, lately.

    Parameters
    ----------
    header : str
        The header's value.
    body : bytes
        As it came, before anything parsed it.
    secret : bytes
        What both sides know.
    now_s : float
        Now, in seconds since 1970, UTC.
    tolerance_s : float
        How old or how far ahead the timestamp may be, in seconds.

    Raises
    ------
    Unauthenticated
        The header is none, the signature does not fit, or the timestamp is too old or in the future.
    """
    moment, signatures = _parsed(header)
    # Every signature is compared, so that the time taken says nothing about which of them fits.
    fits = [hmac.compare_digest(_digest(body, secret, moment), one) for one in signatures]
    if not any(fits):
        raise Unauthenticated("the signature does not fit the body; check that both sides have the same secret")
    if abs(now_s - int(moment)) > tolerance_s:
        raise Unauthenticated("the signature is too old or from the future; check the clocks, and send it anew")


def _parsed(header: str) -> tuple[str, list[str]]:
    parts = [part.strip().partition("=") for part in header[:_LONGEST_HEADER].split(",")]
    moments = [value for name, _, value in parts if name == "t"]
    signatures = [value for name, _, value in parts if name == _VERSION and value.isascii()]
    digits = len(moments) == 1 and moments[0].isascii() and moments[0].isdigit() and len(moments[0]) <= _DIGITS
    if not digits or not signatures:
        raise Unauthenticated(
            f"{HEADER} must be t=SECONDS,{_VERSION}=DIGITS; sign the body with shoal.security.signing"
        )
    return moments[0], signatures


def _digest(body: bytes, secret: bytes, moment: str) -> str:
    return hmac.new(secret, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
