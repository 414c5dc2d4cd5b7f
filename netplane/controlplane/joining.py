"""The commands `token` and `join`: how a machine that knows a short secret becomes a node of the cluster.

The order is kubeadm's: read `cluster-info` unverified, verify it with the token (and the CA's hash), ask for a
certificate with the token, and never use the token again.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket
import ssl
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from netplane.controlplane.api import pki, tokens
from netplane.kube import certificates, client, errors, kubeconfig
from netplane.kube.types import SECRETS, Object
from netplane.lib import cli, clock, config, timestamp

_CREDENTIALS = "/netplane.io/v1/node-credentials"
_LETTERS = string.ascii_lowercase + string.digits
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_TTL = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SECONDS = 15.0
_ADMIN = Path("/var/lib/netplane/server/admin.kubeconfig")


def _kubeconfig_option(command: Any) -> Any:
    text = "The administrator's kubeconfig; [default: the server's own on this machine, else as kubectl finds it]"
    return click.option("--kubeconfig", "path", type=click.Path(dir_okay=False, path_type=Path), help=text)(command)


def _config(path: Path | None) -> kubeconfig.Config:
    if path is None and not os.environ.get("KUBECONFIG") and _ADMIN.exists():
        path = _ADMIN
    return kubeconfig.load(str(path) if path else None)


def _ttl(_: click.Context, __: click.Parameter, value: str) -> timedelta | None:
    """Read how long a token lives; 0 is for ever."""
    if value == "0":
        return None
    match = _TTL.fullmatch(value)
    if match is None or not int(match.group(1)):
        raise click.BadParameter(f"{value!r} is not a time to live, as 30m, 24h or 7d (0: for ever)")
    return timedelta(seconds=int(match.group(1)) * _UNITS[match.group(2)])


def _token(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not tokens.TOKEN.fullmatch(value):
        # The value is a secret, perhaps of something else: it is not repeated.
        raise click.BadParameter("not a token of the form abcdef.0123456789abcdef")
    return value


@click.group(context_settings=config.SETTINGS)
def token() -> None:
    """Make, list and delete the tokens with which nodes join."""


@token.command()
@_kubeconfig_option
@click.argument("given", metavar="[TOKEN]", required=False, callback=_token)
@click.option("--ttl", callback=_ttl, default="24h", help="How long it can be used: 30m, 24h, 7d; 0 is for ever.")
@click.option("--description", default="", help="What it is for.")
@click.option("--print-join-command", is_flag=True, help="Print the whole command for the machine that is to join.")
def create(
    *, path: Path | None, given: str | None, ttl: timedelta | None, description: str, print_join_command: bool
) -> None:
    """Make a token, by default a random one, and print it."""
    made = given or f"{_random(6)}.{_random(16)}"
    expires = clock.SYSTEM.now() + ttl if ttl else None
    to = _config(path)

    async def run() -> None:
        async with client.Client(to, user_agent="netplane") as api:
            await api.create(SECRETS, secret(made, expires=expires, description=description))
        click.echo(_join_command(to, made) if print_join_command else made)

    cli.run_async(run(), expected=(errors.ApiError,))


def _random(count: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def _join_command(to: kubeconfig.Config, made: str) -> str:
    pem = to.ca_data or (Path(to.ca_file).read_text() if to.ca_file else "")
    told = f" --discovery-token-ca-cert-hash {pki.fingerprint(pem.encode())}" if pem else ""
    return f"netplane join {to.server} --token {made}{told}"


def secret(made: str, *, expires: datetime | None, description: str = "") -> Object:
    """Return the Secret that is a bootstrap token."""
    identity, _, half = made.partition(".")
    data = {
        "token-id": identity,
        "token-secret": half,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:netplane:default-node-token",
    }
    if expires is not None:
        data["expiration"] = timestamp.rfc3339(expires)
    if description:
        data["description"] = description
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": tokens.PREFIX + identity, "namespace": tokens.NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": tokens.TYPE, "data": encoded}


@token.command("list")
@_kubeconfig_option
def list_(*, path: Path | None) -> None:
    """List the tokens there are; the secret half is shown to nobody who may not read Secrets."""
    to = _config(path)

    async def run() -> None:
        async with client.Client(to, user_agent="netplane") as api:
            found = await api.list(SECRETS, namespace=tokens.NAMESPACE, field_selector=f"type={tokens.TYPE}")
        rows = [("TOKEN", "EXPIRES", "DESCRIPTION")]
        for each in found.items:
            known = tokens.read(each)
            if known is not None:
                until = timestamp.rfc3339(known.expires) if known.expires else "<never>"
                told = base64.b64decode((each.get("data") or {}).get("description", "")).decode()
                rows.append((f"{known.identity}.{known.secret}", until, told))
        for row in rows:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, (23, 20, 0), strict=True)).rstrip())

    cli.run_async(run(), expected=(errors.ApiError,))


@token.command()
@_kubeconfig_option
@click.argument("given", metavar="TOKEN")
def delete(*, path: Path | None, given: str) -> None:
    """Delete a token, named whole or by its first six letters."""
    identity = given.partition(".")[0]
    if not re.fullmatch(r"[a-z0-9]{6}", identity):
        raise click.BadParameter("not a token, nor the first six letters of one", param_hint="TOKEN")
    to = _config(path)

    async def run() -> None:
        async with client.Client(to, user_agent="netplane") as api:
            await api.get(SECRETS, tokens.PREFIX + identity, namespace=tokens.NAMESPACE)
            await api.delete(SECRETS, tokens.PREFIX + identity, namespace=tokens.NAMESPACE)
        click.echo(f"token {identity} deleted")

    cli.run_async(run(), expected=(errors.ApiError,))


@dataclass(frozen=True, slots=True)
class Discovered:
    """Where the cluster is, and whom to trust."""

    server: str
    ca_pem: str


def _hash(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HASH.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not sha256: and 64 hexadecimal digits")
    return values


def _name(_: click.Context, __: click.Parameter, value: str | None) -> str:
    name = value or socket.gethostname().lower()
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} cannot name a node: lower case letters, digits, '-' and '.'")
    return name


@click.command(context_settings=config.SETTINGS)
@click.argument("server")
@click.option("--token", "given", required=True, callback=_token, help="What `netplane token create` printed.")
@click.option("--discovery-token-ca-cert-hash", "hashes_", multiple=True, callback=_hash, metavar="sha256:HEX",
              help="The hash of the CA to trust; repeatable. Without it the token alone decides.")  # fmt: skip
@click.option("--node-name", callback=_name, help="The node's name; [default: the host's]")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), default=Path("/etc/netplane"),
              help="Where node.kubeconfig, proxy.kubeconfig and cni.kubeconfig are written.")  # fmt: skip
def join(*, server: str, given: str, hashes_: tuple[str, ...], node_name: str, directory: Path) -> None:
    """Make this machine a node: get its credentials from the SERVER (an https:// address, or HOST:PORT)."""
    url = server if "://" in server else f"https://{server}"
    if not url.startswith("https://"):
        raise click.BadParameter(f"{server!r} is not an https:// address", param_hint="SERVER")
    cli.run_async(_join(url.rstrip("/"), given, hashes_, node_name, directory), expected=(errors.ApiError,))


async def _join(url: str, given: str, hashes_: tuple[str, ...], name: str, directory: Path) -> None:
    info = await _cluster_info(url)
    ca_pem = verified(info, given, hashes_).ca_pem
    # The address that was given is known to be reachable from here; the advertised one need not be.
    found = Discovered(url, ca_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    to = kubeconfig.Config(server=found.server, ca_data=found.ca_pem, token=given)
    async with client.Client(to, user_agent="netplane") as api:
        try:
            certificate = await certificates.for_node(api, key, name)
        except certificates.NotIssued as error:
            raise cli.UserError(str(error)) from error
    private = certificates.private_pem(key)
    node = kubeconfig.Config(
        server=found.server, ca_data=found.ca_pem, client_cert_data=certificate, client_key_data=private
    )
    async with client.Client(node, user_agent="netplane") as api:
        parts = orjson.loads((await api.request("POST", _CREDENTIALS, body=b"{}")).body)
    identity = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(private)}
    written = [write(directory / "node.kubeconfig", found, f"system:node:{name}", identity)]
    for part, user in (("proxy", "system:kube-proxy"), ("cni", "system:netplane-cni")):
        # In a file of its own, which is read again when the agent has renewed it.
        _keep(directory / f"{part}.token", parts[part])
        written.append(write(directory / f"{part}.kubeconfig", found, user, {"tokenFile": f"{part}.token"}))
    click.echo(f"this machine may be node {name}; its credentials are in {directory}. Now run:")
    for part, path in zip(("agent", "proxy", "cni"), written, strict=True):
        click.echo(f"  netplane {part} --kubeconfig {path} --node-name {name}")


async def _cluster_info(url: str) -> Object:
    """Fetch `cluster-info` from whoever answers at the address: nothing of it is believed yet."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    path = f"{url}/api/v1/namespaces/kube-public/configmaps/cluster-info"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
            session.get(path, ssl=unverified) as answer,
        ):
            if answer.status != 200:
                raise cli.UserError(f"{url} answered {answer.status} for cluster-info: is it a netplane server?")
            found: Object = orjson.loads(await answer.read())
            return found
    except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
        raise cli.UserError(f"cannot read cluster-info from {url}: {error or 'no answer'}") from error


def verified(info: Object, given: str, hashes_: tuple[str, ...]) -> Discovered:
    """Return what a `cluster-info` says, once the token (and one of the hashes) has proven it; raise UserError."""
    data: Mapping[str, str] = info.get("data") or {}
    identity, _, half = given.partition(".")
    content = data.get("kubeconfig", "")
    signature = data.get(f"jws-kubeconfig-{identity}")
    if signature is None:
        raise cli.UserError(f"the cluster does not know token {identity}: make one with `netplane token create`")
    if not tokens.is_signed(content, signature, identity, half):
        raise cli.UserError("cluster-info is not signed with this token: the token is wrong, or this is an impostor")
    try:
        shown = yaml.safe_load(content)["clusters"][0]["cluster"]
        ca_pem = base64.b64decode(shown["certificate-authority-data"]).decode()
        found = pki.fingerprint(ca_pem.encode())
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        raise cli.UserError(f"cluster-info cannot be read: {error}") from error
    if hashes_ and found not in hashes_:
        raise cli.UserError(f"the cluster's CA is {found}, which no --discovery-token-ca-cert-hash names")
    return Discovered(str(shown["server"]), ca_pem)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(path: Path, found: Discovered, user: str, identity: Mapping[str, str]) -> Path:
    """Write a kubeconfig that only its owner can read."""
    shown = {"server": found.server, "certificate-authority-data": _base64(found.ca_pem)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "netplane", "cluster": shown}],
        "users": [{"name": user, "user": dict(identity)}],
        "contexts": [{"name": "netplane", "context": {"cluster": "netplane", "user": user}}],
        "current-context": "netplane",
    }
    _keep(path, yaml.safe_dump(content, sort_keys=False))
    return path


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        beside.replace(path)
    except OSError as error:
        raise cli.UserError(f"cannot write {path}: {error.strerror}; choose another --directory") from error
