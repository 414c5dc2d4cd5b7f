"""Speak the CNI specification, 0.3.1 to 1.1.0: requests in, results and errors out. What is done is plan's and run's.

Source: https://github.com/containernetworking/cni/blob/main/SPEC.md, section numbers below are of version 1.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import orjson

from netplane.model import address

Command = Literal["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]
COMMANDS: tuple[str, ...] = get_args(Command)
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
SINCE: Mapping[str, str] = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}

INCOMPATIBLE_VERSION, UNSUPPORTED_FIELD, UNKNOWN_CONTAINER = 1, 2, 3
INVALID_ENVIRONMENT, IO_FAILURE, DECODE_FAILURE, INVALID_CONFIG = 4, 5, 6, 7
TRY_AGAIN_LATER, NOT_AVAILABLE, LIMITED_CONNECTIVITY = 11, 50, 51
INTERNAL, MISMATCH = 100, 101
"""Error codes of section 5; from 100 on they are ours: a failure inside, and CHECK finding other than what ADD left."""

IPS_ANNOTATION = "netplane.io/ips"
"""By it a pod asks for addresses of its own, one of each family at most, separated by commas."""

POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd and CRI-O hand a pod's annotations on."""

LOWEST_RATE = 1000
"""Bits per second that can be held: a packet would else take minutes."""

_DNS = {"servers": "nameservers", "searches": "search"}
"""How the capability dns (CONVENTIONS.md) calls what results call otherwise."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


class CniError(Exception):
    """A refusal as the runtime shall see it: code, one line, and what to do or look at."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(f"{message}; {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One entry of the capability portMappings. `host_ip` is empty for all addresses of the node."""

    protocol: Literal["tcp", "udp", "sctp"]
    host_port: int
    container_port: int
    host_ip: address.Packed = b""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The capability bandwidth: limits to what the pod gets and sends, in bits per second and bits; 0 sets none."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


NO_LIMIT = Bandwidth()


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a result; `sandbox` is the container's namespace, empty on the host."""

    name: str
    mac: str
    sandbox: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class IpConfig:
    """An address of a result. `interface` counts in the result's interfaces."""

    ip: address.Packed
    length: int
    gateway: address.Packed = b""
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD made. `passed` is the previous plugins' result, which ours is added to (section 4, prevResult)."""

    interfaces: tuple[Interface, ...]
    ips: tuple[IpConfig, ...]
    routes: tuple[tuple[address.Prefix, address.Packed], ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One call, checked. `netns` is empty where the command needs none; `ips` and `mac` are what was asked for.

    `plugin` is the name by which the runtime called us.
    """

    command: Command
    version: str = "1.0.0"
    plugin: str = ""
    network: str = ""
    container: str = ""
    netns: str = ""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PortMapping, ...] = ()
    ips: tuple[address.Packed, ...] = ()
    mac: bytes = b""
    bandwidth: Bandwidth = NO_LIMIT
    dns: Mapping[str, Any] = field(default_factory=dict)
    previous: Mapping[str, Any] | None = None
    valid_attachments: frozenset[tuple[str, str]] = frozenset()

    @property
    def pod(self) -> str:
        """`namespace/name` of the pod, as Kubernetes' runtimes pass it; empty for other containers."""
        names = self.args.get("K8S_POD_NAMESPACE", ""), self.args.get("K8S_POD_NAME", "")
        return "/".join(names) if all(names) else ""


def decode(environment: Mapping[str, str], stdin: bytes) -> Request:
    """Read a call from CNI_* variables and the network configuration; raises CniError."""
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND is {command!r}", f"it is one of {', '.join(COMMANDS)}")
    config = _config(stdin)
    version = str(config.get("cniVersion", "1.0.0"))
    if command == "VERSION":
        return Request("VERSION", version)
    plugin = str(config.get("type", ""))
    _check_version(command, version)
    network = config.get("name")
    if not isinstance(network, str) or not _NAME.fullmatch(network):
        raise CniError(INVALID_CONFIG, f"the network's name is {network!r}", "it starts with a letter or digit")
    if command in ("STATUS", "GC"):
        return Request(cast("Command", command), version, plugin, network, valid_attachments=_valid_attachments(config))
    runtime = _mapping(config, "runtimeConfig")
    args = _arguments(environment.get("CNI_ARGS", ""))
    return Request(
        cast("Command", command),
        version,
        plugin,
        network,
        container=_container(environment),
        netns=_netns(environment, command),
        ifname=_ifname(environment),
        args=args,
        ports=_port_mappings(runtime.get("portMappings") or ()),
        ips=_addresses(runtime.get("ips") or ([args["IP"]] if args.get("IP") else ()) or _annotated(runtime)),
        mac=_mac(runtime.get("mac") or args.get("MAC") or ""),
        bandwidth=_bandwidth(_mapping(runtime, "bandwidth")),
        dns=_dns(_mapping(runtime, "dns")) or _mapping(config, "dns"),
        previous=_mapping(config, "prevResult") or None,
    )


def version_of(stdin: bytes) -> str:
    """Return the version that answers must be written in: the configuration's, or the newest when it says none."""
    try:
        found = orjson.loads(stdin or b"{}").get("cniVersion")
    except (ValueError, AttributeError):
        return "1.0.0"
    return found if isinstance(found, str) and found in VERSIONS else "1.0.0"


def encode_version() -> bytes:
    """Return the answer to VERSION."""
    return _bytes({"cniVersion": NEWEST, "supportedVersions": list(VERSIONS)})


def encode_error(error: CniError, version: str) -> bytes:
    """Return an error object (section 5)."""
    body: dict[str, Any] = {"cniVersion": version, "code": error.code, "msg": error.message}
    return _bytes({**body, "details": error.details} if error.details else body)


def encode_result(result: Result, request: Request) -> bytes:
    """Return the answer to ADD, in the request's version, after what the previous plugins made."""
    body = previous_result(request)
    offset = len(body["interfaces"])
    body["cniVersion"] = request.version
    body["interfaces"] += [_interface(interface, request.version) for interface in result.interfaces]
    body["ips"] += [_ip(ip, request.version, offset) for ip in result.ips]
    body["routes"] += [{"dst": str(to), "gw": address.text(via)} for to, via in result.routes]
    body["dns"] = {**dict(body.get("dns") or {}), **result.dns}
    return _bytes(body)


def untold(request: Request, addresses: Iterable[str]) -> list[str]:
    """Return what is wrong with the result of ADD that the runtime kept (CHECK gets it): addresses that it has not."""
    if request.previous is None:
        return []
    told = {str(ip.get("address", "")).partition("/")[0] for ip in previous_result(request)["ips"]}
    return [f"the runtime's result has not the address {ip}" for ip in addresses if ip not in told]


def previous_result(request: Request) -> dict[str, Any]:
    """Return a copy of the previous result with all its lists there."""
    previous = dict(request.previous or {})
    for part in ("interfaces", "ips", "routes"):
        previous[part] = list(previous.get(part) or ())
    return previous


def _config(stdin: bytes) -> dict[str, Any]:
    try:
        config = orjson.loads(stdin or b"{}")
    except ValueError as error:
        raise CniError(DECODE_FAILURE, f"the network configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "the network configuration is not a JSON object")
    asked = config.get("cniVersion", "1.0.0")
    if asked not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {asked!r} is not spoken", f"speak {', '.join(VERSIONS)}")
    return config


def _check_version(command: str, version: str) -> None:
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(INCOMPATIBLE_VERSION, f"{command} is not in CNI {version}", f"it came with {since}")


def _container(environment: Mapping[str, str]) -> str:
    container = environment.get("CNI_CONTAINERID", "")
    if not _NAME.fullmatch(container):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID is {container!r}", "it starts with a letter or digit")
    return container


def _netns(environment: Mapping[str, str], command: str) -> str:
    netns = environment.get("CNI_NETNS", "")
    if not netns and command != "DEL":
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS is missing for {command}")
    return netns


def _ifname(environment: Mapping[str, str]) -> str:
    ifname = environment.get("CNI_IFNAME", "")
    is_bad = not 0 < len(ifname.encode()) <= 15 or ifname in (".", "..")
    if is_bad or any(c in "/:" or c.isspace() or not c.isprintable() for c in ifname):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME is {ifname!r}", "an interface's name has 1 to 15 characters")
    return ifname


def _arguments(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    if any(not equals for _, equals, _ in pairs):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS is {text!r}", "it is FOO=BAR;ABC=123")
    return {key: value for key, _, value in pairs}


def _port_mappings(rows: object) -> tuple[PortMapping, ...]:
    if not isinstance(rows, (list, tuple)):
        raise CniError(INVALID_CONFIG, "runtimeConfig.portMappings is not a list")
    # containerd writes HostPort, podman hostPort. A host port of 0 asks for none.
    lowered = [{str(key).lower(): value for key, value in row.items()} for row in rows if isinstance(row, dict)]
    return tuple(_port_mapping(row) for row in lowered if row.get("hostport"))


def _port_mapping(row: Mapping[str, Any]) -> PortMapping:
    protocol = str(row.get("protocol") or "tcp").lower()
    ports = row.get("hostport"), row.get("containerport")
    are_numbers = all(type(port) is int and 0 < port < 65536 for port in ports)
    if protocol not in ("tcp", "udp", "sctp") or not are_numbers:
        raise CniError(INVALID_CONFIG, f"runtimeConfig.portMappings has {dict(row)!r}")
    host_ip = _addresses([row["hostip"]])[0] if row.get("hostip") else b""
    if not any(host_ip):
        host_ip = b""
    return PortMapping(cast("Literal['tcp', 'udp', 'sctp']", protocol), int(ports[0] or 0), int(ports[1] or 0), host_ip)


def _bandwidth(told: Mapping[str, Any]) -> Bandwidth:
    # containerd writes IngressRate, the specification of the capability ingressRate.
    lowered = {str(key).lower(): value or 0 for key, value in told.items()}
    rates = [lowered.get(f"{way}{what}", 0) for way in ("ingress", "egress") for what in ("rate", "burst")]
    are_numbers = all(type(value) is int and value >= 0 for value in rates)
    if not are_numbers or any(0 < rate < LOWEST_RATE for rate in rates[::2]):
        raise CniError(INVALID_CONFIG, f"runtimeConfig.bandwidth has {dict(told)!r}", f"from {LOWEST_RATE} bit/s on")
    return Bandwidth(*rates)


def _annotated(runtime: Mapping[str, Any]) -> list[str]:
    text = _mapping(runtime, POD_ANNOTATIONS).get(IPS_ANNOTATION, "")
    return [part.strip() for part in str(text).split(",") if part.strip()]


def _addresses(values: object) -> tuple[address.Packed, ...]:
    if not isinstance(values, (list, tuple)):
        raise CniError(INVALID_CONFIG, "runtimeConfig.ips is not a list")
    try:
        return tuple(address.parse(str(value).partition("/")[0]) for value in values)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"an address of the runtimeConfig is wrong: {error}") from error


def _mac(text: str) -> bytes:
    if not text:
        return b""
    if not re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", text) or int(text[1], 16) & 1:
        raise CniError(INVALID_CONFIG, f"the MAC address {text!r} is not one of a single interface")
    return bytes.fromhex(re.sub("[:-]", "", text))


def _dns(told: Mapping[str, Any]) -> Mapping[str, Any]:
    # Runtimes with the capability send every list, empty ones too.
    return {_DNS.get(key, key): value for key, value in told.items() if value}


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise CniError(INVALID_CONFIG, f"{key} is not a JSON object")
    return value


def _valid_attachments(config: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    rows = config.get("cni.dev/valid-attachments") or ()
    try:
        return frozenset((row["containerID"], row["ifname"]) for row in rows)
    except (TypeError, KeyError) as error:
        raise CniError(INVALID_CONFIG, "cni.dev/valid-attachments is not a list of containerID and ifname") from error


def _interface(interface: Interface, version: str) -> dict[str, Any]:
    body: dict[str, Any] = {"name": interface.name, "mac": interface.mac}
    if interface.sandbox:
        body["sandbox"] = interface.sandbox
    if interface.mtu and version == "1.1.0":
        body["mtu"] = interface.mtu
    return body


def _ip(ip: IpConfig, version: str, offset: int) -> dict[str, Any]:
    body: dict[str, Any] = {"address": f"{address.text(ip.ip)}/{ip.length}"}
    if version.startswith("0."):
        body["version"] = str(int(address.family(ip.ip)))
    if ip.gateway:
        body["gateway"] = address.text(ip.gateway)
    if ip.interface is not None:
        body["interface"] = ip.interface + offset
    return body


def _bytes(body: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
