"""What the daemon is told, and by what means it acts. Reading the command line is main's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from netplane.kernel import conntrack
from netplane.kernel.link import run as link
from netplane.kernel.nft import run as nft
from netplane.lib.clock import Clock
from netplane.model import address
from netplane_cni.plan import bgp
from netplane_cni.plan import fabric as paths
from netplane_cni.run import checksum, rules, stale
from netplane_cni.run.leases import Journal


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    node: str
    fabric: paths.Settings
    socket: str
    state_dir: Path
    conf_dir: Path
    bin_dir: Path
    cluster_cidrs: tuple[address.Prefix, ...] = ()
    excluded: tuple[address.Prefix, ...] = ()
    unmasqueraded: tuple[address.Prefix, ...] = ()
    masquerades: bool = True
    cool_down: float = 60.0
    has_bridge: bool = False
    mtu: int = 0
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 0
    rotation: float = 0.0
    path_interval: float = 300.0
    rules: Literal["auto", "nftables", "iptables"] = "nftables"
    bgp: bgp.Settings = field(default_factory=bgp.Settings)
    has_shortcut: bool = False

    @property
    def untracked(self) -> int:
        """The port of the tunnel whose packets are not tracked, 0 where all are: part of the fast path."""
        return self.fabric.port if self.has_shortcut and self.fabric.mode in ("vxlan", "auto") else 0


@dataclass(frozen=True, slots=True)
class Means:
    """By what the daemon acts on links, rules, flows, disk and kernel; who counts steps stands between."""

    open_links: Callable[[], link.Socket] = link.Socket
    open_rules: Callable[[], rules.Kernel] = nft.Socket
    open_flows: Callable[[], stale.Flows] = conntrack.Socket
    journal: Callable[[str, Clock], Journal] = Journal
    try_checksum: checksum.Try = checksum.attempt


MEANS = Means()
"""The kernel's own."""
