"""Renew what the agent and the parts beside it are known by, long before it ends: certificate, key and tokens.

The kubeconfig is the one that `netplane join` wrote, or another with a client certificate; where there is none, as with
a token from `netplane kubeconfig`, there is nothing to renew.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Never

import orjson
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from netplane.kube import certificates, client, errors
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.lib.cli import UserError

LOOK = 3600.0
KEEP_SHARE = 0.8
"""Of a year's certificate the last 73 days are left for whatever may be in the way."""
PARTS_PATH = "/netplane.io/v1/node-credentials"
PARTS = ("proxy", "cni")

_log = log.get("agent")


@dataclass(slots=True)
class Credentials:
    """The node's credentials: in use by `api`, kept in the kubeconfig at `path` (None: given in another way)."""

    api: client.Client
    path: Path | None
    node: str
    clock: clocks.Clock

    async def run(self) -> Never:
        """Look every hour until cancelled."""
        while True:
            try:
                await self.renew_if_due()
            except (errors.ApiError, certificates.NotIssued, OSError, UserError) as error:
                _log.warning("client certificate not renewed", node=self.node, error=str(error))
            await self.clock.sleep(LOOK)

    async def renew_if_due(self) -> bool:
        """Renew when a fifth of the certificate's life is left, and say whether. Raises ApiError and NotIssued."""
        config = self.api.config
        pem = config.client_cert_data or (Path(config.client_cert_file).read_text() if config.client_cert_file else "")
        if not pem or not is_due(pem, self.clock.now()):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = await certificates.for_node(self.api, key, self.node)
        private = certificates.private_pem(key)
        # Used first and kept then: where the folder may not be written to, this agent at least goes on.
        made = replace(config, client_cert_data=certificate, client_key_data=private, client_cert_file="")
        await self.api.adopt(made)
        if config.client_cert_file:
            write(Path(config.client_key_file), private)
            write(Path(config.client_cert_file), certificate)
        elif self.path is not None:
            write(self.path, with_certificate(self.path.read_text(), certificate, private))
        await self._renew_parts()
        _log.info("client certificate renewed", node=self.node)
        return True

    async def _renew_parts(self) -> None:
        """Write new tokens for those parts that keep theirs in a file beside our kubeconfig."""
        beside = {part: self.path.with_name(f"{part}.token") for part in PARTS} if self.path is not None else {}
        known = {part: path for part, path in beside.items() if path.exists()}
        if known:
            answer = orjson.loads((await self.api.request("POST", PARTS_PATH, body=b"{}")).body)
            for part, path in known.items():
                write(path, str(answer[part]))


def is_due(pem: str, now: datetime) -> bool:
    """Whether a certificate has a fifth of its life left, or less."""
    found = x509.load_pem_x509_certificate(pem.encode())
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    return now >= begin + (end - begin) * KEEP_SHARE


def with_certificate(text: str, certificate: str, private: str) -> str:
    """Return a kubeconfig with another client certificate and key for the user of its current context."""
    content: dict[str, Any] = yaml.safe_load(text)
    contexts: Mapping[str, Any] = {each["name"]: each["context"] for each in content["contexts"]}
    name = contexts[content["current-context"]]["user"]
    user = next(each["user"] for each in content["users"] if each["name"] == name)
    user["client-certificate-data"] = base64.b64encode(certificate.encode()).decode()
    user["client-key-data"] = base64.b64encode(private.encode()).decode()
    return yaml.safe_dump(content, sort_keys=False)


def write(path: Path, text: str) -> None:
    """Replace a file of secrets, whole or not at all."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
