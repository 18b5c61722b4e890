"""Certificates are tried before anybody sees them, and followed when their files are replaced."""

import asyncio
import datetime as dt
import logging

import pytest

from shoal.errors import InvalidInput
from shoal.server import certificates as module
from shoal.server.certificates import Certificates, load
from shoal.server.options import TlsFiles
from tests.certificates import FOLDER, key, pem, put


def files(certificate="server.pem", its_key="server.key", client_ca=None):
    told = None if client_ca is None else str(FOLDER / client_ca)
    return TlsFiles(certificate=str(FOLDER / certificate), key=str(FOLDER / its_key), client_ca=told)


def test_what_works_is_loaded():
    loaded = load(files(client_ca="ca.pem"))
    assert loaded.ends_at == dt.datetime(2124, 1, 1, tzinfo=dt.UTC)
    assert (loaded.certificate, loaded.key) == (pem("server").read_bytes(), key("server").read_bytes())
    assert loaded.client_ca == pem("ca").read_bytes()


REFUSED = [
    (files(its_key="renewed.key"), "does not belong to the certificate"),
    (files(its_key="encrypted.key"), "without a passphrase"),
    (files(its_key="server.pem"), "--tls-key .*does not hold a private key"),
    (files(its_key="nothing.key"), "--tls-key .*cannot be read .*No such file"),
    (files(certificate="nothing.pem"), "--tls-certificate .*cannot be read"),
    (files(certificate="."), "--tls-certificate .*Is a directory"),
    (files(certificate="server.key"), "does not hold a certificate"),
    (files(certificate="expired.pem"), "has expired; renew it"),
    (files(certificate="early.pem"), "not yet valid"),
    (files(certificate="client.pem", its_key="client.key"), "unsuitable certificate purpose"),
    (files(client_ca="server.key"), "--tls-client-ca .*does not hold a certificate"),
]


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_does_not_work_is_refused_with_advice(wrong, said):
    with pytest.raises(InvalidInput, match=said):
        load(wrong)


def test_a_damaged_file_is_refused(tmp_path):
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes(pem("server").read_bytes().replace(b"MII", b"MIA", 1))
    for wrong in (files(certificate=damaged), files(its_key=_damaged_key(tmp_path)), files(client_ca=damaged)):
        with pytest.raises(InvalidInput, match="--tls-"):
            load(wrong)


def _damaged_key(folder):
    path = folder / "damaged.key"
    path.write_bytes(key("server").read_bytes()[:120])
    return path


def test_the_names_of_a_certificate_are_known():
    ours = Certificates(files(client_ca="ca.pem"))
    assert ours.fits("localhost")
    assert ours.fits("127.0.0.1")
    assert not ours.fits("models.example.org")
    assert Certificates(files(certificate="elsewhere.pem")).fits("models.example.org")


def told(folder):
    return TlsFiles(certificate=str(folder / "tls.crt"), key=str(folder / "tls.key"))


def test_a_replaced_certificate_is_taken(tmp_path):
    put(tmp_path, "server")
    certificates = Certificates(told(tmp_path))
    before = certificates.now
    certificates.refresh()
    assert certificates.now is before
    put(tmp_path, "renewed")
    certificates.refresh()
    assert certificates.now.certificate == pem("renewed").read_bytes()
    assert certificates.now.context is not before.context


def test_one_that_does_not_work_is_not_taken_and_said_once(tmp_path, caplog):
    put(tmp_path, "server")
    certificates = Certificates(told(tmp_path))
    put(tmp_path, "renewed", "server")
    with caplog.at_level(logging.INFO, "shoal.server"):
        certificates.refresh()
        assert not caplog.messages, "the key may be about to come"
        for _ in range(3):
            certificates.refresh()
        assert certificates.now.certificate == pem("server").read_bytes()
        assert len(caplog.messages) == 1
        assert "does not belong" in caplog.messages[0]
        (tmp_path / "tls.key").unlink()
        for _ in range(3):
            certificates.refresh()
        assert len(caplog.messages) == 2
        put(tmp_path, "renewed")
        certificates.refresh()
    assert certificates.now.certificate == pem("renewed").read_bytes()


def test_the_end_of_a_certificate_is_announced_once(monkeypatch, caplog):
    certificates, looks = Certificates(files()), []
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "_SOON", dt.timedelta(days=365 * 200))
    refresh = certificates.refresh
    monkeypatch.setattr(certificates, "refresh", lambda: looks.append(refresh()))

    async def follow():
        following = asyncio.create_task(certificates.follow())
        while len(looks) < 5:
            await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(follow())
    assert [message for message in caplog.messages if "2124-01-01" in message] == caplog.messages
    assert len(caplog.messages) == 1
