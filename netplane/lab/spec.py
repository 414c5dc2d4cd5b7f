"""Decide a lab's names, addresses and folders. Making them is `host`'s."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

IPFamily = Literal["ipv4", "ipv6", "dual"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NODES = 50
MIN_SERVICES = 16
FIRST_NODE_HOST = 10  # node-1 is .11: low addresses stay for the API server and gateways
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


class SpecError(ValueError):
    """A lab that cannot be: the message names the option and says what would do."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The address ranges of one lab in one IP family."""

    underlay: str
    client: str
    pods: str
    services: str
    node_mask: int

    def networks(self) -> dict[str, Network]:
        """Return the ranges by the option that sets them, parsed."""
        parsed: dict[str, Network] = {}
        for option in ("underlay", "pods", "services", "client"):
            text = getattr(self, option)
            try:
                parsed[option] = ipaddress.ip_network(text)
            except ValueError as error:
                raise SpecError(f"--{option}-cidr {text}: {error}") from error
        return parsed


IPV4 = Ranges("172.30.0.0/24", "172.31.0.0/24", "10.244.0.0/16", "10.96.0.0/16", 24)
IPV6 = Ranges("fd00:30::/64", "fd00:31::/64", "fd00:244::/48", "fd00:96::/112", 64)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: its name, its number (from 1) and its address in each family."""

    name: str
    number: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabSpec:
    """Everything that `netplane lab up` was asked for."""

    name: str = "lab"
    nodes: tuple[int, ...] = (1, 2, 3)
    proxy_mode: str = "nftables"
    fabric: str = "vxlan"
    ip_family: IPFamily = "ipv4"
    runtime: str = "embedded"
    api_port: int = 6443
    ipv4: Ranges = field(default=IPV4)
    ipv6: Ranges = field(default=IPV6)

    @property
    def ranges(self) -> tuple[Ranges, ...]:
        """The ranges in use, the primary family first."""
        return {"ipv4": (self.ipv4,), "ipv6": (self.ipv6,), "dual": (self.ipv4, self.ipv6)}[self.ip_family]

    @property
    def api_addresses(self) -> tuple[str, ...]:
        """The API server's addresses on the underlay: the bridge's own, one a family."""
        return tuple(str(underlay_network(ranges)[1]) for ranges in self.ranges)

    @property
    def client_addresses(self) -> tuple[str, ...]:
        """The addresses of the client that stands for the outside world."""
        return tuple(str(ipaddress.ip_network(ranges.client)[2]) for ranges in self.ranges)

    @property
    def client_gateways(self) -> tuple[str, ...]:
        """The router's addresses on the client's link."""
        return tuple(str(ipaddress.ip_network(ranges.client)[1]) for ranges in self.ranges)

    def node(self, number: int) -> NodeSpec:
        """Return the node of that number, with its addresses."""
        host = FIRST_NODE_HOST + number
        return NodeSpec(f"node-{number}", number, tuple(str(underlay_network(r)[host]) for r in self.ranges))

    def node_specs(self) -> tuple[NodeSpec, ...]:
        """Return all nodes by rising number."""
        return tuple(self.node(number) for number in sorted(self.nodes))

    def netns(self, place: str) -> str:
        """Return the name of a place's network namespace, as `ip netns` lists it."""
        return f"{self.name}-{place}"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where one lab keeps what lasts (`state`) and what a reboot forgets (`run`)."""

    state: Path
    run: Path

    def node_state(self, node: str) -> Path:
        """What a node keeps over `down --keep`."""
        return self.state / "nodes" / node

    def node_tmp(self, node: str) -> Path:
        """Where a node's daemons put what they need for a moment; one that is killed leaves it there."""
        return self.node_state(node) / "tmp"

    def node_run(self, node: str) -> Path:
        """What a node forgets when the lab goes down."""
        return self.run / "nodes" / node

    def mount_namespace(self, node: str) -> Path:
        """The file that pins a node's mount namespace."""
        return self.run / "mnt" / node

    @property
    def server(self) -> Path:
        """The API server's data directory."""
        return self.state / "server"

    @property
    def images(self) -> Path:
        """The image store that all nodes share."""
        return self.state / "images"

    @property
    def spec_file(self) -> Path:
        """The saved LabSpec."""
        return self.state / "spec.json"

    @property
    def admin_kubeconfig(self) -> Path:
        """What `kubectl` outside the lab uses."""
        return self.server / "admin.kubeconfig"


def folders(name: str) -> Folders:
    """Return the folders of the lab of that name."""
    return Folders(Path("/var/lib/netplane-lab") / name, Path("/run/netplane-lab") / name)


def underlay_network(ranges: Ranges) -> Network:
    """Return the parsed underlay range."""
    return ipaddress.ip_network(ranges.underlay)


def check(spec: LabSpec) -> LabSpec:
    """Return the spec, or raise SpecError that names the option at fault."""
    if not NAME.fullmatch(spec.name):
        raise SpecError(f"--name {spec.name!r}: lower-case letters, digits and '-', at most 15 characters")
    if not 1 <= len(spec.nodes) <= MAX_NODES:
        raise SpecError(f"--nodes {len(spec.nodes)}: between 1 and {MAX_NODES}")
    for ranges in spec.ranges:
        networks = ranges.networks()
        _check_disjoint(networks)
        pods = networks["pods"]
        slices = 1 << max(0, ranges.node_mask - pods.prefixlen)
        if pods.prefixlen > ranges.node_mask or slices < len(spec.nodes):
            raise SpecError(f"--pods-cidr {pods}: a /{ranges.node_mask} for each node does not fit in it")
        if networks["services"].num_addresses < MIN_SERVICES:
            raise SpecError(f"--services-cidr {networks['services']}: at least {MIN_SERVICES} addresses")
        if networks["underlay"].num_addresses < FIRST_NODE_HOST + max(spec.nodes) + 2:
            raise SpecError(f"--underlay-cidr {networks['underlay']}: too small for node-{max(spec.nodes)}")
        if networks["client"].num_addresses < 4:
            raise SpecError(f"the client range {networks['client']}: at least four addresses")
    return spec


def by_family(option: str, text: str | None) -> dict[str, str]:
    """Return the ranges of an option's comma-separated text by IP family; raise SpecError for two of one family."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        family = "ipv6" if ":" in part else "ipv4"
        if family in found:
            raise SpecError(f"--{option} {text}: at most one range of each IP family")
        found[family] = part
    if text is not None and not found:
        raise SpecError(f"--{option}: no range in it")
    return found


def with_range(ranges: Ranges, part: str, text: str) -> Ranges:
    """Return the ranges with one of them, `underlay`, `pods` or `services`, replaced."""
    return Ranges(**{**asdict(ranges), part: text})


def _check_disjoint(networks: Mapping[str, Network]) -> None:
    for option, network in networks.items():
        if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
            raise SpecError(f"--{option}-cidr {network}: these addresses have a meaning of their own (RFC 6890)")
    for (a, first), (b, second) in itertools.combinations(networks.items(), 2):
        if first.version != second.version:
            raise SpecError(f"--{b}-cidr {second}: not of the same IP family as --{a}-cidr {first}")
        if first.overlaps(second):
            raise SpecError(f"{_named(a)} {first} overlaps {_named(b)} {second}: choose ranges that share no address")


def _named(part: str) -> str:
    return "the range of the client" if part == "client" else f"--{part}-cidr"


def with_node(spec: LabSpec) -> LabSpec:
    """Return the spec with one node more: the number after the highest."""
    return check(replace(spec, nodes=(*spec.nodes, max(spec.nodes, default=0) + 1)))


def without_node(spec: LabSpec, name: str) -> LabSpec:
    """Return the spec without the named node, or raise SpecError."""
    numbers = {f"node-{number}": number for number in spec.nodes}
    if name not in numbers:
        raise SpecError(f"{name}: no such node; there are {', '.join(sorted(numbers))}")
    return replace(spec, nodes=tuple(n for n in spec.nodes if n != numbers[name]))


def to_json(spec: LabSpec) -> dict[str, Any]:
    """Return the spec as plain data."""
    return asdict(spec)


def from_json(data: Mapping[str, Any]) -> LabSpec:
    """Return the spec that `to_json` made; fields it does not know are an older version's and are left out."""
    known = {f.name for f in fields(LabSpec)}
    kept = {k: v for k, v in data.items() if k in known}
    return LabSpec(
        **{
            **kept,
            "nodes": tuple(kept["nodes"]),
            "ipv4": Ranges(**kept["ipv4"]),
            "ipv6": Ranges(**kept["ipv6"]),
        }
    )


def join(values: Iterable[object]) -> str:
    """Return the comma-separated form that the daemons' flags take."""
    return ",".join(str(value) for value in values)
