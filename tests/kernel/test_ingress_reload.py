"""What a reload of the engine costs those who are connected, and that the door is watched after one as before it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.support import ingress
from tests.support import ingress_objects as o
from tests.support.ingress_clients import engines, loaded

HOST, SLOTS = "load.example", 8


def _grow(door: ingress.Door, services: int) -> None:
    """Serve so many Services, so that there are not enough slots for them, and wait until the last one answers."""
    paths = []
    for number in range(services):
        if f"default/s{number}" not in door.service_of.values():
            door.service(f"s{number}")
        paths.append(o.path(f"/s{number}", f"s{number}"))
    door.api.apply(o.ingress("many", o.rule("many.example", *paths)))
    door.answers(f"http://many.example/s{services - 1}", f"s{services - 1}")


def test_slots_grow_by_reloads_that_cost_no_request_and_a_dead_engine_is_back_at_once_after_them(
    tmp_path: Path,
) -> None:
    with ingress.door(tmp_path, options=[f"--slots={SLOTS}"]) as door:
        door.api.apply(o.ingress_class())
        door.service("web", pods=2)
        door.api.apply(o.tls_secret("load-tls", HOST))
        door.api.apply(o.ingress("load", o.rule(HOST, o.path("/", "web")), tls=[("load-tls", [HOST])]))
        door.answers(f"https://{HOST}/", "web", trust=o.key_pair(HOST)[0])
        with loaded(HOST, rate=100, clients=20, sockets=4, downloads=2) as said:
            _grow(door, SLOTS + 1)
            door.until(lambda: door.metric("netplane_ingress_reloads_total") == 1)
            _grow(door, 2 * SLOTS + 1)
        result = json.loads(said[0])
        assert result["failures"] == {}, result
        door.until(lambda: door.metric("netplane_ingress_reloads_total") == 2)
        # Those that were replaced end with their last connection, and nobody else has one to them.
        door.until(lambda: len(engines(door)) == 1)
        (pid,) = engines(door)
        os.kill(pid, signal.SIGKILL)
        door.until(lambda: engines(door) - {pid})
        door.answers(f"http://{HOST}/", "web")
        door.answers("http://many.example/s16", "s16")
