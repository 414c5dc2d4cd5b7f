"""Make and remove what a lab needs from the machine: namespaces, links, mounts, cgroups.

Every `ensure_*` may run again on what is there; every `remove_*` succeeds on what is not. Nothing of the lab's
address ranges enters the root namespace: the underlay is a bridge in a namespace of its own without a way out.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from netplane.kernel import cgroup, process
from netplane.kernel.errors import KernelError
from netplane.lab import units
from netplane.lab.spec import Folders, LabSpec, NodeSpec

NETNS = Path("/run/netns")
BRIDGE = "underlay"
MADE = "made-folders"
NODE_MOUNTS = ("/run/netplane", "/var/lib/netplane", "/etc/cni/net.d", "/opt/cni/bin")
ROUTER_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.accept_dad=0",
)


def ensure_underlay(spec: LabSpec) -> None:
    """Make the underlay bridge, which is the nodes' router, and the client behind it."""
    underlay, client = spec.netns("underlay"), spec.netns("client")
    if not (_has_link(underlay, BRIDGE) and _has_link(client, "eth0")):
        for place in (client, underlay):
            remove_netns(place)
            _ip("netns", "add", place)
        links = [f"link add client type veth peer name eth0 netns {client}"]
        links.append(f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0")
        _batch(underlay, links)
    # What follows is done every time: an earlier run may have been cut off anywhere.
    _sysctl(underlay, ROUTER_SYSCTLS)
    _sysctl(client, ("net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"))
    bridge = ["link set lo up", f"link set {BRIDGE} up", "link set client up"]
    for ranges, address, gateway in zip(spec.ranges, spec.api_addresses, spec.client_gateways, strict=True):
        bridge.append(f"addr replace {_with_length(address, ranges.underlay)} dev {BRIDGE}{_nodad(address)}")
        bridge.append(f"addr replace {_with_length(gateway, ranges.client)} dev client{_nodad(gateway)}")
    _batch(underlay, bridge)
    lines = ["link set lo up", "link set eth0 up"]
    for ranges, address, gateway in zip(spec.ranges, spec.client_addresses, spec.client_gateways, strict=True):
        lines.append(f"addr replace {_with_length(address, ranges.client)} dev eth0{_nodad(address)}")
        lines.append(f"route replace default via {gateway}")
    _batch(client, lines)


def ensure_node(spec: LabSpec, folders: Folders, node: NodeSpec) -> None:
    """Make a node: its network namespace on the underlay, its mounts, its cgroup."""
    ensure_node_network(spec, node)
    ensure_node_mounts(folders, node.name)
    for part in ("system", "pods"):
        cgroup.ensure(f"{units.node_cgroup(spec, node.name)}/{part}")


def ensure_node_network(spec: LabSpec, node: NodeSpec) -> None:
    """Make a node's network namespace and its link to the underlay bridge, or mend what is there of them."""
    netns, underlay = spec.netns(node.name), spec.netns("underlay")
    if not _has_link(netns, "eth0"):
        remove_netns(netns)
        _ip("netns", "add", netns)
        _ip("-n", underlay, "link", "add", node.name, "type", "veth", "peer", "name", "eth0", "netns", netns)
        # Whatever runs on the node is in a namespace without a name; the keeper starts it again in this one.
        empty_node(spec, node.name)
    _sysctl(netns, ("net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"))
    _ip("-n", underlay, "link", "set", node.name, "master", BRIDGE, "up")
    lines = ["link set lo up", "link set eth0 up"]
    for ranges, address, gateway in zip(spec.ranges, node.addresses, spec.api_addresses, strict=True):
        lines.append(f"addr replace {_with_length(address, ranges.underlay)} dev eth0{_nodad(address)}")
        lines.append(f"route replace default via {gateway}")
    _batch(netns, lines)


def ensure_node_mounts(folders: Folders, node: str) -> None:
    """Pin a mount namespace in which the node's own folders lie at the usual paths.

    Its fstab under its final name says that everything in it is mounted.
    """
    pin, table = folders.mount_namespace(node), folders.run / f"{node}.fstab"
    if _is_mounted(pin):
        if table.exists():
            return
        process.run_sync(["umount", str(pin)])
    _ensure_private(pin.parent)
    pin.touch()
    state, run = folders.node_state(node), folders.node_run(node)
    binds = [
        (run, "/run/netplane"),
        (state / "lib", "/var/lib/netplane"),
        (folders.images, "/var/lib/netplane/images"),
        (state / "cni-conf", "/etc/cni/net.d"),
        (state / "cni-bin", "/opt/cni/bin"),
    ]
    (state / "lib" / "images").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folders.node_tmp(node), ignore_errors=True)
    for source in (*(source for source, _ in binds), folders.node_tmp(node)):
        source.mkdir(parents=True, exist_ok=True)
    draft = table.with_suffix(".new")
    draft.write_text("".join(f"{source} {target} none bind 0 0\n" for source, target in binds))
    process.run_sync(["unshare", f"--mount={pin}", "--propagation=private", "mount", "-a", "-T", str(draft)])
    if _is_mounted(Path("/sys/fs/cgroup/unified")):
        # crun takes either cgroup v1 or v2 and refuses the hybrid of both: the node sees v1 alone.
        process.run_sync(["nsenter", f"--mount={pin}", "umount", "/sys/fs/cgroup/unified"])
    draft.replace(table)


def ensure_mount_points(folders: Folders) -> None:
    """Make the folders that nodes mount over, and remember which of them were not there before any lab."""
    with _alone(folders.run.parent):
        made = folders.run.parent / MADE
        known = made.read_text().splitlines() if made.exists() else []
        missing = [p for path in map(Path, NODE_MOUNTS) for p in (path, *path.parents) if not p.exists()]
        known += [str(p) for p in missing if str(p) not in known]
        draft = folders.run / MADE
        draft.write_text("".join(f"{path}\n" for path in known))
        draft.replace(made)
        for path in map(Path, NODE_MOUNTS):
            path.mkdir(parents=True, exist_ok=True)


def remove_mount_points(folders: Folders) -> None:
    """Remove the folders that `ensure_mount_points` made, as far as they are empty, when no other lab is up.

    A folder that goes takes the mounts on it in every other mount namespace along (rmdir(2) since Linux 3.18).
    """
    with _alone(folders.run.parent):
        made = folders.run.parent / MADE
        others = [p for p in folders.run.parent.iterdir() if p.is_dir() and p != folders.run]
        if others or not made.exists():
            return
        for path in sorted(made.read_text().splitlines(), key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        made.unlink()


def set_node_link(spec: LabSpec, node: str, *, is_up: bool) -> None:
    """Plug or unplug a node's cable."""
    _ip("-n", spec.netns("underlay"), "link", "set", node, "up" if is_up else "down")


def remove_node(spec: LabSpec, folders: Folders, node: str) -> None:
    """Kill all that runs on the node and remove its cgroup, mounts and namespace. Its files stay."""
    empty_node(spec, node)
    cgroup.remove_if_present(units.node_cgroup(spec, node))
    pin = folders.mount_namespace(node)
    if _is_mounted(pin):
        process.run_sync(["umount", str(pin)])
    pin.unlink(missing_ok=True)
    for suffix in ("fstab", "new"):
        (folders.run / f"{node}.{suffix}").unlink(missing_ok=True)
    remove_netns(spec.netns(node))


def empty_node(spec: LabSpec, node: str) -> None:
    """Kill every process of the node, as a power failure does."""
    cgroup.kill(units.node_cgroup(spec, node))


def remove_netns(name: str) -> None:
    """Remove a network namespace and with it every link in it."""
    if (NETNS / name).exists():
        _ip("netns", "delete", name)


def namespaces(spec: LabSpec) -> frozenset[str]:
    """Return the lab's network namespaces that exist."""
    if not NETNS.is_dir():
        return frozenset()
    # Another lab's name may begin with this one's.
    ours = re.compile(rf"{re.escape(spec.name)}-(client|underlay|node-[0-9]+)")
    return frozenset(p.name for p in NETNS.iterdir() if ours.fullmatch(p.name))


def release_mounts(folders: Folders) -> None:
    """Unmount all that is mounted below the lab's folders, the innermost first."""
    roots = (f"{folders.run}/", f"{folders.state}/")
    for point in sorted((p for p in _mount_points() if f"{p}/".startswith(roots)), key=len, reverse=True):
        process.run_sync(["umount", "--lazy", point])


def entered(spec: LabSpec, folders: Folders, place: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in a place of the lab: a node, `client` or `underlay`."""
    pin = folders.mount_namespace(place)
    mounts = [f"--mount={pin}"] if pin.exists() else []
    return ["nsenter", f"--net={NETNS / spec.netns(place)}", *mounts, "--", *argv]


def program() -> str:
    """Return the absolute path of the `netplane` command beside this interpreter."""
    return str(Path(sys.executable).with_name("netplane"))


def _ensure_private(folder: Path) -> None:
    # A mount namespace can only be pinned below a mount that does not propagate (unshare(1), --mount=file).
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_mounted(folder):
        process.run_sync(["mount", "--bind", str(folder), str(folder)])
    process.run_sync(["mount", "--make-private", str(folder)])


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one command at a time change what all labs share."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _is_mounted(path: Path) -> bool:
    # os.path.ismount overlooks a folder bound to its own file system.
    return str(path) in _mount_points()


def _has_link(netns: str, link: str) -> bool:
    if not (NETNS / netns).exists():
        return False
    try:
        shown = process.run_sync(["ip", "-n", netns, "-j", "link", "show", "dev", link])
    except KernelError:
        return False
    return bool(json.loads(shown.stdout))


def _sysctl(netns: str, settings: Iterable[str]) -> None:
    process.run_sync(["ip", "netns", "exec", netns, "sysctl", "-qw", *settings])


def _ip(*arguments: str) -> None:
    process.run_sync(["ip", *arguments])


def _batch(netns: str, lines: Iterable[str]) -> None:
    process.run_sync(["ip", "-n", netns, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines).encode())


def _with_length(address: str, network: str) -> str:
    return f"{address}/{ipaddress.ip_network(network).prefixlen}"


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""
