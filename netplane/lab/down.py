"""Take a lab down, whatever is left of it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from netplane.kernel import cgroup
from netplane.lab import host, protocol, units
from netplane.lab.progress import Steps
from netplane.lab.spec import Folders, LabSpec


def down(spec: LabSpec, folders: Folders, steps: Steps, *, keep: bool = False) -> None:
    """Leave no process, namespace, mount, cgroup or file of the lab; with `keep`, leave what `up` continues from."""
    with steps.step("stop the daemons"):
        # A keeper that was killed leaves its daemons behind: the lab's cgroup finds them.
        with contextlib.suppress(protocol.KeeperDown):
            protocol.ask(folders.run / "keeper.sock", "shutdown", limit=30)
        cgroup.kill(units.cgroup_root(spec))
    places = sorted(host.namespaces(spec))
    with steps.step("remove the nodes", total=max(1, len(places))) as advance:
        for place in places:
            host.remove_netns(place)
            advance()
    with steps.step("remove mounts and files"):
        host.release_mounts(folders)
        cgroup.remove_if_present(units.cgroup_root(spec))
        _remove_empty_cgroup_parent()
        host.remove_mount_points(folders)
        shutil.rmtree(folders.run, ignore_errors=True)
        if not keep:
            shutil.rmtree(folders.state)
            remove_if_empty(folders.state.parent)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_empty_cgroup_parent() -> None:
    for root in cgroup.hierarchies():
        remove_if_empty(root / "netplane-lab")
