"""Say how a node's containerd is set up: its own folders, the node's CNI plugins, and a sandbox image of our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SANDBOX_IMAGE = "netplane.local/pause:1"
CONFIG = Path("/var/lib/netplane/containerd.toml")
"""The configuration's place, as the node sees it."""
SOCKET = Path("/run/netplane/containerd/containerd.sock")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and files of one containerd."""

    root: Path = Path("/var/lib/netplane/containerd")
    state: Path = SOCKET.parent
    socket: Path = SOCKET
    plugins: Path = Path("/opt/cni/bin")
    networks: Path = Path("/etc/cni/net.d")


def configuration(places: Places) -> str:
    """Return config.toml. The paths are the caller's own, not a user's: nothing in them needs quoting.

    `restrict_oom_score_adj` is for machines that may not lower an OOM score, as containers and small VMs.
    """
    return f"""version = 2
root = "{places.root}"
state = "{places.state}"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{places.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{places.plugins}"
    conf_dir = "{places.networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
