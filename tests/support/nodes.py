"""Stand up what a node agent needs around it, in namespaces of the test's own: cgroups, an image, a plugin."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from netplane.agent.images import Store
from netplane.agent.runtime.cni.run import Plugins
from netplane.agent.runtime.cri.imports import Imports
from netplane.agent.runtime.cri.runtime import Cri
from netplane.agent.runtime.embedded import machine, mounts, runtime
from netplane.agent.runtime.embedded.layout import Layout
from netplane.agent.runtime.embedded.runtime import Embedded
from netplane.kernel import cgroup, netns
from netplane.lib import clock
from tests.support import node_containerd

Kind = Literal["embedded", "containerd"]
CLONE_FS = 0x200
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000
BUSYBOX = "netplane.local/busybox:1"

PROGRAMS = (
    "sh", "sleep", "echo", "cat", "ls", "id", "env", "hostname", "nc", "httpd", "wget", "kill", "ps", "stat", "dd",
    "touch", "sync", "true", "false", "tail", "head", "stty", "mkdir", "rm", "date",
)  # fmt: skip

PLUGIN = """#!/bin/sh
# Record every call; give lo's neighbour no wires: tests of the agent need addresses only.
stdin=$(cat)
printf '%s\\t%s\\t%s\\t%s\\n' "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$stdin" >> "{log}"
if [ -e "{log}.fail-$CNI_COMMAND" ]; then
  echo '{{"code":11,"msg":"no address left","details":"in 10.9.0.0/24"}}'
  exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.9.0.7/24"}},{{"address":"fd09::7/64"}}]}}'
"""

LOOPBACK = """#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] && nsenter --net="$CNI_NETNS" ip link set lo up
echo '{"cniVersion":"0.3.1"}'
"""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image, as the node's store hands it out."""

    reference: str
    digest: str
    config: dict[str, object]
    layers: tuple[Path, ...]
    size: int = 1


@dataclass(slots=True)
class Images:
    """A store with what a test put into it."""

    by_reference: dict[str, Image] = field(default_factory=dict)

    def find(self, reference: str) -> Image | None:
        """Return the image."""
        return self.by_reference.get(reference)

    def list(self) -> tuple[Image, ...]:
        """Return all."""
        return tuple(self.by_reference.values())


@dataclass(frozen=True, slots=True)
class NodeFolders:
    """The folders of a node under test."""

    root: Path
    images: Images
    cgroup_root: str
    kind: Kind = "embedded"
    containerd: node_containerd.Daemon | None = None

    @property
    def layout(self) -> Layout:
        """Where the runtime keeps its things."""
        return Layout(self.root / "state", self.root / "run", self.root / "run" / "netns")

    @property
    def calls(self) -> Path:
        """What the plugin was called with, a line a call."""
        return self.root / "calls"

    def plugins(self) -> Plugins:
        """The recording plugin."""
        return Plugins(self.root / "net.d", (self.root / "bin",), self.layout.networks)

    def runtime(self) -> Embedded | Cri:
        """Return a runtime on these folders; `opened()` adopts what an earlier one left."""
        if self.kind == "containerd":
            endpoint = f"unix://{node_containerd.places(self.root).socket}"
            return Cri(endpoint, Imports(Store(self.root / "store"), endpoint))
        layout = self.layout
        return Embedded(
            layout,
            runtime.programs(layout),
            plugins=self.plugins(),
            images=self.images,
            host=machine.probe(),
            clock=clock.SYSTEM,
        )


@contextlib.contextmanager
def node(root: Path, kind: Kind = "embedded") -> Iterator[NodeFolders]:
    """Be on a node of the test's own until the block ends: then all that runs on it is killed and removed."""
    group = f"netplane-test-{uuid.uuid4().hex[:8]}"
    place = f"/run/netns/nptest-{uuid.uuid4().hex[:8]}"
    folders = NodeFolders(root, Images(), f"/{group}", kind)
    netns.create(place)
    try:
        with netns.inside(place), _own_mounts():
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            install_plugin(folders)
            folders.images.by_reference[BUSYBOX] = image = busybox(root / "images")
            serving = (
                node_containerd.serving(root, folders.cgroup_root, image)
                if kind == "containerd"
                else contextlib.nullcontext()
            )
            try:
                with serving as daemon:
                    yield dataclasses.replace(folders, containerd=daemon)
            finally:
                cgroup.kill(group)
                for point in mounts.points_below(root):
                    mounts.unmount_if_present(point)
    finally:
        netns.remove_if_present(place)
        cgroup.remove_if_present(group)


def install_plugin(folders: NodeFolders, *, conflist: bool = True) -> None:
    """Put the recording plugin and its configuration where a runtime looks."""
    for name in ("bin", "net.d", "run", "state"):
        (folders.root / name).mkdir(parents=True, exist_ok=True)
    for name, text in (("record", PLUGIN.format(log=folders.calls)), ("loopback", LOOPBACK)):
        program = folders.root / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    if conflist:
        (folders.root / "net.d" / "10-test.conflist").write_text(
            '{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"record","capabilities":{"portMappings":true}}]}'
        )


def busybox(folder: Path) -> Image:
    """Unpack an image of busybox: one layer with the program and a link for each of its names."""
    layer = folder / "layer"
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "var"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    (layer / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", layer / "bin" / "busybox")
    for name in PROGRAMS:
        if not (layer / "bin" / name).exists():
            os.symlink("busybox", layer / "bin" / name)
    (layer / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var:/bin/sh\n")
    (layer / "etc" / "group").write_text("root:x:0:\nweb:x:34:\nextra:x:35:web\n")
    config: dict[str, object] = {"config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"]}}
    return Image(BUSYBOX, "sha256:" + "0" * 64, config, (layer,))


@contextlib.contextmanager
def _own_mounts() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
        try:
            _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None), "make mounts private")
            if not cgroup.is_unified():
                _libc.umount2(b"/sys/fs/cgroup/unified", 0)
            yield
        finally:
            # Threads that still end share our root and working directory; who shares them may not change mounts.
            _check(_libc.unshare(CLONE_FS), "stop sharing the working directory")
            _check(_libc.setns(home, CLONE_NEWNS), "go home")
    finally:
        os.close(home)


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)
