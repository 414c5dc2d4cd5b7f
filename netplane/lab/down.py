"""Take a lab down, whatever is left of it."""

from __future__ import annotations

import contextlib
import shutil

from netplane.kernel import cgroup
from netplane.lab import host, launch, protocol, units
from netplane.lab.progress import Steps
from netplane.lab.spec import Folders, LabSpec

KILL_LIMIT = 30.0  # seconds until the last process of fifty nodes is gone


def is_anything_left(spec: LabSpec, folders: Folders) -> bool:
    """Tell whether something of the lab exists, with or without its spec."""
    cgroups = (root / units.cgroup_root(spec) for root in cgroup.hierarchies())
    return bool(host.namespaces(spec)) or any(path.exists() for path in (folders.state, folders.run, *cgroups))


def down(spec: LabSpec, folders: Folders, steps: Steps, *, keep: bool = False) -> None:
    """Leave no process, namespace, mount, cgroup or file of the lab; with `keep`, leave what `up` continues from."""
    with steps.step("stop the daemons"):
        # A keeper that was killed leaves its daemons behind: the lab's cgroup finds them. One that an interrupted
        # `up` had just begun does not answer yet, and would make the lab's cgroup and folders anew.
        with contextlib.suppress(protocol.KeeperDown):
            protocol.ask(folders.run / "keeper.sock", "shutdown", limit=30)
        launch.end_children()
        launch.end_keepers(spec.name)
        cgroup.kill(units.cgroup_root(spec), limit=KILL_LIMIT)
    places = sorted(host.namespaces(spec))
    with steps.step("remove the nodes", total=max(1, len(places))) as advance:
        for place in places:
            host.remove_netns(place)
            advance()
    with steps.step("remove mounts and files"):
        host.release_mounts(folders)
        cgroup.remove_if_present(units.cgroup_root(spec))
        shutil.rmtree(folders.run, ignore_errors=True)
        host.remove_mount_points(folders)
        if not keep:
            # The spec goes first: without it nobody continues from a part of the state.
            folders.spec_file.unlink(missing_ok=True)
            shutil.rmtree(folders.state, ignore_errors=True)
    remove_empty_parents(folders)


def remove_empty_parents(folders: Folders) -> None:
    """Remove the folder and cgroups in which labs stand, when this was the last one."""
    for folder in (folders.state.parent, *(root / units.CGROUPS for root in cgroup.hierarchies())):
        with contextlib.suppress(OSError):
            folder.rmdir()
