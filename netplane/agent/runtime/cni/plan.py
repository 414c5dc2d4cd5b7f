"""Say how CNI plugins are called and what they answered (CNI specification 1.0.0). Executing them is `run`'s."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from netplane.agent.runtime.protocol import PortMapping, RuntimeFailure

Command = Literal["ADD", "DEL"]
INTERFACE = "eth0"


class CniError(RuntimeFailure):
    """A plugin refused, or a configuration makes no sense."""


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A conflist: plugins called one after the other. Each one's own configuration stays as it was written."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A sandbox and the namespace it is to be connected in. `netns` is "" when that is gone already."""

    sandbox_id: str
    uid: str
    namespace: str
    name: str
    netns: str
    port_mappings: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of one plugin: its program, its environment and its standard input."""

    plugin: str
    environment: Mapping[str, str]
    config: Mapping[str, Any]


def network_list(text: str, *, single: bool) -> NetworkList:
    """Read a configuration file: a list, or one plugin alone (`single`). Raises CniError."""
    try:
        document = json.loads(text)
        plugins = [document] if single else document["plugins"]
        names = [plugin["type"] for plugin in plugins]
        name = document["name"]
    except (ValueError, TypeError, KeyError) as error:
        raise CniError(f"the CNI configuration makes no sense: {error!r}") from error
    if not names or not all(isinstance(n, str) and n and "/" not in n for n in names):
        raise CniError("the CNI configuration names no plugin, or one with a path")
    return NetworkList(name, str(document.get("cniVersion", "0.2.0")), tuple(plugins))


def order(command: Command, network: NetworkList) -> Sequence[Mapping[str, Any]]:
    """Return the plugins in the order in which to call them: DEL goes backwards."""
    return network.plugins if command == "ADD" else network.plugins[::-1]


def call(
    command: Command, network: NetworkList, plugin: Mapping[str, Any], where: Attachment, *, path: str, previous: Any
) -> Call:
    """Return one plugin's call. `path` is where plugins are searched; `previous` the result so far, None for none."""
    config = {key: value for key, value in plugin.items() if key not in ("prevResult", "runtimeConfig")}
    config |= {"cniVersion": network.version, "name": network.name}
    if previous is not None:
        config["prevResult"] = previous
    if runtime_config := _runtime_config(plugin, where):
        config["runtimeConfig"] = runtime_config
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": where.namespace,
        "K8S_POD_NAME": where.name,
        "K8S_POD_INFRA_CONTAINER_ID": where.sandbox_id,
        "K8S_POD_UID": where.uid,
    }
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": where.sandbox_id,
        "CNI_NETNS": where.netns,
        "CNI_IFNAME": INTERFACE,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
        "CNI_PATH": path,
    }
    return Call(plugin["type"], environment, config)


def addresses(result: Any) -> tuple[str, ...]:
    """Return the pod's addresses from an ADD result, in its order, as podIPs wants them. Raises CniError."""
    try:
        found = [str(ipaddress.ip_interface(ip["address"]).ip) for ip in result.get("ips") or ()]
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise CniError(f"the CNI plugin's result makes no sense: {error!r}") from error
    if not found:
        raise CniError("the CNI plugin gave no address")
    # One of each family, the first ones: a pod has no more (KEP-563).
    by_family = {ipaddress.ip_address(address).version: address for address in reversed(found)}
    first = ipaddress.ip_address(found[0]).version
    return tuple(by_family[family] for family in sorted(by_family, key=lambda family: family != first))


def failure(plugin: str, command: Command, output: bytes, code: int) -> CniError:
    """Return what to tell the user: the plugin's own error object if it wrote one, else its raw words."""
    try:
        document = json.loads(output)
        said = "; ".join(str(document[key]) for key in ("msg", "details") if document.get(key))
    except (ValueError, TypeError, KeyError, AttributeError):
        said = " ".join(output.decode(errors="replace").split()) or f"exit {code} without a word"
    verb = {"ADD": "add", "DEL": "delete"}[command]
    return CniError(f'plugin type="{plugin}" failed ({verb}): {said}')


def _runtime_config(plugin: Mapping[str, Any], where: Attachment) -> dict[str, Any]:
    capabilities = plugin.get("capabilities") or {}
    result: dict[str, Any] = {}
    if capabilities.get("portMappings") and where.port_mappings:
        result["portMappings"] = [
            {
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol.lower(),
                **({"hostIP": mapping.host_ip} if mapping.host_ip else {}),
            }
            for mapping in where.port_mappings
        ]
    return result
