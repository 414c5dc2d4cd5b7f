"""Bring the testbed up through Vagrant itself, let every scenario judge it, and take it down: `make test-vagrant`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support import vms
from tests.support.scenarios import NAMES, table
from tests.vagrant import libvirt

PROGRAMS = {"vagrant": "vagrant vagrant-libvirt", "libvirtd": "libvirt-daemon-system", "virsh": "libvirt-clients"}
BOX = "netplane/bookworm"
ADDRESS = "10.77.0.11"


def environment(folder: Path, nodes: int) -> dict[str, str]:
    """Return what Vagrant and the Vagrantfile are told."""
    return {
        **os.environ,
        "VAGRANT_HOME": str(folder / "home"),
        "VAGRANT_CWD": str(vms.VAGRANT),
        "VAGRANT_DOTFILE_PATH": str(folder / "state"),
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "LIBVIRT_DEFAULT_URI": "qemu:///system",
        "NETPLANE_BOX": BOX,
        "NETPLANE_NODES": str(nodes),
        "NETPLANE_VM_DRIVER": "qemu",
        "NETPLANE_OFFLINE": "1",
        "NETPLANE_POOL": str(folder / "pool"),
        "PYTHON": sys.executable,
    }


def main() -> int:
    """Run it all; exit 1 when a scenario fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("scenarios", nargs="*", help="only these")
    given = parser.parse_args()
    missing = [packages for program, packages in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        print(f"netplane: not installed: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    box = vms.box()
    for name, local_version in (("", ""), ("next", "next")):  # Where Vagrant runs then is no way out to fetch wheels.
        target = vms.VAGRANT / "wheelhouse"
        options = (f"PYTHON={sys.executable}", f"LOCAL_VERSION={local_version}", f"WHEELS={target / 'wheels'}")
        vms.run("env", *options, vms.VAGRANT / "provision" / "bundle.sh", target / name, limit=900)
    with tempfile.TemporaryDirectory(prefix="netplane-vagrant-") as name, libvirt.running(Path(name)) as place:
        folder = Path(name)
        (folder / "pool").mkdir()
        told = environment(folder, given.nodes)
        try:
            return _judge(place, folder, box, told, given.scenarios)
        finally:
            _run(place, told, "vagrant", "destroy", "--force")


def _judge(place: libvirt.Libvirt, folder: Path, box: Path, told: Mapping[str, str], chosen: list[str]) -> int:
    _run(place, told, "vagrant", "box", "add", "--name", BOX, str(box / "netplane-bookworm.box"))
    begun = time.monotonic()
    if _run(place, told, "vagrant", "up"):
        return 1
    print(f"vagrant up: {time.monotonic() - begun:.0f} s")
    read = place.argv("vagrant", "ssh", "node1", "--no-tty", "-c", "sudo cat /var/lib/netplane/server/admin.kubeconfig")
    text = subprocess.run(read, env=told, capture_output=True, text=True, check=True).stdout
    kubeconfig = folder / "admin.kubeconfig"
    kubeconfig.write_text(text.replace("127.0.0.1", ADDRESS))
    results = folder / "results"
    script = vms.VAGRANT / "scenarios" / "places" / "vagrant.sh"
    told = {**told, "KUBECONFIG": str(kubeconfig), "PLACE": f"sh {script}", "PLACE_NAME": "vagrant",
            "RESULTS": str(results), "SCENARIO_PAUSE": "0.2"}  # fmt: skip
    failed = _run(place, told, "sh", str(vms.VAGRANT / "scenarios" / "run.sh"), *(chosen or NAMES))
    again = _run(place, told, "vagrant", "provision", "node1")
    print(table(results))
    return 1 if failed or again else 0


def _run(place: libvirt.Libvirt, told: Mapping[str, str], *command: str) -> int:
    return subprocess.run(place.argv(*command), env=dict(told), stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
