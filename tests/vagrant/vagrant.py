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

PROGRAMS = {
    "vagrant": "vagrant vagrant-libvirt",
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "dnsmasq": "dnsmasq-base",
    "rsync": "rsync",
}
BOX = "netplane/bookworm"
ADDRESS = "192.168.56.11"
RELOAD_LIMIT = 900.0
UNITS = "netplane-server netplane-cni netplane-agent netplane-proxy netplane-ingress containerd"
READY = "{.status.conditions[?(@.type=='Ready')].status}"


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
    print(f"vagrant up: {time.monotonic() - begun:.0f} s", flush=True)
    kubeconfig = folder / "admin.kubeconfig"
    text = _asked(place, told, "cat /var/lib/netplane/server/admin.kubeconfig")
    kubeconfig.write_text(text.replace("127.0.0.1", ADDRESS))
    results = folder / "results"
    script = vms.VAGRANT / "scenarios" / "places" / "vagrant.sh"
    told = {**told, "KUBECONFIG": str(kubeconfig), "PLACE": f"sh {script}", "PLACE_NAME": "vagrant",
            "RESULTS": str(results), "SCENARIO_PAUSE": "0.2"}  # fmt: skip
    lives = [_is_idempotent(place, told), _survives_a_reload(place, told)]
    run = ("sh", str(vms.VAGRANT / "scenarios" / "run.sh"))
    chosen = chosen or list(NAMES)
    others = [name for name in chosen if name != "wireguard"]
    failed = _run(place, told, *run, *others) if others else 0
    if "wireguard" in chosen:  # The last, for it takes machines of another fabric.
        told = {**told, "NETPLANE_FABRIC": "wireguard"}
        failed = _run(place, told, "vagrant", "provision") or _run(place, told, *run, "wireguard") or failed
    if results.exists():
        print(table(results))
    return 0 if all(lives) and not failed else 1


def _is_idempotent(place: libvirt.Libvirt, told: Mapping[str, str]) -> bool:
    """Provision a machine once more: whatever runs there goes on."""
    begun, daemons = time.monotonic(), f"systemctl show --property=MainPID {UNITS}"
    running = _asked(place, told, daemons)
    is_right = not _run(place, told, "vagrant", "provision", "node1") and _asked(place, told, daemons) == running
    _tell("provision again", is_right, begun)
    return is_right


def _survives_a_reload(place: libvirt.Libvirt, told: Mapping[str, str]) -> bool:
    """Boot all machines anew: they are nodes again, and what was written is there."""
    begun, boots = time.monotonic(), _boots(place, told)
    _run(place, told, "kubectl", "create", "configmap", "kept", "--from-literal=said=before")
    is_right = not _run(place, told, "vagrant", "reload")
    deadline = time.monotonic() + RELOAD_LIMIT
    while is_right and not _are_new(_boots(place, told), boots):
        is_right = time.monotonic() < deadline
        time.sleep(2)
    is_right = is_right and not _run(place, told, "kubectl", "delete", "configmap", "kept")
    _tell("reload", is_right, begun)
    return is_right


def _boots(place: libvirt.Libvirt, told: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each node's boot, and whether it is Ready; nothing while the control plane does not answer."""
    shown = f"{{range .items[*]}}{{.metadata.name}} {{.status.nodeInfo.bootID}} {READY}\n{{end}}"
    argv = place.argv("kubectl", "get", "nodes", "-o", f"jsonpath={shown}")
    text = subprocess.run(argv, env=dict(told), capture_output=True, text=True, check=False).stdout
    return {name: rest for name, *rest in map(str.split, text.splitlines())}


def _are_new(boots: Mapping[str, list[str]], before: Mapping[str, list[str]]) -> bool:
    """Tell whether every node of before is Ready, and on another boot."""
    return all(
        name in boots and boots[name][0] != boot and boots[name][1:] == ["True"] for name, (boot, *_) in before.items()
    )


def _tell(what: str, is_right: bool, begun: float) -> None:
    print(f"{what:<24} {'passed' if is_right else 'FAILED':<7} {time.monotonic() - begun:4.0f} s", flush=True)


def _asked(place: libvirt.Libvirt, told: Mapping[str, str], command: str) -> str:
    """Return what the first machine answers to a command of root's."""
    argv = place.argv("vagrant", "ssh", "node1", "--no-tty", "-c", f"sudo {command}")
    return subprocess.run(
        argv, env=dict(told), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout


def _run(place: libvirt.Libvirt, told: Mapping[str, str], *command: str) -> int:
    return subprocess.run(place.argv(*command), env=dict(told), stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
