"""Run libvirtd by hand where there is no systemd: in namespaces and folders of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NETNS = "npvagrant"
FOLDERS = ("etc/libvirt", "var/lib/libvirt", "run/libvirt", "var/log/libvirt", "var/cache/libvirt")
DAEMON = """auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
QEMU = """user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
dynamic_ownership = 0
remember_owner = 0
"""
PLACE = """set -e
mount --make-rprivate /
mount -t sysfs sysfs /sys
for folder in {folders}; do mkdir -p "/$folder"; mount --bind "{root}/$folder" "/$folder"; done
/usr/sbin/libvirtd -p "{root}/libvirtd.pid" &
echo $$ >"{root}/place.pid"
wait
"""


class Libvirt:
    """A running libvirtd. `argv` tells how to run a command beside it."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._process = process

    def argv(self, *command: str) -> list[str]:
        """Return how to run a command in its namespaces, in the present folder."""
        pid = (self.root / "place.pid").read_text().strip()
        return ["nsenter", "--target", pid, "--mount", "--net", f"--wd={os.getcwd()}", *command]


@contextlib.contextmanager
def running(root: Path) -> Iterator[Libvirt]:
    """Run libvirtd until the block ends. What it started is ended, too."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copytree("/etc/libvirt", root / "etc/libvirt", dirs_exist_ok=True)
    for link in (root / "etc/libvirt/qemu/networks/autostart").glob("*"):
        link.unlink()
    (root / "etc/libvirt/libvirtd.conf").write_text(DAEMON)
    (root / "etc/libvirt/qemu.conf").write_text(QEMU)
    subprocess.run(["ip", "netns", "delete", NETNS], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    subprocess.run(["ip", "-n", NETNS, "link", "set", "lo", "up"], check=True)
    script = PLACE.format(root=root, folders=" ".join(FOLDERS))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{NETNS}", "unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(root, process)
        yield Libvirt(root, process)
    finally:
        for path in (root / "run/libvirt/qemu").glob("*.pid"):
            _kill(int(path.read_text()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        subprocess.run(["ip", "netns", "delete", NETNS], check=False, capture_output=True)


def _wait(root: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not (root / "run/libvirt/libvirt-sock").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"libvirtd does not start: {(root / 'log').read_text()[-2000:]}")
        time.sleep(0.2)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
