"""Find out which API server to speak to and as whom: kubeconfig files and in-cluster service accounts."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netplane.lib import cli

_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Config:
    """A server and credentials for it. `token_file` is read again as it changes; secrets are left out of repr."""

    server: str
    ca_data: str = ""
    ca_file: str = ""
    token: str = ""
    token_file: str = ""
    client_cert_data: str = ""
    client_key_data: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    tls_server_name: str = ""
    insecure: bool = False
    namespace: str = "default"

    def __repr__(self) -> str:
        return f"Config(server={self.server!r})"


def load(path: str | None = None, context: str | None = None) -> Config:
    """Return the configuration from `path`, else $KUBECONFIG, else ~/.kube/config, else the pod's service account.

    Raises `cli.UserError` that names the file and the entry.
    """
    found = chosen(path)
    return parse(found, context) if found is not None else _in_cluster(os.environ)


def chosen(path: str | None = None) -> Path | None:
    """Return the kubeconfig file that `load` reads, None when it is the pod's service account."""
    named = path or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    default = Path.home() / ".kube" / "config"
    if not named and not default.exists() and (_IN_CLUSTER / "token").exists():
        return None
    return Path(named) if named else default


def parse(path: Path, context: str | None = None) -> Config:
    """Return the configuration of one context, by default the current one, of a kubeconfig file."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise cli.UserError(f"kubeconfig {path} is not there; give one with --kubeconfig or $KUBECONFIG") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise cli.UserError(f"cannot read kubeconfig {path}: {error}") from error
    if not isinstance(content, dict):
        raise cli.UserError(f"kubeconfig {path} is not a mapping; write it anew with `netplane kubeconfig`")
    name = context or str(content.get("current-context") or "")
    if not name:
        raise cli.UserError(f"kubeconfig {path} has no current-context; choose one of its contexts")
    chosen = _entry(content, "contexts", "context", name, path)
    cluster = _entry(content, "clusters", "cluster", str(chosen.get("cluster")), path)
    user = _entry(content, "users", "user", str(chosen.get("user")), path) if chosen.get("user") else {}
    return _config(path, chosen, cluster, user)


def _entry(content: Mapping[str, Any], section: str, field: str, name: str, path: Path) -> Mapping[str, Any]:
    for entry in content.get(section) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(field), dict):
            found: Mapping[str, Any] = entry[field]
            return found
    raise cli.UserError(f"kubeconfig {path} has no {field} {name!r} under {section}")


def _config(path: Path, context: Mapping[str, Any], cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Config:
    if "exec" in user or "auth-provider" in user:
        raise cli.UserError(f"kubeconfig {path}: credential plugins are not supported; use a token or a certificate")
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise cli.UserError(f"kubeconfig {path}: server {server!r} must start with https:// or http://")

    def beside(section: Mapping[str, Any], key: str) -> str:
        return str(path.parent / section[key]) if section.get(key) else ""

    def decoded(section: Mapping[str, Any], key: str) -> str:
        try:
            return base64.b64decode(section.get(key) or "", validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise cli.UserError(f"kubeconfig {path}: {key} is not base64: {error}") from error

    return Config(
        server=server.rstrip("/"),
        ca_data=decoded(cluster, "certificate-authority-data"),
        ca_file=beside(cluster, "certificate-authority"),
        token=str(user.get("token") or ""),
        token_file=beside(user, "tokenFile"),
        client_cert_data=decoded(user, "client-certificate-data"),
        client_key_data=decoded(user, "client-key-data"),
        client_cert_file=beside(user, "client-certificate"),
        client_key_file=beside(user, "client-key"),
        tls_server_name=str(cluster.get("tls-server-name") or ""),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        namespace=str(context.get("namespace") or "default"),
    )


def _in_cluster(environ: Mapping[str, str]) -> Config:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise cli.UserError("no kubeconfig, and KUBERNETES_SERVICE_HOST is not set; give --kubeconfig")
    namespace = _IN_CLUSTER / "namespace"
    return Config(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_file=str(_IN_CLUSTER / "ca.crt"),
        token_file=str(_IN_CLUSTER / "token"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )
