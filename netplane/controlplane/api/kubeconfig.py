"""Write kubeconfig files: where the server is, how to trust it, and a token that says who one is."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from netplane.controlplane.api import access, pki

_LIFETIME = timedelta(days=365)
_CLUSTER = "netplane"


def render(material: pki.Material, *, server: str, user: str, groups: Sequence[str], now: datetime) -> str:
    """Return a kubeconfig with a fresh signed token for the user."""
    keys = access.Keys(material.token_key, material.token_key_id)
    ca = base64.b64encode(material.authority.pem()).decode()
    token = keys.user_token(user, groups, now=now, lifetime=_LIFETIME)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _CLUSTER, "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": _CLUSTER, "context": {"cluster": _CLUSTER, "user": user}}],
        "current-context": _CLUSTER,
    }
    return yaml.safe_dump(config, sort_keys=False)


def write_admin(data_dir: Path, material: pki.Material, *, port: int, now: datetime) -> Path:
    """Write `admin.kubeconfig` for the one who may do everything; a new token at every start."""
    text = render(
        material, server=f"https://127.0.0.1:{port}", user="kubernetes-admin", groups=[access.MASTERS], now=now
    )
    path = data_dir / "admin.kubeconfig"
    beside = data_dir / f".admin.{secrets.token_hex(4)}"
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    beside.replace(path)
    return path
