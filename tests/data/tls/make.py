"""Makes the certificates beside it anew. It needs `cryptography`, which the tests themselves do not."""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).parent
BEGIN = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
EXPIRED = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
FAR = dt.datetime(2124, 1, 1, tzinfo=dt.UTC)
LOOPBACK = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def new_key(name, passphrase=None):
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(name, key, passphrase)
    return key


def write_key(name, key, passphrase=None):
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    (HERE / f"{name}.key").write_bytes(text)


def name_of(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def begun(subject, issuer, key, begin, end):
    made = x509.CertificateBuilder().subject_name(name_of(subject)).issuer_name(name_of(issuer))
    made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
    made = made.not_valid_before(begin).not_valid_after(end)
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def write(name, builder, signer):
    signed = builder.sign(signer, hashes.SHA256())
    (HERE / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def make_ca(name, subject):
    key = ec.generate_private_key(ec.SECP256R1())
    made = begun(subject, subject, key, BEGIN, FAR)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    usage |= {"digital_signature": True, "key_cert_sign": True, "crl_sign": True, "decipher_only": False}
    write(name, made.add_extension(x509.KeyUsage(**usage), critical=True), key)
    return subject, key


def make(name, authority, key, *, names=LOOPBACK, purpose=SERVER, begin=BEGIN, end=FAR):
    issuer, signer = authority
    made = begun(f"shoal test {name}", issuer, key, begin, end)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    write(name, made.add_extension(x509.SubjectAlternativeName(names), critical=False), signer)


def main():
    ours, others = make_ca("ca", "shoal test authority"), make_ca("other_ca", "another test authority")
    server = new_key("server")
    write_key("encrypted", server, b"a passphrase")
    make("server", ours, server)
    make("renewed", ours, new_key("renewed"))
    make("expired", ours, server, end=EXPIRED)
    make("early", ours, server, begin=dt.datetime(2123, 1, 1, tzinfo=dt.UTC))
    make("elsewhere", ours, server, names=[x509.DNSName("models.example.org")])
    make("client", ours, new_key("client"), names=[x509.DNSName("client")], purpose=CLIENT)
    make("stranger", others, new_key("stranger"), names=[x509.DNSName("stranger")], purpose=CLIENT)


if __name__ == "__main__":
    main()
