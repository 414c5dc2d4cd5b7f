"""Real container runtimes on a machine of the pod network's tests: containerd and podman, each in a jail of its own.

A jail is a mount and a process namespace: when its first process ends, so do all containers, mounts and shims in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netplane.agent.builtin import build
from netplane.agent.images import Store, recipe
from netplane.agent.images.export import export
from netplane.agent.images.recipe import Recipe
from tests.support import cri
from tests.support.cni_nodes import Machine, until

PAUSE = "netplane.local/pause:1"
SERVE = 'echo "$0" > /tmp/index.html; exec httpd -f -p 8080 -h /tmp'
"""A web server that tells its argument."""
HIDDEN = ("/run", "/var/lib/cni", "/var/lib/containers", "/var/lib/containerd")
KEEPER = "trap : TERM; while :; do sleep 1000 & wait; done"
"""A first process that does nothing but reap what others leave."""


def images(folder: Path) -> list[Path]:
    """Make the images on the spot, from this machine's own files."""
    store = Store(folder / "images")
    busybox, _ = recipe.build(store, build.busybox())
    config = {"Cmd": ["/bin/sleep", "100000"], "Env": [recipe.PATH]}
    pause, _ = recipe.build(store, Recipe(PAUSE, (), config, base=build.BUSYBOX))
    return [export(image, folder / f"{number}.tar") for number, image in enumerate((busybox, pause))]


class Failed(Exception):
    """What a command that failed said."""


class Jail:
    """Where a machine's runtime lives. `close` ends everything in it."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.cgroup = f"netplane-{name}-{os.getpid()}"
        self.folder = machine.folder / name
        self.folder.mkdir()
        mounts = "; ".join(f"mkdir -p {path}; mount -t tmpfs none {path}" for path in HIDDEN)
        # The machine's folder may be anywhere, under what is hidden never: tests' folders are in /tmp.
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
        self._keeper = subprocess.Popen([*argv, f"{mounts}; touch {self.folder}/ready; {KEEPER}"])
        try:
            until((self.folder / "ready").exists)
            self._first = until(self._child)
        except BaseException:
            self.close()
            raise

    def argv(self, *command: str) -> list[str]:
        """Return how to run a command in the jail and in the machine's network."""
        # nsenter and not `ip netns exec`: that one mounts a /sys of its own, which hides cgroups from runc.
        return ["nsenter", "--target", self._first, "--mount", "--pid", f"--net={self.machine.netns}", *command]

    def run(self, *command: str, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        """Run a command in it to its end and return what it printed; raises Failed."""
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(
            self.argv(*command), env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def close(self) -> None:
        """End everything."""
        self._keeper.kill()
        self._keeper.wait(10)
        until(self._is_empty, limit=10.0)
        for root in Path("/sys/fs/cgroup").iterdir():
            _remove_cgroup(root / self.cgroup)

    def _child(self) -> str:
        pid = self._keeper.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip().partition(" ")[0]

    def _is_empty(self) -> bool:
        parents = [root / self.cgroup for root in Path("/sys/fs/cgroup").iterdir()]
        return not any(path.read_text() for parent in parents for path in parent.glob("**/cgroup.procs"))


def _remove_cgroup(path: Path) -> None:
    for folder in sorted((p for p in path.glob("**/") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


@dataclass
class Running:
    """A pod that a runtime runs."""

    name: str
    id: str
    container: str
    ips: list[str] = field(default_factory=list)


class Containerd:
    """containerd 1.6, asked through CRI as a kubelet asks."""

    def __init__(self, jail: Jail, archives: Sequence[Path]) -> None:
        self._jail, self._folder = jail, jail.folder
        machine = jail.machine
        (self._folder / "config.toml").write_text(_containerd_config(self._folder, machine))
        self._start()
        for archive in archives:
            self._ctr("images", "import", str(archive))

    def _start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            start = f"echo $$ > {self._folder}/pid; exec containerd -c {self._folder}/config.toml"
            argv = self._jail.argv("sh", "-c", start)
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._socket = str(self._folder / "containerd.sock")
        until(lambda: "Revision" in self._ctr("version", check=False), limit=60.0)
        self.client = cri.Client(self._socket)

    def restart(self) -> None:
        """Kill it, and start it again; what it runs goes on."""
        self.close()
        self._start()

    def close(self) -> None:
        self.client.close()
        # The process is known in the jail by another number than out here.
        self._jail.run("kill", "-KILL", (self._folder / "pid").read_text().strip(), check=False)
        self._process.wait(10)

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def is_network_ready(self) -> bool:
        conditions = self.client.call("Status")["status"]["conditions"]
        return any(one["type"] == "NetworkReady" and one.get("status") for one in conditions)

    def run(
        self,
        name: str,
        *,
        ports: Sequence[tuple[int, int]] = (),
        attempt: int = 0,
        annotations: Mapping[str, str] | None = None,
    ) -> Running:
        """Run a pod whose container serves its name on port 8080; raises cri.Refused.

        containerd keeps the name of a pod that failed: a kubelet counts its attempts, and so must the caller.
        """
        config = {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "tests", "attempt": attempt},
            "hostname": name,
            "log_directory": str(self._folder / "logs" / name),
            "port_mappings": [{"protocol": 0, "container_port": to, "host_port": host} for host, to in ports],
            "annotations": annotations or {},
            "linux": {"cgroup_parent": f"/{self._jail.cgroup}"},
        }
        (self._folder / "logs" / name).mkdir(parents=True, exist_ok=True)
        sandbox = self.client.call("RunPodSandbox", config=config)["pod_sandbox_id"]
        container = self.client.call(
            "CreateContainer",
            pod_sandbox_id=sandbox,
            sandbox_config=config,
            config={
                "metadata": {"name": "main"},
                "image": {"image": build.BUSYBOX},
                "command": ["sh", "-c", SERVE, name],
                "log_path": "main.log",
            },
        )["container_id"]
        self.client.call("StartContainer", container_id=container)
        network = self.client.call("PodSandboxStatus", pod_sandbox_id=sandbox)["status"]["network"]
        ips = [network["ip"], *(more["ip"] for more in network.get("additional_ips", ()))]
        return Running(name, sandbox, container, ips)

    def exec(self, pod: Running, *command: str) -> str:
        done = self.client.call("ExecSync", container_id=pod.container, cmd=list(command), timeout=10)
        assert not done.get("exit_code"), done
        return str(done.get("stdout", b"").decode())

    def halt(self, pod: Running) -> None:
        self.client.call("StopPodSandbox", pod_sandbox_id=pod.id)

    def stop(self, pod: Running) -> None:
        self.halt(pod)
        self.client.call("RemovePodSandbox", pod_sandbox_id=pod.id)

    def _ctr(self, *command: str, check: bool = True) -> str:
        return self._jail.run("ctr", "-a", self._socket, "-n", "k8s.io", *command, check=check)


class Podman:
    """podman 4.3 with its CNI backend, on the network `netplane` of the machine's own configuration."""

    def __init__(self, jail: Jail, archives: Sequence[Path]) -> None:
        self._jail, self._folder = jail, jail.folder
        (self._folder / "containers.conf").write_text(_podman_config(self._folder, jail.machine))
        (self._folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        for archive in archives:
            self._podman("load", "--signature-policy", str(self._folder / "policy.json"), "-i", str(archive))

    def close(self) -> None:
        self._podman("rm", "--force", "--all", "--time=0", check=False)

    def run(self, name: str, *, ports: Sequence[tuple[int, int]] = (), attempt: int = 0) -> Running:
        """Run a container that serves its name on port 8080; raises Failed."""
        published = [f"--publish={host}:{to}" for host, to in ports]
        if attempt:
            self._podman("rm", "--force", "--time=0", name)
        common = [f"--name={name}", "--network=netplane", f"--cgroup-parent=/{self._jail.cgroup}", *published]
        done = self._podman("run", "--detach", *common, build.BUSYBOX, "sh", "-c", SERVE, name)
        found: dict[str, Any] = json.loads(self._podman("inspect", name))[0]
        network = found["NetworkSettings"]["Networks"]["netplane"]
        ips = [network["IPAddress"], network.get("GlobalIPv6Address", "")]
        return Running(name, done.strip(), name, [ip for ip in ips if ip])

    def exec(self, pod: Running, *command: str) -> str:
        return self._podman("exec", pod.container, *command)

    def stop(self, pod: Running) -> None:
        self._podman("rm", "--force", "--time=0", pod.name)

    def _podman(self, *command: str, check: bool = True) -> str:
        folder = self._folder
        argv = ["podman", "--root", f"{folder}/root", "--runroot", "/run/podman", "--tmpdir", "/run/libpod"]
        return self._jail.run(*argv, *command, check=check, env={"CONTAINERS_CONF": f"{folder}/containers.conf"})


def fetched(runtime: Containerd | Podman, pod: Running, host: str, port: int = 8080) -> str:
    """Return what the server there tells, asked from inside the pod; it may still be starting."""
    # nc, for the static busybox of Debian cannot look "http" up: its wget ends with a fault.
    once = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {host} {port} | tail -n 1 | grep ."
    return runtime.exec(pod, "sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 10; do {once} && exit; sleep 0.2; done").strip()


@contextlib.contextmanager
def jailed(machine: Machine, name: str) -> Iterator[Jail]:
    """Make a jail, and end it whatever happens."""
    jail = Jail(machine, name)
    try:
        yield jail
    finally:
        jail.close()


def _containerd_config(folder: Path, machine: Machine) -> str:
    return f"""
version = 2
root = "{folder}/root"
state = "{folder}/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{machine.folder}/bin"
    conf_dir = "{machine.folder}/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _podman_config(folder: Path, machine: Machine) -> str:
    return f"""
[network]
network_backend = "cni"
cni_plugin_dirs = ["{machine.folder}/bin"]
network_config_dir = "{machine.folder}/conf"
default_network = "netplane"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nproc=32768:32768", "nofile=20000:20000"]
[engine.runtimes]
runc = ["/usr/sbin/runc", "/usr/bin/runc"]
"""
