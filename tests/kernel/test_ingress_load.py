"""Nothing is lost: load goes on through the door while everything behind it changes and its controller is killed."""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from pathlib import Path

import pytest

from tests.support import ingress
from tests.support import ingress_objects as o
from tests.support.ingress_clients import engines, loaded
from tests.support.ingress_serve import committed

HOST, PORT = "load.example", 9000
RATE, CLIENTS, SOCKETS, DOWNLOADS = 200, 20, 20, 5
SECONDS, STEPS = 20.0, 100
_PORTS = [{"name": "http", "port": 8080, "targetPort": PORT}]


class Rollout:
    """A Service whose pods are replaced one after the other, each as a good Deployment does it."""

    def __init__(self, door: ingress.Door, *, pods: int) -> None:
        self._door = door
        self._ready: deque[str] = deque()
        self._leaving: deque[tuple[float, int, str]] = deque()
        door.api.apply(o.service("load", ports=_PORTS))
        for _ in range(pods):
            self._add()
        self._write()

    def step(self) -> None:
        """Start a pod, let the oldest terminate; those are gone that the door has known so for a second and more."""
        self._add()
        leaving, gone, known = self._ready.popleft(), [], committed(self._door)
        while self._leaving and self._leaving[0][0] < time.monotonic() - 1.0 and self._leaving[0][1] <= known:
            gone.append(self._leaving.popleft()[2])
        revision = self._write(leaving)
        self._leaving.append((time.monotonic(), revision, leaving))
        for address in gone:
            self._door.stop_pod(address, PORT)

    def _add(self) -> None:
        address = self._door.new_pod("default/load")
        self._door.start_pod(address, PORT)
        self._ready.append(address)

    def _write(self, *leaves: str) -> int:
        leaving = [*(address for _, _, address in self._leaving), *leaves]
        every = [*self._ready, *leaving]
        written = self._door.api.apply(o.endpoint_slice("load", every, ports=_PORTS, terminating=leaving))
        return int(written["metadata"]["resourceVersion"])


@pytest.mark.timeout(300)
def test_nothing_is_lost_while_endpoints_hosts_and_certificates_change_and_the_controller_is_killed(
    tmp_path: Path,
) -> None:
    with ingress.door(tmp_path) as door:
        door.api.apply(o.ingress_class())
        door.api.apply(o.tls_secret("load-tls", HOST, serial=1))
        rollout = Rollout(door, pods=5)
        door.api.apply(o.ingress("load", o.rule(HOST, o.path("/", "load")), tls=[("load-tls", [HOST])]))
        door.answers(f"http://{HOST}/", "load")
        door.answers(f"https://{HOST}/", "load", trust=o.key_pair(HOST)[0])
        before = engines(door)
        reloads = door.metric("netplane_ingress_reloads_total")
        with loaded(HOST, rate=RATE, clients=CLIENTS, sockets=SOCKETS, downloads=DOWNLOADS) as said:
            _change(door, rollout, reloads)
        result = json.loads(said[0])
        print(json.dumps(result))
        assert result["failures"] == {}, result
        # However busy this machine is: the clients go on at their rate, and it may be that not all of it is reached.
        assert result["requests"] > 0.5 * RATE * SECONDS, result
        assert result["pods"] > 20, result
        assert result["downloads"] >= DOWNLOADS, result
        assert result["connections"] == CLIENTS, "connections were closed: " + str(result)
        assert engines(door) == before
        assert door.metric("netplane_ingress_reloads_total") == 0
        door.until(lambda: o.serial_of(door.ask(f"https://{HOST}/").certificate) > 5)


def _change(door: ingress.Door, rollout: Rollout, reloads: float) -> None:
    """Change everything for as long as the load lasts, and often enough; kill the controller once in the middle."""
    began, step, has_killed = time.monotonic(), 0, False
    while (elapsed := time.monotonic() - began) < SECONDS or (step < STEPS and elapsed < 5 * SECONDS):
        step += 1
        if step % 3 == 0:
            rollout.step()
        door.api.apply(o.ingress(f"passing-{step % 7}", o.rule(f"host-{step}.example", o.path("/", "load"))))
        if step % 5 == 0:
            door.api.delete("Ingress", f"passing-{(step + 3) % 7}")
        if step % 10 == 0:
            door.api.apply(o.tls_secret("load-tls", HOST, serial=1 + step // 10))
        if not has_killed and elapsed > SECONDS / 2:
            assert door.metric("netplane_ingress_reloads_total") == reloads
            assert door.controller is not None
            door.controller.stop(signal.SIGKILL)
            door.start()
            has_killed = True
        time.sleep(0.1)
