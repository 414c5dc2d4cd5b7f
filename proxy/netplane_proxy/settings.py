"""Read the proxy's options, and kube-proxy's own configuration file where the meaning is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from netplane.lib import cli
from netplane.model import address
from netplane.model.address import Prefix
from netplane_proxy.plan import host

KIND = "KubeProxyConfiguration"

_SAME_MEANING = {
    "clientConnection.kubeconfig": "kubeconfig",
    "hostnameOverride": "node_name",
    "mode": "mode",
    "clusterCIDR": "cluster_cidr",
    "nodePortAddresses": "nodeport_addresses",
    "healthzBindAddress": "healthz_bind_address",
    "metricsBindAddress": "metrics_bind_address",
    "detectLocalMode": "detect_local_mode",
    "detectLocal.bridgeInterface": "pod_bridge_interface",
    "detectLocal.interfaceNamePrefix": "pod_interface_name_prefix",
    "iptables.localhostNodePorts": "localhost_nodeports",
    "ipvs.scheduler": "ipvs_scheduler",
}
"""Fields of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) to our options."""

_OF_MODE = {"masqueradeAll": "masquerade_all", "masqueradeBit": "masquerade_bit"}
"""Fields of the mode's own section; IPVS takes those of iptables, as kube-proxy does."""

_PORTS = {"healthz_bind_address": 10256, "metrics_bind_address": 10249}
_LISTS = {"cluster_cidr", "nodeport_addresses"}


def read_kube_proxy_file(path: Path) -> dict[str, Any] | None:
    """Return the options that a KubeProxyConfiguration sets; None when the file is of another kind.

    Empty fields mean their default, as they do for kube-proxy. Fields without a counterpart here (sync periods, the
    other modes' sections, conntrack sizes) are passed over: an existing file shall just work.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the common reader says what is wrong with it
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return None
    section = "nftables" if content.get("mode") in (None, "", "nftables") else "iptables"
    fields = _SAME_MEANING | {f"{section}.{field}": option for field, option in _OF_MODE.items()}
    found: dict[str, Any] = {}
    for field, option in fields.items():
        value = _at(content, field)
        if value in (None, "", []):
            continue
        if option in _LISTS and isinstance(value, list):
            value = ",".join(value)
        elif option in _PORTS:
            value = _with_port(str(value), _PORTS[option])
        found[option] = value
    return found


def _with_port(text: str, port: int) -> str:
    """Add the usual port to a bare address, as kube-proxy does with its file's."""
    try:
        ip = address.parse(text.strip("[]"))
    except ValueError:
        return text
    return address.with_port(ip, port)


def understands_kube_proxy_files(command: click.Group) -> click.Group:
    """Let the command's --config also take a KubeProxyConfiguration, as defaults below flags and environment."""
    (parameter,) = (one for one in command.params if one.name == "config")
    read_ours = parameter.callback
    assert read_ours is not None

    def read(context: click.Context, option: click.Parameter, path: Path | None) -> None:
        found = read_kube_proxy_file(path) if path is not None else None
        if found is None:
            read_ours(context, option, path)
        else:
            context.default_map = {**(context.default_map or {}), **found}

    parameter.callback = read
    return command


def of_options(options: Mapping[str, Any]) -> host.Settings:
    """Return the settings that options say. `UserError` names the option at fault."""
    nodeports = options["nodeport_addresses"]
    return host.Settings(
        node_name=options["node_name"],
        nodeport_prefixes=None if nodeports.strip() in ("", "primary") else prefixes("nodeport-addresses", nodeports),
        cluster_cidrs=prefixes("cluster-cidr", options["cluster_cidr"]),
        service_cidrs=prefixes("service-cidr", options["service_cidr"]),
        local_mode=options["detect_local_mode"],
        pod_interface=_pod_interface(options),
        masquerade_bit=options["masquerade_bit"],
        masquerade_all=options["masquerade_all"],
        has_localhost_nodeports=options["localhost_nodeports"],
    )


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
    """Read `0.0.0.0:10256` or `[::]:10256`; None when it is empty, which turns the server off."""
    if not text:
        return None
    ip, _, port = text.rpartition(":")
    try:
        where = address.text(address.parse(ip.strip("[]")))
        number = int(port)
    except ValueError as error:
        raise cli.UserError(f"--{option}: {text!r} is not ADDRESS:PORT; give one like 0.0.0.0:10256") from error
    if not 0 <= number <= 65535:
        raise cli.UserError(f"--{option}: port {number} is beyond 65535")
    return where, number


def _at(content: Mapping[str, Any], field: str) -> Any:
    value: Any = content
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
