"""Sign the serving certificates of node agents: a node for itself, and for addresses that are nobody else's."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import timedelta

import orjson

from netplane.controlplane.api import access, bodies, cluster, pki, status
from netplane.kube.types import Object

_PARTS_LIFETIME = timedelta(days=365)


def certificate(at: cluster.Cluster, user: access.User, body: bytes) -> Object:
    """Answer POST /netplane.io/v1/node-certificate.

    The body is `{"request": PEM | "publicKey": PEM, "addresses": [...], "node": NAME}`; `node` may be left out by a
    node. Returns `{"certificate": PEM, "ca": PEM}`. Raises 403 for another node's name or address.
    """
    asked = bodies.json(body)
    if not isinstance(asked, dict):
        raise status.bad_request("the body is not an object")
    name = str(asked.get("node") or user.node)
    if not name or (user.node != name and access.MASTERS not in user.groups):
        raise status.forbidden(f'User "{user.name}" cannot get a certificate for node "{name}"')
    pem = asked.get("request") or asked.get("csr") or asked.get("publicKey")
    addresses = asked.get("addresses") or ()
    if not isinstance(pem, str) or not isinstance(addresses, list | tuple):
        raise status.bad_request("give a PEM request or publicKey, and a list of addresses")
    try:
        key = pki.public_key_of(pem)
    except ValueError as error:
        raise status.bad_request(f"the key cannot be read: {error}") from error
    checked = _checked(at, name, [str(each) for each in addresses])
    signed = at.authority.sign(
        key, name=f"system:node:{name}", organization="system:nodes", alternatives=[name, *checked], now=at.clock.now()
    )
    return {"certificate": signed.decode(), "ca": at.authority.pem().decode()}


def credentials(at: cluster.Cluster, user: access.User) -> Object:
    """Answer POST /netplane.io/v1/node-credentials: tokens for what runs beside a node's agent.

    Returns `{"proxy": TOKEN, "cni": TOKEN}`. Raises 403 for who is no node.
    """
    if not user.node:
        raise status.forbidden(f'User "{user.name}" is no node')
    now = at.clock.now()
    return {
        part: at.keys.user_token(name, [], now=now, lifetime=_PARTS_LIFETIME)
        for part, name in (("proxy", "system:kube-proxy"), ("cni", "system:netplane-cni"))
    }


def _checked(at: cluster.Cluster, name: str, addresses: Sequence[str]) -> list[str]:
    others = _addresses_of_others(at, name)
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise status.bad_request(f"addresses: {text!r} is not an IP address") from error
        if any(address in network for network in at.addresses.networks()):
            raise status.forbidden(f"{text} is a Service address: no node has it")
        if str(address) in others:
            raise status.forbidden(f"{text} is the address of another node")
    return list(addresses)


def _addresses_of_others(at: cluster.Cluster, name: str) -> set[str]:
    found: set[str] = set()
    for record in at.store.cache("nodes").range():
        if record.key[1] != name:
            shown = orjson.loads(record.value).get("status") or {}
            found |= {each["address"] for each in shown.get("addresses") or () if each["type"].endswith("IP")}
    return found
