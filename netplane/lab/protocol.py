"""The keeper's control socket: one JSON line in, one JSON line out."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Verb = Literal["status", "sync", "kill", "hold", "release", "shutdown"]


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """What the keeper knows of one daemon. `since` is seconds since its start; `status` its own last word.

    A daemon whose keeper is gone is `unkept`: it works, and the next keeper adopts it.
    """

    name: str
    state: Literal["starting", "ready", "waiting", "held", "unkept"]
    pid: int
    restarts: int
    since: float
    status: str


class KeeperDown(ConnectionError):
    """The lab's keeper does not answer on its socket."""


def ask(path: Path, verb: Verb, *, units: tuple[str, ...] = (), limit: float = 10.0) -> list[UnitStatus]:
    """Send one request and return the state of the units after it.

    Raises KeeperDown when nobody answers within `limit` seconds.
    """
    request = json.dumps({"verb": verb, "units": units}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(limit)
            sock.connect(str(path))
            sock.sendall(request)
            with sock.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise KeeperDown(f"the keeper of the lab does not answer on {path}: {error}") from error
    if "units" not in answer:
        raise KeeperDown(f"the keeper of the lab went away on {path}")
    return [UnitStatus(**unit) for unit in answer["units"]]


def encode(units: list[UnitStatus]) -> bytes:
    """Return the answer line."""
    return json.dumps({"units": [asdict(unit) for unit in units]}).encode() + b"\n"
