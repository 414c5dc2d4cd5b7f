"""Make and keep the cluster's certificates: one CA, the server's certificate, the token key. ECDSA P-256 throughout."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_LIFE = timedelta(days=3650)
_LIFE = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=60)
_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """The cluster's certificate authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        """The CA certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        name: str,
        organization: str,
        alternatives: Iterable[str],
        now: datetime,
        is_client: bool = False,
    ) -> bytes:
        """Return a certificate in PEM for a key, valid for these DNS names and addresses."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] + ([ExtendedKeyUsageOID.CLIENT_AUTH] if is_client else [])
        certificate = (
            _builder(public_key, _name(name, organization), self.certificate.subject, now, _LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative(a) for a in alternatives]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def endorse(
        self,
        request: x509.CertificateSigningRequest,
        *,
        alternatives: Sequence[x509.GeneralName],
        purposes: Sequence[x509.ObjectIdentifier],
        now: datetime,
        life: timedelta,
    ) -> bytes:
        """Return a certificate in PEM for what a request asks for; who may have it is the caller's to know."""
        key = request.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Material:
    """What the server runs with; the files under `directory` and, of the cluster's own keys, `shared` hold the same."""

    directory: Path
    shared: Path
    authority: Authority
    token_key: ec.EllipticCurvePrivateKey
    token_key_id: str

    @property
    def authority_certificate(self) -> Path:
        """Where the CA's certificate is."""
        return self.directory / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        """Where the server's certificate is."""
        return self.directory / "server.crt"

    @property
    def server_key(self) -> Path:
        """Where the server's key is."""
        return self.directory / "server.key"


def ensure(directory: Path, *, alternatives: Iterable[str], now: datetime, shared: Path | None = None) -> Material:
    """Return the cluster's keys, made at the first call; the server's certificate follows the alternatives.

    The cluster's keys are in `shared` where given, the server's own always in `directory`, with the CA's certificate.
    """
    material = ensure_keys(shared or directory, now=now)
    if shared is not None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        material = replace(material, directory=directory)
        if not (directory / "ca.crt").exists() or (directory / "ca.crt").read_bytes() != material.authority.pem():
            _write(directory / "ca.crt", material.authority.pem(), mode=0o644)
    certify(material, alternatives=alternatives, now=now)
    return material


def certify(material: Material, *, alternatives: Iterable[str], now: datetime) -> bool:
    """Make the server's certificate unless it is good for these names for 60 days more; return whether it is new."""
    wanted = sorted(set(alternatives))
    if _is_good(material, wanted, now):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = material.authority.sign(
        key.public_key(), name="kube-apiserver", organization="netplane", alternatives=wanted, now=now
    )
    _write(material.server_key, _key_pem(key), mode=0o600)
    _write(material.server_certificate, certificate, mode=0o644)
    return True


def ensure_keys(directory: Path, *, now: datetime) -> Material:
    """Return the CA and the token key, made at the first call."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    if not (directory / "ca.crt").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(directory / "ca.key", _key_pem(key), mode=0o600)
        _write(directory / "ca.crt", _self_signed(key, now), mode=0o644)
    if not (directory / "token.key").exists():
        _write(directory / "token.key", _key_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
    authority = Authority(
        x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes()), _load_key(directory / "ca.key")
    )
    token_key = _load_key(directory / "token.key")
    public = token_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Material(directory, directory, authority, token_key, hashlib.sha256(public).hexdigest()[:24])


def fingerprint(ca_pem: bytes) -> str:
    """Return how `--discovery-token-ca-cert-hash` names a CA: the SHA-256 of its public key."""
    public = x509.load_pem_x509_certificate(ca_pem).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def public_key_of(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key in a PEM public key or certificate request; raise ValueError for anything else."""
    data = pem.encode()
    if b"CERTIFICATE REQUEST" in data:
        request = x509.load_pem_x509_csr(data)
        if not request.is_signature_valid:
            raise ValueError("the request is not signed by its own key")
        key = request.public_key()
    else:
        key = serialization.load_pem_public_key(data)  # type: ignore[assignment]  # a union of every key type
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("only ECDSA keys are signed")
    return key


def _is_good(material: Material, wanted: list[str], now: datetime) -> bool:
    path = material.server_certificate
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.issuer != material.authority.certificate.subject:
        return False
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = sorted(str(name.value) for name in extension)
    return set(wanted) <= set(found) and certificate.not_valid_after_utc - now > _RENEW_BEFORE


def _builder(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    name = _name(f"netplane-ca-{secrets.token_hex(4)}", "netplane")
    certificate = (
        _builder(key.public_key(), name, name, now, _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, organization: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: not an ECDSA key")
    return key


def _write(path: Path, data: bytes, *, mode: int) -> None:
    # Written beside and moved into place: a crash leaves the old file or the new one, never half of one.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
