"""Get a node's client certificate by a CertificateSigningRequest. Who signs, and whom, is the cluster's to know."""

from __future__ import annotations

import asyncio
import base64
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from netplane.kube.api import Api
from netplane.kube.types import Resource

REQUESTS = Resource("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest",
                    namespaced=False)  # fmt: skip
NODE_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
NODES = "system:nodes"
_TRIES, _PAUSE = 60, 0.5


class NotIssued(Exception):
    """Nobody signed the request, or somebody refused it; the message says which."""


def node_user(name: str) -> str:
    """Return the user that a node is."""
    return f"system:node:{name}"


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


async def for_node(api: Api, key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Ask for a node's client certificate, wait for it and return it in PEM. Raises NotIssued and ApiError."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, NODES),
            x509.NameAttribute(NameOID.COMMON_NAME, node_user(name)),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    spec = {
        "request": base64.b64encode(pem).decode(),
        "signerName": NODE_SIGNER,
        "usages": ["digital signature", "client auth"],
    }
    digest = hashlib.sha256(pem).hexdigest()[:16]
    made = await api.create(REQUESTS, {"metadata": {"name": f"node-csr-{digest}"}, "spec": spec})
    for _ in range(_TRIES):
        status = made.get("status") or {}
        if status.get("certificate"):
            return base64.b64decode(status["certificate"]).decode()
        for each in status.get("conditions") or ():
            if each["type"] in ("Denied", "Failed"):
                raise NotIssued(f"the request for a certificate was refused: {each.get('message', each['type'])}")
        await asyncio.sleep(_PAUSE)
        made = await api.get(REQUESTS, made["metadata"]["name"])
    raise NotIssued(f"nobody signed {made['metadata']['name']}: approve it with `kubectl certificate approve`")
