"""Have a serving certificate: a key of our own, signed by the cluster's authority, renewed in time."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from netplane.agent.node.objects import Identity
from netplane.kube import client

PATH = "/netplane.io/v1/node-certificate"
KEEP_SHARE = 0.8


def files(folder: Path) -> tuple[Path, Path]:
    """Return where certificate and key are."""
    return folder / "agent.crt", folder / "agent.key"


def is_good(folder: Path, identity: Identity, now: datetime) -> bool:
    """Whether the certificate there is for our addresses and has a fifth of its life left."""
    crt, key = files(folder)
    if not crt.exists() or not key.exists():
        return False
    try:
        found = x509.load_pem_x509_certificate(crt.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return addresses >= set(identity.ips) and now < begin + (end - begin) * KEEP_SHARE


async def obtain(api: client.Client, folder: Path, identity: Identity) -> None:
    """Get a certificate for a new key and keep both. Raises errors.ApiError."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    asked = {"publicKey": public.decode(), "addresses": list(identity.ips), "node": identity.name}
    answer = await api.request("POST", PATH, body=orjson.dumps(asked))
    certificate = orjson.loads(answer.body)["certificate"]
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    crt_path, key_path = files(folder)
    with open(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(private)
    crt_path.write_text(certificate)
