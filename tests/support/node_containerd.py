"""Run a containerd of the test's own on a node of the test's own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import grpc  # type: ignore[import-untyped,unused-ignore]  # it has no types of its own
from cri_api.v1 import api_pb2 as cri
from cri_api.v1 import api_pb2_grpc as stubs

from netplane.agent.builtin import build
from netplane.agent.images import Store, recipe
from netplane.kernel import cgroup
from netplane.lab import containerd
from netplane.lab.containerd import Places


class Unpacked(Protocol):
    """An image as a folder."""

    @property
    def reference(self) -> str: ...
    @property
    def config(self) -> dict[str, object]: ...
    @property
    def layers(self) -> tuple[Path, ...]: ...


def places(root: Path) -> Places:
    """Return the folders of the node's containerd."""
    folder = root / "ctd"
    return Places(
        root=folder / "root",
        state=folder / "state",
        socket=folder / "s.sock",
        plugins=root / "bin",
        networks=root / "net.d",
    )


class Daemon:
    """A containerd that can be killed and started again."""

    def __init__(self, root: Path, group: str) -> None:
        self._folder = root / "ctd"
        self._group = group
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            argv = ["containerd", "-c", str(self._folder / "config.toml")]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        cgroup.add(self._group, self._process.pid)  # Its shims, which outlive it, stay in there.
        deadline = time.monotonic() + 20
        while self._version().returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it; what it runs runs on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def _version(self) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ctr", "-a", f"{self._folder}/s.sock", "version"], capture_output=True, check=False)


@contextlib.contextmanager
def serving(root: Path, cgroup_root: str, image: Unpacked) -> Iterator[Daemon]:
    """Run containerd until the block ends; its pods are removed then. The image is in the node's own store."""
    where = places(root)
    where.root.mkdir(parents=True)
    (root / "ctd" / "config.toml").write_text(containerd.configuration(where))
    _fill(Store(root / "store"), image)
    group = f"{cgroup_root}/daemons".lstrip("/")
    cgroup.ensure(group)
    daemon = Daemon(root, group)
    daemon.start()
    try:
        yield daemon
    finally:
        with contextlib.suppress(grpc.RpcError):
            _remove_all(where)
        daemon.kill()


def _fill(store: Store, image: Unpacked) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(image.layers[0], arcname=".")
    packed.seek(0)
    config = image.config["config"]
    assert isinstance(config, dict)
    store.put(image.reference, config, packed)
    recipe.build(store, build.sandbox())


def _remove_all(where: Places) -> None:
    with grpc.insecure_channel(f"unix://{where.socket}") as channel:
        runtime = stubs.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        for pod in runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=10).items:
            runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod.id), timeout=20)
            runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=20)
