"""Read the proxy's options. What of them is kube-proxy's own is kube_proxy's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from netplane.lib import cli
from netplane.model import address
from netplane.model.address import Prefix
from netplane_proxy.kube_proxy import KIND
from netplane_proxy.plan import host

_PORTS = {"healthz-bind-address": 10256, "metrics-bind-address": 10249}
"""The ports of addresses that are given without one."""


def of_options(options: Mapping[str, Any]) -> host.Settings:
    """Return the settings that options say. `UserError` names the option at fault."""
    nodeports = options["nodeport_addresses"]
    return host.Settings(
        node_name=_node_name(options["node_name"]),
        nodeport_prefixes=None if nodeports.strip() in ("", "primary") else prefixes("nodeport-addresses", nodeports),
        cluster_cidrs=prefixes("cluster-cidr", options["cluster_cidr"]),
        service_cidrs=prefixes("service-cidr", options["service_cidr"]),
        local_mode=options["detect_local_mode"],
        pod_interface=_pod_interface(options),
        masquerade_bit=options["masquerade_bit"],
        masquerade_all=options["masquerade_all"],
        has_localhost_nodeports=options["localhost_nodeports"],
    )


def _node_name(text: str) -> str:
    """Read a node's name, which has no capitals: a host's may, and kube-proxy takes it so."""
    name = text.strip().lower()
    if not name:
        raise cli.UserError("--node-name is empty; give the name of this node's Node object")
    return name


def _pod_interface(options: Mapping[str, Any]) -> str:
    """Return what the mode that looks at interfaces goes by; "" in the others."""
    mode = options["detect_local_mode"]
    if mode not in _OF_INTERFACES:
        return ""
    option, field, example = _OF_INTERFACES[mode]
    name: str = options[option.replace("-", "_")]
    where = f"--{option} (or detectLocal.{field} of a {KIND})"
    if not name:
        raise cli.UserError(f"--detect-local-mode {mode} needs {where}; give one like {example}")
    if not _INTERFACE.fullmatch(name):
        raise cli.UserError(f"{where}: {name!r} is not an interface's name; give one like {example}")
    return name


_OF_INTERFACES = {
    "BridgeInterface": ("pod-bridge-interface", "bridgeInterface", "cbr0"),
    "InterfaceNamePrefix": ("pod-interface-name-prefix", "interfaceNamePrefix", "veth"),
}
_INTERFACE = re.compile(r"[\w.@-]{1,15}", re.ASCII)
"""Names of interfaces, without the characters that nft or iptables read otherwise."""


def prefixes(option: str, text: str) -> tuple[Prefix, ...]:
    """Read networks separated by commas."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(address.prefix(part))
        except ValueError as error:
            raise cli.UserError(f"--{option}: {error}; give networks like 10.96.0.0/16, separated by commas") from error
    return tuple(found)


def bind(option: str, text: str) -> tuple[str, int] | None:
    """Read `0.0.0.0:10256`, `[::]:10256` or an address alone; None when it is empty, which turns the server off."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        return address.text(address.parse(text.strip("[]"))), _PORTS[option]
    ip, _, port = text.rpartition(":")
    try:
        where = address.text(address.parse(ip.strip("[]")))
        number = int(port)
    except ValueError as error:
        raise cli.UserError(f"--{option}: {text!r} is not ADDRESS:PORT; give one like 0.0.0.0:10256") from error
    if not 0 <= number <= 65535:
        raise cli.UserError(f"--{option}: port {number} is beyond 65535")
    return where, number
