"""Serve a host by an Ingress of its own, and wait until the engine knows it."""

from __future__ import annotations

import json

from tests.support import ingress
from tests.support import ingress_objects as o

PREFIX = "netplane.io/"


def serve(
    door: ingress.Door, host: str, service: str = "web", *, tls: bool = False, at: str = "/", **said: str
) -> None:
    """Apply an Ingress of its own for the host, with annotations (`_` for `-`), and wait until the engine knows it."""
    annotations = {PREFIX + name.replace("_", "-"): text for name, text in said.items()}
    name = host.partition(".")[0]
    secrets = [(f"{name}-tls", [host])] if tls else []
    if tls:
        door.api.apply(o.tls_secret(f"{name}-tls", host))
    before = door.api.apply(o.ingress(name, o.rule(host, o.path(at, service)), annotations=annotations, tls=secrets))
    revision = int(before["metadata"]["resourceVersion"])
    door.until(lambda: committed(door) >= revision)
    if tls:
        certificate = o.key_pair(host)[0]
        door.until(lambda: door.ask(f"https://{host}/", trust=certificate).status)


def known(door: ingress.Door, *services: str) -> None:
    """Wait until the engine reaches these Services, which came to the controller over watches of their own."""
    for service in services:
        name = f"known-{service}"
        door.api.apply(o.ingress(name, o.rule(f"{name}.example", o.path("/", service))))
        door.answers(f"http://{name}.example/", service)


def committed(door: ingress.Door) -> int:
    """Return the revision that the engine holds."""
    return int(json.loads(door.management("/status").body)["committed"] or 0)
