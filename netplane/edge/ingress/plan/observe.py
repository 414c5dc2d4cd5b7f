"""Read what the engine prints about itself as a state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from netplane.edge.ingress.plan import base
from netplane.edge.ingress.plan.state import EngineCertificate, EngineServer, Paths, State

_IS_LEAVING = 1
"""The bit of srv_admin_state for a server in maintenance by command."""


def state(maps: Mapping[str, str], servers: str, listed: str, authorities: str, paths: Paths) -> State:
    """Return what the answers to `show map`, `show servers state`, `show ssl crt-list` and `ca-file` say."""
    held, leaving = _servers(servers)
    return State(
        maps={name: _rows(text) for name, text in maps.items()},
        servers=held,
        certificates=_certificates(listed, paths),
        authorities=dict.fromkeys(_authorities(authorities, paths), ""),
        leaving=frozenset(leaving),
    )


def _rows(text: str) -> dict[str, str]:
    """Read `0x5581 key value` lines. A key that is there twice counts with its first value, which is what is found."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, _, row = line.partition(" ")
        key, _, value = row.partition(" ")
        if key:
            found.setdefault(key, value)
    return found


def _servers(text: str) -> tuple[dict[str, dict[str, EngineServer]], set[tuple[str, str]]]:
    """Read the table of servers: of each slot those that take requests, and those that are about to go.

    The keywords of a server cannot be read back; its name, which holds their digest, stands for them.
    """
    held: dict[str, dict[str, EngineServer]] = {}
    leaving: set[tuple[str, str]] = set()
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) < 19 or words[0] == "#" or words[1][:1] not in base.KINDS or not words[1][1:].isdigit():
            continue
        slot, name, address, admin, port = words[1], words[3], words[4], int(words[6]), int(words[18])
        if admin & _IS_LEAVING:
            leaving.add((slot, name))
        else:
            held.setdefault(slot, {})[name] = EngineServer(address, port)
    return held, leaving


def _certificates(text: str, paths: Paths) -> dict[str, EngineCertificate]:
    found = {}
    for line in text.splitlines():
        path = line.split(" ", 1)[0]
        name = PurePosixPath(path).name.removesuffix(".pem")
        if path == paths.certificate(name):
            found[name] = EngineCertificate("", ())
    return found


def _authorities(text: str, paths: Paths) -> list[str]:
    names = []
    for line in text.splitlines():
        path = line.split(" ", 1)[0]
        name = PurePosixPath(path).name.removesuffix(".pem")
        if path == paths.authority(name):
            names.append(name)
    return names
