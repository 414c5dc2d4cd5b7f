"""Make a certificate authority and server certificates for one test."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_BEGIN, _END = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)


def authority(folder: Path, *, address: str = "127.0.0.1", names: Sequence[str] = ()) -> tuple[str, ssl.SSLContext]:
    """Return a CA's certificate as PEM, and the TLS context of a server that it signed for `address` and names."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = _name("test authority"), _name("test server")
    ca = _builder(ca_name, ca_name, ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    dns = [x509.DNSName(each) for each in names]
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), *dns])
    server = _builder(name, ca_name, key.public_key()).add_extension(alternatives, critical=False)
    chain = folder / f"server-{address.replace(':', '_')}.pem"
    chain.write_bytes(
        server.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(_BEGIN).not_valid_after(_END)
