"""The certificate of a server: read, tried before anybody sees it, and read again when its files are replaced.

A certificate is tried by shaking hands with oneself, in memory: that proves at once that it has begun and has not
ended, that the key fits, and that it is one of a server. What fails this is refused at the start; later, when a file
was replaced by one that does not work, the server goes on with what it has, and says so.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.errors import InvalidInput
from shoal.server.options import TlsFiles

LOOK_S: Final = 2.0
"""Seconds between two looks at the files."""

_STEPS: Final = 4
_SOON: Final = dt.timedelta(days=7)
_MISFIT: Final = "KEY_VALUES_MISMATCH"

_Stamp = tuple[tuple[int, int, int], ...]

_log = logging.getLogger("shoal.server")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What the files held when they were read.

    Attributes
    ----------
    context : SSLContext
        For connections of HTTP.
    certificate, key : bytes
        PEM, for gRPC.
    client_ca : bytes or None
        PEM; certificates that clients have to show are signed by one of these.
    ends_at : datetime
        When it expires, UTC.
    """

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_ca: bytes | None
    ends_at: dt.datetime


class Certificates:
    """The present certificate of a server.

    Parameters
    ----------
    files : TlsFiles
        Where it is.

    Attributes
    ----------
    now : Loaded
        What new connections get; replaced as a whole, so any thread may read it.

    Raises
    ------
    InvalidInput
        A file cannot be read, is not what it should be, the key does not fit, or the certificate is not valid now.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = _stamp(files)
        self._failed: _Stamp = ()
        self._told: _Stamp = ()
        self._warned = False
        self.now = load(files)

    def fits(self, host: str) -> bool:
        """Whether clients that ask for this host would take the certificate."""
        try:
            _shake(_context(self._files), self._files, host)
        except ssl.SSLCertVerificationError:
            return False
        return True

    async def follow(self) -> None:
        """Look at the files again and again, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.refresh)
            self._warn()

    def refresh(self) -> None:
        """Take what the files hold now, if they have changed and it works."""
        stamp = _stamp(self._files)
        if stamp == self._seen:
            return
        try:
            loaded = load(self._files)
        except InvalidInput as error:
            self._missed(stamp, error)
            return
        if _stamp(self._files) == stamp:  # else somebody is at it, and the next look sees all of it
            self.now, self._seen, self._warned = loaded, stamp, False
            _log.info("the certificate was replaced; the new one ends at %s", loaded.ends_at.isoformat())

    def _missed(self, stamp: _Stamp, error: InvalidInput) -> None:
        """Say once that new files do not work, and not at the first look: a certificate and its key are two files."""
        if stamp == self._failed and stamp != self._told:
            self._told = stamp
            _log.error("the certificate was replaced, but the old one is used on: %s", error)
        self._failed = stamp

    def _warn(self) -> None:
        left = self.now.ends_at - dt.datetime.now(dt.UTC)
        if left < _SOON and not self._warned:
            self._warned = True
            _log.warning("the certificate ends at %s; replace its files", self.now.ends_at.isoformat())


def load(files: TlsFiles) -> Loaded:
    """Read the files, and try what they hold.

    Raises
    ------
    InvalidInput
        As of :class:`Certificates`.
    """
    certificate = _read(files.certificate, "--tls-certificate", b"CERTIFICATE-----")
    key = _read(files.key, "--tls-key", b"PRIVATE KEY-----")
    client_ca = None if files.client_ca is None else _read(files.client_ca, "--tls-client-ca", b"CERTIFICATE-----")
    context = _context(files)
    told = _tried(context, files)
    if files.client_ca is not None:
        _ask_clients(context, files.client_ca)
    return Loaded(
        context=context,
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        ends_at=dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(told["notAfter"])), dt.UTC),
    )


def _read(path: str, option: str, mark: bytes) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{option} {path}: it cannot be read ({error.strerror}); give the path of a file") from error
    if mark not in content:
        wanted = "a private key" if b"KEY" in mark else "a certificate"
        raise InvalidInput(f"{option} {path}: it does not hold {wanted} in PEM (-----BEGIN ...-----)")
    return content


def _context(files: TlsFiles) -> ssl.SSLContext:
    """What servers talk with, from TLS 1.2 on; nobody is asked for a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])

    def ask() -> bytes:
        raise InvalidInput(f"--tls-key {files.key}: the key is encrypted; write it without a passphrase")

    try:
        context.load_cert_chain(files.certificate, files.key, password=ask)
    except ssl.SSLError as error:
        if error.reason == _MISFIT:
            raise InvalidInput(
                f"--tls-key {files.key}: this key does not belong to the certificate {files.certificate}; give the one "
                "that it was made for, and in a file with a chain put the server's own certificate first"
            ) from error
        raise InvalidInput(
            f"--tls-certificate {files.certificate} and --tls-key {files.key} cannot be used: {error}"
        ) from error
    except OSError as error:
        raise InvalidInput(f"--tls-certificate {files.certificate}: it cannot be read ({error})") from error
    return context


def _ask_clients(context: ssl.SSLContext, authorities: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authorities)
    except OSError as error:
        raise InvalidInput(
            f"--tls-client-ca {authorities}: it holds no certificate that can be used: {error}"
        ) from error


def _tried(context: ssl.SSLContext, files: TlsFiles) -> "ssl._PeerCertRetDictType":
    """What a client knows of the certificate once it has taken it."""
    try:
        return _shake(context, files, None)
    except ssl.SSLCertVerificationError as error:
        raise InvalidInput(
            f"--tls-certificate {files.certificate}: no client would take it: {error.verify_message}; renew it"
        ) from error
    except OSError as error:
        raise InvalidInput(f"--tls-certificate {files.certificate}: it does not work: {error}") from error


def _shake(context: ssl.SSLContext, files: TlsFiles, host: str | None) -> "ssl._PeerCertRetDictType":
    """Shake hands with oneself, in the place of a client that trusts this very certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = host is not None
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(files.certificate)
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_them, to_us, server_hostname=host)
    ours = context.wrap_bio(to_us, to_them, server_side=True)
    for end in (theirs, ours) * _STEPS:
        _step(end)
    told = theirs.getpeercert()
    assert told  # the handshake is over: it has been verified
    return told


def _step(end: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()


def _stamp(files: TlsFiles) -> _Stamp:
    """What tells whether files were replaced; links are followed, as those that secrets are mounted by."""
    return tuple(_about(path) for path in (files.certificate, files.key, files.client_ca) if path is not None)


def _about(path: str) -> tuple[int, int, int]:
    try:
        about = Path(path).stat()
    except OSError:
        return 0, 0, 0
    return about.st_ino, about.st_size, about.st_mtime_ns
