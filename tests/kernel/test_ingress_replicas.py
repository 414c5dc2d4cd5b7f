"""Two controllers of one door: each keeps its own engine, and one of them tells the API what becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import apiserver, ingress
from tests.support import ingress_objects as o

OTHER_ADDRESS, HTTP, MANAGEMENT = "203.0.113.20", 8180, 10264
TAKEOVER = 90.0
"""A lease holds for 15 seconds after its holder was seen last."""


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ingress.Door]:
    """A door whose controller leads."""
    with ingress.door(tmp_path) as made:
        made.api.apply(o.ingress_class())
        made.service("web")
        made.until(lambda: leads(made))
        yield made


@pytest.fixture
def other(door: ingress.Door) -> Iterator[subprocess.Popen[bytes]]:
    """A second controller of the same door, with an engine of its own, which publishes another address."""
    folder = door.folder / "other"
    folder.mkdir()
    options = [
        f"--state-dir={folder / 'state'}",
        f"--run-dir={folder / 'run'}",
        f"--publish-address={OTHER_ADDRESS}",
        f"--metrics-bind-address=127.0.0.1:{MANAGEMENT}",
        f"--http-port={HTTP}",
        "--https-port=0",
    ]
    command = [*apiserver.program(), "ingress", "--kubeconfig", str(door.server.kubeconfig), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with open(folder / "ingress.log", "ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def leads(door: ingress.Door, port: int = o.MANAGEMENT_PORT) -> bool:
    """Tell whether a controller says that it leads."""
    answer = door.ask(f"http://127.0.0.1:{port}/status", address="127.0.0.1")
    found: bool = json.loads(answer.body)["leads"]
    return found


def published(door: ingress.Door, name: str) -> list[str]:
    """Return the addresses in an Ingress' status."""
    status = door.api.get("Ingress", name).get("status") or {}
    return [each["ip"] for each in (status.get("loadBalancer") or {}).get("ingress") or ()]


def test_every_replica_serves_and_one_tells_and_another_takes_over_when_it_is_killed(
    door: ingress.Door, other: subprocess.Popen[bytes]
) -> None:
    wrong = {"netplane.io/proxy-read-timeout": "soon"}
    door.api.apply(o.ingress("web", o.rule("web.example", o.path("/", "web")), annotations=wrong))
    door.answers("http://web.example/", "web")
    door.answers("http://web.example/", "web", port=HTTP)
    door.until(lambda: published(door, "web") == [ingress.DOOR])
    door.until(lambda: len(door.events("web")) == 1)
    # What the second one was told after is served by it, so it has had its chance to tell of the first.
    door.api.apply(o.ingress("later", o.rule("later.example", o.path("/", "web"))))
    door.answers("http://later.example/", "web", port=HTTP)
    door.until(lambda: published(door, "later") == [ingress.DOOR])
    assert (published(door, "web"), len(door.events("web"))) == ([ingress.DOOR], 1)
    assert not leads(door, MANAGEMENT)

    assert door.controller is not None
    leader, door.controller = door.controller, None
    leader.stop(signal.SIGKILL)
    door.api.apply(o.ingress("after", o.rule("after.example", o.path("/", "web")), annotations=wrong))
    door.answers("http://after.example/", "web", port=HTTP)
    door.until(lambda: leads(door, MANAGEMENT), limit=TAKEOVER)
    for name in ("web", "later", "after"):
        door.until(lambda name=name: published(door, name) == [OTHER_ADDRESS])  # type: ignore[misc]
    door.until(lambda: door.events("after"))
    assert other.poll() is None
