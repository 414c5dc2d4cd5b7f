"""Say in one line what the machine lacks for a lab, before anything is made."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from netplane.kernel import bird, process
from netplane.kernel.errors import KernelError
from netplane.lib.cli import UserError

PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "crun": "crun",
    "conmon": "conmon",
    "haproxy": "haproxy",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "sysctl": "procps",
}
CONTAINERD = {"containerd": "containerd", "ctr": "containerd", "runc": "runc"}
NAT_RULES = b"""table ip probe {
  map eps { typeof meta priority . numgen inc mod 2 : ip daddr . th dport; }
  chain pre { type nat hook prerouting priority dstnat; }
  chain post { type nat hook postrouting priority srcnat; masquerade fully-random; }
}
"""


def check(*, fabric: str, proxy_mode: str, runtime: str = "embedded") -> None:
    """Raise UserError for the first thing that is missing: root, a program or a kernel feature."""
    if os.geteuid() != 0:
        raise UserError("a lab makes network namespaces and mounts: run this as root")
    for program, package in {**PROGRAMS, **(CONTAINERD if runtime == "containerd" else {})}.items():
        if shutil.which(program) is None:
            raise UserError(f"{program} is not installed: apt-get install {package}")
    if "overlay" not in Path("/proc/filesystems").read_text():
        _try("overlayfs (CONFIG_OVERLAY_FS)", lambda: process.run_sync(["modprobe", "overlay"]))
    if proxy_mode == "ipvs" and not Path("/proc/net/ip_vs").exists():
        _try(
            "IPVS (CONFIG_IP_VS); --proxy-mode nftables works without", lambda: process.run_sync(["modprobe", "ip_vs"])
        )
    _probe_kernel(fabric)


def check_port(port: int) -> None:
    """Raise UserError when 127.0.0.1:port is somebody else's."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"127.0.0.1:{port} is taken ({error.strerror}): choose another with --api-port") from error


def _probe_kernel(fabric: str) -> None:
    # Each probe has a namespace of its own that ends with it, whatever ends it.
    inside = ["unshare", "--net", "--"]
    add = [*inside, "ip", "link", "add"]
    _try("veth (CONFIG_VETH)", lambda: process.run_sync([*add, "v0", "type", "veth", "peer", "name", "v1"]))
    _try("bridge (CONFIG_BRIDGE)", lambda: process.run_sync([*add, "b0", "type", "bridge"]))
    if fabric == "vxlan":
        vxlan = [*add, "x0", "type", "vxlan", "id", "1", "dstport", "4789", "nolearning"]
        _try("vxlan (CONFIG_VXLAN); --fabric direct works without", lambda: process.run_sync(vxlan))
    if fabric == "bgp":
        try:
            bird.find()
        except KernelError as error:
            raise UserError("bird is not installed: apt-get install bird2; --fabric vxlan works without") from error
    if fabric == "wireguard":
        sealed = [*add, "w0", "type", "wireguard"]
        _try("WireGuard (CONFIG_WIREGUARD); --fabric vxlan works without", lambda: process.run_sync(sealed))
    _try(
        "nftables with NAT and numgen (CONFIG_NF_TABLES, CONFIG_NFT_NAT)",
        lambda: process.run_sync([*inside, "nft", "-f", "-"], stdin=NAT_RULES),
    )


def _try(feature: str, act: Callable[[], object]) -> None:
    try:
        act()
    except KernelError as error:
        raise UserError(f"this kernel lacks {feature}: {error}") from error
