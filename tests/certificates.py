"""The certificates of tests/data/tls, and who trusts them."""

import shutil
import ssl
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "tls"


def pem(name: str) -> Path:
    return FOLDER / f"{name}.pem"


def key(name: str) -> Path:
    return FOLDER / f"{name}.key"


def trusting(ca: str = "ca", certificate: str | None = None) -> ssl.SSLContext:
    """A client's context that takes certificates of an authority, and shows one of its own."""
    context = ssl.create_default_context(cafile=pem(ca))
    if certificate is not None:
        context.load_cert_chain(pem(certificate), key(certificate))
    return context


def put(folder: Path, certificate: str, its_key: str | None = None) -> tuple[Path, Path]:
    """Copies of a certificate and its key, put in place at once as whoever renews certificates does."""
    paths = folder / "tls.crt", folder / "tls.key"
    for path, source in zip(paths, (pem(certificate), key(its_key or certificate)), strict=True):
        beside = path.with_suffix(".new")
        shutil.copy(source, beside)
        beside.replace(path)
    return paths


def der(name: str) -> bytes:
    """What a server with this certificate shows, as ``getpeercert(binary_form=True)`` gives it."""
    return ssl.PEM_cert_to_DER_cert(pem(name).read_text())
