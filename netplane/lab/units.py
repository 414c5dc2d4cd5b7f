"""Decide which daemons a lab runs, where, and with which arguments. Running them is `keeper`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from netplane.lab import containerd
from netplane.lab.spec import Folders, LabSpec, NodeSpec, join

HEALTHZ_PORT = 10256
METRICS_PORT = 10249
CNI_METRICS_PORT = 9910
CGROUPS = "netplane-lab"
"""The cgroup in which those of all labs are."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One daemon, as systemd would have it in a service file.

    `netns` is a name of `ip netns`; `mounts` the file that pins its mount namespace, if it has its own;
    `cgroup` its path under each controller; `listen` the sockets it inherits from the root namespace (LISTEN_FDS).
    """

    name: str
    argv: tuple[str, ...]
    netns: str
    mounts: Path | None
    cgroup: str
    environment: Mapping[str, str] = field(default_factory=dict)
    listen: tuple[tuple[str, int], ...] = ()


def cgroup_root(spec: LabSpec) -> str:
    """Return the cgroup under which all processes of the lab live."""
    return f"{CGROUPS}/{spec.name}"


def node_cgroup(spec: LabSpec, node: str) -> str:
    """Return a node's cgroup: its daemons in `system`, its pods in `pods`."""
    return f"{cgroup_root(spec)}/{node}"


def keeper_cgroup(spec: LabSpec) -> str:
    """Return the cgroup of the keeper: what it starts is the lab's from the first moment."""
    return f"{cgroup_root(spec)}/keeper"


def of_lab(spec: LabSpec, folders: Folders, program: str) -> tuple[Unit, ...]:
    """Return every unit of the lab; `program` is the absolute path of the `netplane` command."""
    units = [server(spec, folders, program)]
    for node in spec.node_specs():
        units += of_node(spec, folders, program, node)
    return tuple(units)


def of_node(spec: LabSpec, folders: Folders, program: str, node: NodeSpec) -> tuple[Unit, ...]:
    """Return the daemons of a node."""
    return (
        *((runtime(spec, folders, node),) if spec.runtime == "containerd" else ()),
        cni(spec, folders, program, node),
        agent(spec, folders, program, node),
        proxy(spec, folders, program, node),
        *((ingress(spec, folders, program, node),) if node.number == min(spec.nodes) else ()),
    )


def server(spec: LabSpec, folders: Folders, program: str) -> Unit:
    """The control plane: on the underlay for the nodes, on an inherited loopback socket for the user."""
    listen = [f"--listen={bracketed(address)}:6443" for address in spec.api_addresses]
    masks = {4: "--node-cidr-mask-size", 6: "--node-cidr-mask-size-ipv6"}
    argv = [
        program,
        "server",
        f"--data-dir={folders.server}",
        *listen,
        f"--advertise-address={spec.api_addresses[0]}",
        f"--service-cidr={join(r.services for r in spec.ranges)}",
        f"--cluster-cidr={join(r.pods for r in spec.ranges)}",
        *(f"{masks[r.networks()['pods'].version]}={r.node_mask}" for r in spec.ranges),
    ]
    cgroup = f"{cgroup_root(spec)}/control-plane"
    return Unit("server", tuple(argv), spec.netns("underlay"), None, cgroup, listen=(("127.0.0.1", spec.api_port),))


def runtime(spec: LabSpec, folders: Folders, node: NodeSpec) -> Unit:
    """The container runtime of a node, where that is a daemon."""
    return _on_node(spec, folders, node, "containerd", ("containerd", f"--config={containerd.CONFIG}"))


def cni(spec: LabSpec, folders: Folders, program: str, node: NodeSpec) -> Unit:
    """The CNI daemon of a node."""
    argv = (
        program,
        "cni",
        "daemon",
        f"--kubeconfig={kubeconfig(folders, node.name, 'cni')}",
        f"--node-name={node.name}",
        f"--fabric={spec.fabric}",
        f"--metrics-port={CNI_METRICS_PORT}",
    )
    return _on_node(spec, folders, node, "cni", argv)


def agent(spec: LabSpec, folders: Folders, program: str, node: NodeSpec) -> Unit:
    """The node agent."""
    argv = (
        program,
        "agent",
        f"--kubeconfig={kubeconfig(folders, node.name, 'agent')}",
        f"--node-name={node.name}",
        f"--node-ip={join(node.addresses)}",
        f"--cgroup-root=/{node_cgroup(spec, node.name)}/pods",
        f"--runtime={spec.runtime}",
        *((f"--container-runtime-endpoint=unix://{containerd.SOCKET}",) if spec.runtime == "containerd" else ()),
        f"--label=topology.kubernetes.io/zone=zone-{'abc'[(node.number - 1) % 3]}",
    )
    return _on_node(spec, folders, node, "agent", argv)


def proxy(spec: LabSpec, folders: Folders, program: str, node: NodeSpec) -> Unit:
    """The Service proxy of a node."""
    argv = (
        program,
        "proxy",
        f"--kubeconfig={kubeconfig(folders, node.name, 'proxy')}",
        f"--node-name={node.name}",
        f"--mode={spec.proxy_mode}",
        f"--cluster-cidr={join(r.pods for r in spec.ranges)}",
        f"--service-cidr={join(r.services for r in spec.ranges)}",
    )
    return _on_node(spec, folders, node, "proxy", argv)


def ingress(spec: LabSpec, folders: Folders, program: str, node: NodeSpec) -> Unit:
    """The lab's front door, on its first node and at that node's addresses."""
    argv = (
        program,
        "ingress",
        f"--kubeconfig={kubeconfig(folders, node.name, 'ingress')}",
        *(f"--publish-address={address}" for address in node.addresses),
    )
    return _on_node(spec, folders, node, "ingress", argv)


def kubeconfig(folders: Folders, node: str, who: str) -> Path:
    """Return where a node's daemon finds its credentials."""
    return folders.node_state(node) / "pki" / f"{who}.kubeconfig"


def bracketed(address: str) -> str:
    """Return the address as a URL's host: IPv6 in brackets (RFC 3986 section 3.2.2)."""
    return f"[{address}]" if ":" in address else address


def _on_node(spec: LabSpec, folders: Folders, node: NodeSpec, what: str, argv: tuple[str, ...]) -> Unit:
    return Unit(
        f"{node.name}/{what}",
        argv,
        spec.netns(node.name),
        folders.mount_namespace(node.name),
        f"{node_cgroup(spec, node.name)}/system",
        {"TMPDIR": str(folders.node_tmp(node.name))},
    )
