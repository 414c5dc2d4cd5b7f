"""Read certificates, keys and authorities out of Secrets, so that only what an engine will take comes further."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

_MOST = 12_000
"""Bytes that one command of the engine can carry."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain with its key as one PEM text, and the names the first certificate is made for."""

    pem: str
    names: tuple[str, ...]
    not_after: str
    """When it ends, as RFC 3339."""


def pair(secret: Mapping[str, Any]) -> Pair:
    """Return what a Secret of type kubernetes.io/tls holds. ValueError names the field of the Secret that is wrong."""
    return _pair(entry(secret, "tls.crt"), entry(secret, "tls.key"))


def authorities(secret: Mapping[str, Any], field: str = "ca.crt") -> str:
    """Return the certificates of `field`, PEM, each one read. ValueError names what is wrong."""
    return _authorities(entry(secret, field), field)


def entry(secret: Mapping[str, Any], field: str) -> bytes:
    """Return one value of a Secret. ValueError when it is missing or no base64."""
    value = (secret.get("data") or {}).get(field)
    if not value:
        raise ValueError(f"data[{field}]: is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"data[{field}]: is not base64") from error


@functools.lru_cache(4096)
def _pair(chain: bytes, key: bytes) -> Pair:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise ValueError("data[tls.crt]: holds no PEM certificate") from error
    try:
        private = serialization.load_pem_private_key(key, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError) as error:
        raise ValueError("data[tls.key]: holds no PEM key without a password") from error
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("data[tls.key]: is neither an RSA nor an elliptic curve key")
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size < 2048:
        raise ValueError(f"data[tls.key]: an RSA key of {private.key_size} bits is too short")
    leaf = certificates[0]
    if leaf.public_key() != private.public_key():
        raise ValueError("data[tls.key]: is not the key of the certificate in tls.crt")
    pem = _text(certificates) + _key_text(private)
    if len(pem) > _MOST:
        raise ValueError(f"data[tls.crt]: chain and key are longer than {_MOST} bytes")
    return Pair(pem, _names(leaf), leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"))


@functools.lru_cache(1024)
def _authorities(chain: bytes, field: str) -> str:
    try:
        text = _text(x509.load_pem_x509_certificates(chain))
    except ValueError as error:
        raise ValueError(f"data[{field}]: holds no PEM certificate") from error
    if len(text) > _MOST:
        raise ValueError(f"data[{field}]: is longer than {_MOST} bytes")
    return text


def _text(certificates: list[x509.Certificate]) -> str:
    """Write them anew: whatever else stood between them is left out."""
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in certificates)


def _key_text(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.lower() for name in found.get_values_for_type(x509.DNSName))
