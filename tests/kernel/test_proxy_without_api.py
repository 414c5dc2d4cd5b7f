"""A node boots while no API server answers: it forwards what it knew, and follows when one is back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.model.address import Family
from netplane.model.service import Protocol
from tests.support import apiserver, kube_objects, static_api
from tests.support.proxy_process import traces
from tests.support.topology import POD1, POD2, Topology, topology

WEB = "10.96.0.1", 80
PATIENCE = 30.0


class Api:
    """A static API on a thread of its own in the node's namespace, which can go away and come back."""

    def __init__(self, lab: Topology) -> None:
        self.made = static_api.StaticApi()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=lambda: netns.run_in(lab.places["node"], self._loop.run_forever), daemon=True
        )
        self._thread.start()

    def up(self) -> None:
        asyncio.run_coroutine_threadsafe(self.made.start(), self._loop).result(10)

    def down(self) -> None:
        asyncio.run_coroutine_threadsafe(self.made.stop(), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(_end_others(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _end_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Topology]:
    with topology(tmp_path) as made:
        yield made


@contextlib.contextmanager
def proxy(lab: Topology, folder: Path, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command on the node; in the end it is told to stop, and does."""
    argv = [
        *apiserver.program(), "proxy", "--kubeconfig", str(folder / "kubeconfig"), "--node-name", "node-1",
        "--mode", mode,
        "--cluster-cidr", "10.244.0.0/16", "--service-cidr", "10.96.0.0/16", "--state-dir", str(folder / "state"),
        "--healthz-bind-address", "", "--metrics-bind-address", "",
    ]  # fmt: skip
    process = netns.run_in(lab.places["node"], lambda: subprocess.Popen(argv, stderr=subprocess.PIPE))
    assert process.stderr is not None
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def until(process: subprocess.Popen[bytes], words: bytes) -> None:
    """Read its log up to a line with these words."""
    assert process.stderr is not None
    while words not in (line := process.stderr.readline()):
        assert line, "the proxy ended"


def boot(lab: Topology, state: Path) -> None:
    """Do to the node what a boot does: its kernel forgets, and the file is of another one."""
    lab.run("node", "nft", "flush", "ruleset")  # iptables' as well: that is nft's variant here
    assert [trace for mode in ("nftables", "iptables") for trace in traces(lab, mode)] == []
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"boot": "another"}))


def slice_to(where: dict[Family, str]) -> static_api.Object:
    return kube_objects.endpoint_slice(where[Family.V4], node="node-1")


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_after_a_boot_without_an_api_the_last_known_state_is_forwarded(
    lab: Topology, tmp_path: Path, mode: str
) -> None:
    api = Api(lab)
    try:
        for obj in (kube_objects.node(), kube_objects.service(), slice_to(POD1)):
            api.made.put(obj)
        api.up()
        (tmp_path / "kubeconfig").write_text(static_api.kubeconfig(api.made.port))
        with proxy(lab, tmp_path, mode) as process:
            until(process, b"forwarding")
        assert lab.ask("client", WEB).name == "pod1"
        api.down()
        boot(lab, tmp_path / "state" / "forwarding.json")
        assert lab.fate("client", WEB, Protocol.TCP, patience=0.4) != "answered"
        with proxy(lab, tmp_path, mode) as process:
            until(process, b"forwarding as last known")
            assert lab.ask("client", WEB).name == "pod1"
            api.made.put(slice_to(POD2))
            api.up()
            until(process, b"forwarding service_ports")
            assert lab.ask("client", WEB).name == "pod2"
    finally:
        api.down()
        api.close()
