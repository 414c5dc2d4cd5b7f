"""Boot machines from the box's disk under emulation and make them nodes with the testbed's own provisioning scripts.

Each machine has two links, as Vagrant gives them: one for management (ssh, forwarded on the namespace's own loopback;
the same address in every machine, and no way out), and one on which the machines see each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

VAGRANT = Path(__file__).parents[2] / "vagrant"
NETNS = Path("/run/netns")
BRIDGE = "nodes"
GATEWAY = "10.77.0.1"
TOKEN = "nptest.0123456789abcdef"
BOOT_LIMIT = 420.0
PROVISION_LIMIT = 900.0
KERNEL_LINE = "root=/dev/vda1 rw console=ttyS0 net.ifnames=0 mitigations=off quiet loglevel=3 no_timer_check"


def run(*argv: str | Path, limit: float = 60.0, check: bool = True, stdin: bytes | None = None) -> str:
    """Run a command to its end and return what it printed; a failure shows that."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, timeout=limit, check=False, input=stdin)
    text = done.stdout.decode(errors="replace")
    if check and done.returncode:
        said = done.stderr.decode(errors="replace")
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{text[-3000:]}\n{said[-3000:]}")
    return text


def cache() -> Path:
    """Return where boxes are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netplane"


def box() -> Path:
    """Return the folder of the box, made if it is not there or no longer what its recipe says."""
    folder = cache() / "box"
    run(VAGRANT / "box" / "build.sh", folder, limit=900)
    return folder


def bundle(python: str, *, local_version: str = "") -> Path:
    """Return the archive that nodes install, of this version or of one that differs from it in its local part."""
    folder = cache() / (f"bundle-{local_version}" if local_version else "bundle")
    wheels = cache() / "bundle" / "wheels"
    environment = (f"PYTHON={python}", f"LOCAL_VERSION={local_version}", f"WHEELS={wheels}")
    run("env", *environment, VAGRANT / "provision" / "bundle.sh", folder, limit=600)
    return folder / "netplane.tar.gz"


def login_key(folder: Path) -> Path:
    """Return Vagrant's well-known key, with which a new box lets in whoever made it; Debian's package has it."""
    target = folder / "vagrant.key"
    if not target.exists():
        run("sh", "-c", f"cd {folder} && apt-get download -qq vagrant && dpkg-deb -x vagrant_*.deb vagrant-package")
        (found,) = folder.glob("vagrant-package/**/keys/vagrant")
        shutil.copy(found, target)
        target.chmod(0o600)
        shutil.rmtree(folder / "vagrant-package")
    return target


@dataclass
class Machine:
    """One virtual machine, number 1 to 9."""

    site: Site
    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"

    @property
    def disk(self) -> Path:
        return self.site.folder / f"{self.name}.qcow2"

    @property
    def pid_file(self) -> Path:
        return self.site.folder / f"{self.name}.pid"

    def power_on(self) -> None:
        """Start it; its disk is what it was when the power went."""
        if not self.disk.exists():
            base = self.site.box / "disk.qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, self.disk)
        forward = f"user,id=m,restrict=on,hostfwd=tcp:127.0.0.1:{2220 + self.number}-:22"
        argv = [
            *("qemu-system-x86_64", "-name", self.name, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64"),
            *("-smp", "1", "-m", "1024" if self.number == 1 else "768", "-display", "none", "-no-reboot"),
            *("-monitor", "none", "-serial", f"file:{self.site.folder}/{self.name}.console"),
            *("-kernel", f"{self.site.box}/vmlinuz", "-initrd", f"{self.site.box}/initrd.img", "-append", KERNEL_LINE),
            *("-drive", f"file={self.disk},if=virtio,cache=unsafe", "-device", "virtio-rng-pci"),
            *("-netdev", forward, "-device", "virtio-net-pci,netdev=m"),
            *("-netdev", f"tap,id=n,ifname=tap{self.number},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=n,mac=52:54:00:77:00:0{self.number}"),
        ]
        null = subprocess.DEVNULL
        # A group of its own, so that an interrupt leaves it to who clears up; not a session, since each
        # is given as much of the processors as all the lanes beside it.
        process = subprocess.Popen(self.site.inside(*argv), stdin=null, stdout=null, stderr=null, process_group=0)
        self.pid_file.write_text(str(process.pid))

    def power_off(self) -> None:
        """Pull the plug."""
        if not self.pid_file.exists():
            return
        pid = int(self.pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self.pid_file.unlink()

    def set_link(self, *, is_up: bool) -> None:
        """Plug or unplug the cable to the other machines."""
        run(*self.site.inside("ip", "link", "set", f"tap{self.number}", "up" if is_up else "down"))

    def ssh(self, command: str, *, limit: float = 60.0, check: bool = True, stdin: bytes | None = None) -> str:
        """Run a command on it as root."""
        options = "-q -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=30 -o BatchMode=yes"
        login = [*options.split(), "-i", str(self.site.key), "-p", str(2220 + self.number), "vagrant@127.0.0.1"]
        return run(*self.site.inside("ssh", *login, f"sudo sh -c {quoted(command)}"), limit=limit, check=check,
                   stdin=stdin)  # fmt: skip

    def wait(self) -> None:
        """Wait until it lets us in, and give it its address on the nodes' link."""
        deadline = time.monotonic() + BOOT_LIMIT
        link = f"ip addr replace {self.address}/24 dev eth1 && ip link set eth1 up && echo here"
        while "here" not in self.ssh(link, check=False):
            assert self.pid_file.exists(), f"{self.name} was switched off while it booted"
            if time.monotonic() > deadline:
                console = (self.site.folder / f"{self.name}.console").read_text(errors="replace")
                raise AssertionError(f"{self.name} does not boot:\n{console[-2000:]}")
            time.sleep(0.5)

    def become_node(self) -> None:
        """Wait for it, and make it a node."""
        self.wait()
        self.provision()

    def upgrade(self) -> None:
        """Bring the next version onto it; where that is there already, the first one again."""
        marker = self.site.folder / f"{self.name}.next"
        is_next = marker.exists()
        self.provision(bundle=None if is_next else bundle(sys.executable, local_version="next"))
        marker.unlink() if is_next else marker.touch()

    def provision(self, *, bundle: Path | None = None) -> str:
        """Bring the project, of this or another version, onto it and run the provisioning script there."""
        archive = bundle or self.site.bundle
        packed = ["tar", "-ch", "-C", str(VAGRANT), "provision", "-C", str(archive.parent)]
        renamed = ["--transform", "s,^netplane.tar.gz$,wheelhouse/netplane.tar.gz,", archive.name]
        files = subprocess.run([*packed, *renamed], capture_output=True, check=True).stdout
        hosts = " ".join(f"{one.name}={one.address}" for one in self.site.machines)
        words = {
            "name": self.name,
            "address": self.address,
            "server": self.site.machines[0].address,
            "token": TOKEN,
            "hosts": hosts,
            "role": "server" if self.number == 1 else "agent",
        }
        line = " ".join(
            f"--{key.replace('_', '-')} {quoted(value)}" for key, value in (words | self.site.options).items()
        )
        unpack = "mkdir -p /vagrant && tar -x -C /vagrant"
        try:
            return self.ssh(
                f"{unpack} && sh /vagrant/provision/node.sh {line} 2>&1", limit=PROVISION_LIMIT, stdin=files
            )
        except AssertionError as error:
            said = self.ssh("journalctl -u 'netplane-*' -u containerd --no-pager -n 60", check=False)
            raise AssertionError(f"{error}\n{said}") from error


@dataclass
class Site:
    """Machines on one link, in a namespace with no way out."""

    folder: Path
    box: Path
    key: Path
    bundle: Path
    options: dict[str, str] = field(default_factory=dict)
    name: str = "npvms"
    machines: list[Machine] = field(default_factory=list)

    def inside(self, *argv: str) -> list[str]:
        """Return how to run a command in the machines' namespace."""
        return ["nsenter", f"--net={NETNS / self.name}", *argv]

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def kubectl(self, *arguments: str, limit: float = 60.0, check: bool = True) -> str:
        """Run kubectl in the machines' namespace."""
        return run(*self.inside("env", f"KUBECONFIG={self.kubeconfig}", "kubectl", *arguments), limit=limit,
                   check=check)  # fmt: skip

    def provision_all(self, **options: str) -> None:
        """Bring all machines up to date at once, with these options of the provisioning script changed."""
        self.options |= options
        with ThreadPoolExecutor(len(self.machines)) as pool:
            list(pool.map(Machine.provision, self.machines))

    def journals(self) -> str:
        """Return what the machines' daemons said last, as far as the machines can be asked."""
        command = "journalctl -u 'netplane-*' -u containerd --no-pager -o short-monotonic -n 40 | cut -c1-300"
        return "\n".join(f"-- {one.name}\n{one.ssh(command, limit=120, check=False)}" for one in self.machines)

    def wait_ready(self) -> None:
        """Wait until every machine is a Ready node."""
        deadline = time.monotonic() + BOOT_LIMIT
        while len(self.ready_nodes()) < len(self.machines):
            assert time.monotonic() < deadline, self.kubectl("get", "nodes", "-o", "wide")
            time.sleep(1)

    def ready_nodes(self) -> set[str]:
        """Return the names of the nodes that the API calls Ready."""
        items = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        return {
            node["metadata"]["name"]
            for node in items
            for condition in node["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        }


@contextlib.contextmanager
def site(folder: Path, count: int, *, box: Path, bundle: Path, **options: str) -> Iterator[Site]:
    """Boot `count` machines, make them one cluster, and end them whatever happens."""
    made = Site(folder, box, login_key(folder), bundle, options)
    run("ip", "netns", "delete", made.name, check=False)
    run("ip", "netns", "add", made.name)
    try:
        _link(made, count)
        for machine in made.machines:
            machine.power_on()
        pool = ThreadPoolExecutor(count)
        try:
            list(pool.map(Machine.become_node, made.machines))
        finally:  # Who interrupts this waits for nothing: what runs yet ends with the machines.
            pool.shutdown(wait=False, cancel_futures=True)
        _fetch_kubeconfig(made)
        yield made
    finally:
        for machine in made.machines:
            machine.power_off()
        run("ip", "netns", "delete", made.name, check=False)


def _link(made: Site, count: int) -> None:
    made.machines = [Machine(made, number) for number in range(1, count + 1)]
    ip = made.inside("ip")
    run(*ip, "link", "set", "lo", "up")
    run(*ip, "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    run(*ip, "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    run(*ip, "link", "set", BRIDGE, "up")
    for machine in made.machines:
        run(*ip, "tuntap", "add", f"tap{machine.number}", "mode", "tap")
        run(*ip, "link", "set", f"tap{machine.number}", "master", BRIDGE, "up")


def _fetch_kubeconfig(made: Site) -> None:
    text = made.machines[0].ssh("cat /var/lib/netplane/server/admin.kubeconfig")
    made.kubeconfig.write_text(text.replace("127.0.0.1", made.machines[0].address))
    made.kubeconfig.chmod(0o600)


def quoted(text: str) -> str:
    """Return the text as one word of a shell's."""
    return "'" + text.replace("'", "'\\''") + "'"


def argv_of(command: Sequence[str]) -> str:
    """Return a command as a shell's line."""
    return " ".join(quoted(word) for word in command)


ABLE = ("power", "server-power", "cable", "restart-server", "restart-daemons", "kill-runtime", "ipvs", "upgrade")
"""What the scenarios may ask for, which `main` does."""
PLACE = """#!/bin/sh
# What the scenarios may do to these machines.
exec {python} -m tests.support.vms {folder} "$@"
"""


def place(made: Site, python: str) -> Path:
    """Write the command that the scenarios take as PLACE, and what it has to know."""
    known = {
        "box": str(made.box),
        "key": str(made.key),
        "bundle": str(made.bundle),
        "count": len(made.machines),
        "options": made.options,
    }
    (made.folder / "site.json").write_text(json.dumps(known))
    script = made.folder / "place.sh"
    script.write_text(PLACE.format(python=python, folder=made.folder))
    script.chmod(0o755)
    return script


def main(folder: str, verb: str, *words: str) -> int:
    """Do what a scenario asks of its place."""
    known = json.loads((Path(folder) / "site.json").read_text())
    made = Site(Path(folder), Path(known["box"]), Path(known["key"]), Path(known["bundle"]), known["options"])
    made.machines = [Machine(made, number) for number in range(1, known["count"] + 1)]
    named = next((machine for machine in made.machines if machine.name in words[:1]), made.machines[0])
    match verb:
        case "can":
            return int(words[0] not in ABLE)
        case "off":
            named.power_off()
        case "on":
            named.power_on()
            named.wait()
        case "cut" | "mend":
            named.set_link(is_up=verb == "mend")
        case "restart-server":
            named.ssh("systemctl kill --signal=KILL netplane-server")
        case "restart-daemons":
            # One after the other: together they are all down until the last has stopped and the first has started.
            one = "systemctl kill --kill-whom=main --signal=KILL netplane-$each; systemctl restart netplane-$each"
            named.ssh(f"for each in cni agent proxy; do {one}; done", limit=400)
        case "kill-runtime":
            named.ssh("systemctl kill --kill-whom=main --signal=KILL containerd")
        case "upgrade":
            named.upgrade()
        case "proxy-mode":
            change = f"sed -i 's/^mode:.*/mode: {words[1]}/' /etc/netplane/proxy.yaml"
            named.ssh(f"{change}; systemctl restart netplane-proxy", limit=240)
        case _:
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
