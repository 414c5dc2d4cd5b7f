"""Connections through a Service lose nothing while its endpoints roll and the proxy is killed and started again.

`PROXY_CONNECTIONS=100000` makes many more of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from netplane.kernel import netns
from netplane.model.address import Family
from tests.support import apiserver, kube_objects, static_api
from tests.support.topology import NODE, POD1, POD2, topology

CONNECTIONS = int(os.environ.get("PROXY_CONNECTIONS", "2000"))
CLIENTS = 4
ROLL_EVERY = 0.01
KILL_EVERY = 1.0
PLACES = {name: where[Family.V4] for name, where in (("pod1", POD1), ("pod2", POD2), ("node", NODE))}
VIP = "10.96.0.1"
ROOT = Path(__file__).resolve().parents[2]

_SERVER = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 9000), backlog=4096)
print("ready", flush=True)
while True:
    one, _ = listener.accept()
    try:
        one.settimeout(30)
        one.sendall(one.recv(10) + sys.argv[1].encode())
    except OSError:
        pass
    one.close()
"""


class Rig:
    """The API and the proxy on the node, on a thread in its namespace; the endpoints roll and the proxy dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_over = threading.Event()
        self.is_ready = threading.Event()
        self.rolls = self.kills = 0

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        api = static_api.StaticApi()
        for obj in (kube_objects.node(), kube_objects.service(), rolled(list(PLACES))):
            api.put(obj)
        async with static_api.serving(api):
            (self.folder / "kubeconfig").write_text(static_api.kubeconfig(api.port))
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(self._kill())
                await asyncio.to_thread(self.is_ready.wait, 60)
                dice = random.Random(7)
                while not self.is_over.is_set():
                    api.put(rolled(dice.sample(list(PLACES), dice.randint(1, 3))))
                    self.rolls += 1
                    await asyncio.sleep(ROLL_EVERY)
                killing.cancel()

    async def _kill(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(*self._command(), stderr=asyncio.subprocess.PIPE)
            assert process.stderr is not None
            draining = None
            try:
                while b"forwarding" not in (line := await process.stderr.readline()):
                    assert line, "the proxy ended"
                self.is_ready.set()
                draining = asyncio.ensure_future(process.stderr.read())
                await asyncio.sleep(KILL_EVERY)
            finally:
                process.kill()
                await process.wait()
                if draining is not None:
                    await asyncio.gather(draining, return_exceptions=True)
            self.kills += 1

    def _command(self) -> list[str]:
        return [
            *apiserver.program(), "proxy", "--kubeconfig", str(self.folder / "kubeconfig"), "--node-name", "node-1",
            "--cluster-cidr", "10.244.0.0/16", "--service-cidr", "10.96.0.0/16", "--state-dir", str(self.folder),
            "--healthz-bind-address", "", "--metrics-bind-address", "",
        ]  # fmt: skip


def rolled(names: list[str]) -> static_api.Object:
    """The Service's slice with these endpoints."""
    made = kube_objects.endpoint_slice(*(PLACES[name] for name in names), node="node-1")
    made["ports"] = [{"name": "", "port": 9000, "protocol": "TCP"}]
    return made


def ask(place: str, count: int, answers: Counter[str], failures: list[OSError]) -> None:
    """Connect again and again, and take what answers."""
    with netns.inside(place):
        for _ in range(count):
            try:
                with socket.create_connection((VIP, 80), timeout=30) as one:
                    one.sendall(b"?")
                    answers[one.recv(20).decode()] += 1
            except OSError as error:
                failures.append(error)


def serve(place: str, name: str) -> subprocess.Popen[bytes]:
    """Answer in a process of its own, which serves when this returns."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _SERVER, name], stdout=subprocess.PIPE)

    process = netns.run_in(place, start)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"ready\n"
    return process


def test_nothing_is_lost_while_endpoints_roll_and_the_proxy_is_killed(tmp_path: Path) -> None:
    # Every server serves all the time, listed or not, so that no failure is owed to an endpoint that was gone.
    with topology(tmp_path) as lab:
        servers = []
        rig = Rig(tmp_path)
        keeper = threading.Thread(target=lambda: netns.run_in(lab.places["node"], rig.run), daemon=True)
        try:
            for name in PLACES:
                servers.append(serve(lab.places[name], name))
            keeper.start()
            assert rig.is_ready.wait(60)
            answers: Counter[str] = Counter()
            failures: list[OSError] = []
            wave = CONNECTIONS // CLIENTS
            while answers.total() + len(failures) < CONNECTIONS or rig.kills < 2:
                places = [lab.places[("client", "pod1", "pod2", "client")[number % 4]] for number in range(CLIENTS)]
                clients = [threading.Thread(target=ask, args=(one, wave, answers, failures)) for one in places]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
                wave = 100
        finally:
            rig.is_over.set()
            keeper.join(60)
            for server in servers:
                server.kill()
                server.wait()
        assert failures == []
        assert set(answers) == {"?pod1", "?pod2", "?node"}
        assert rig.rolls > 50
        assert not keeper.is_alive()
