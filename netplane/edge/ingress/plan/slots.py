"""Give each way of reaching a Service a slot of the engine, and keep it there for as long as it is wanted.

A slot is a backend of the engine that was made before anybody needed it. Which one a use has is kept in the map
`slots` inside the engine, so that a controller that was restarted finds it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from netplane.edge.ingress.plan.state import EngineServer, Paths, authority_name, digest
from netplane.model.routing import BackendProtocol, BackendTls, Policy, Server, ServicePort

_PROTOCOLS: Final[Mapping[BackendProtocol, str]] = {
    "http": "",
    "h2c": "proto h2",
    "https": "ssl",
    "h2": "ssl alpn h2",
}
_SERVER_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_POD: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """A port of a Service, and how its endpoints are spoken to. Equal uses share a slot."""

    kind: str
    service: ServicePort
    options: str = ""
    """The engine's keywords of each server, made of our own words, paths and a checked server name."""

    def __str__(self) -> str:
        """Print it as the map `slots` holds it: the Service first, for logs."""
        return f"{self.service}|{self.kind}|{digest(self.options) if self.options else ''}"


class SlotsExhausted(Exception):
    """More uses of a kind than slots: a reload with more of them must come first."""

    def __init__(self, kind: str, wanted: int) -> None:
        super().__init__(f"{wanted} slots of kind {kind} are wanted")
        self.kind = kind
        self.wanted = wanted


def use_of(service: ServicePort, policy: Policy, paths: Paths) -> Use:
    """Return the use of a Service under a route's policy."""
    kind = "c" if policy.sticky else "l" if policy.balance == "leastconn" else "h"
    return Use(kind, service, server_options(policy.protocol, policy.backend_tls, paths))


def passthrough_use(service: ServicePort) -> Use:
    """Return the use of a Service that TLS connections are handed to as they are."""
    return Use("t", service)


def server_options(protocol: BackendProtocol, tls: BackendTls, paths: Paths) -> str:
    """Return the engine's keywords for servers that are spoken to like this."""
    words = [_PROTOCOLS[protocol]] if _PROTOCOLS[protocol] else []
    if protocol in ("https", "h2"):
        name = tls.server_name if _SERVER_NAME.fullmatch(tls.server_name) else ""
        if tls.verify:
            words.append(
                f"verify required ca-file {paths.authority(authority_name(tls.ca)) if tls.ca else '@system-ca'}"
            )
            words += [f"verifyhost {name}"] if name else []
        else:
            words.append("verify none")
        words += [f"sni str({name})"] if name else []
    return " ".join(words)


def assign(
    uses: Iterable[Use], kept: Mapping[str, str], available: Mapping[str, Sequence[str]], busy: frozenset[str]
) -> dict[Use, str]:
    """Return a slot for each use: the one it has (`kept`: slot to printed use), else a free one.

    `busy` slots still have servers with connections of an earlier use. Raises SlotsExhausted.
    """
    wanted = sorted(set(uses))
    held = {text: slot for slot, text in sorted(kept.items(), reverse=True)}
    known = {slot for kind in available.values() for slot in kind}
    given = {use: held[str(use)] for use in wanted if held.get(str(use)) in known}
    taken = set(given.values()) | busy
    free = {kind: iter([slot for slot in slots if slot not in taken]) for kind, slots in available.items()}
    for use in wanted:
        if use not in given:
            slot = next(free.get(use.kind, iter(())), "")
            if not slot:
                raise SlotsExhausted(use.kind, sum(one.kind == use.kind for one in wanted) + len(busy))
            given[use] = slot
    return given


def servers_of(use: Use, servers: Iterable[Server]) -> dict[str, EngineServer]:
    """Return the servers of a slot by name: pod, endpoint, and a mark of how it is spoken to.

    The name is all that tells this server from another, and the log takes pod and endpoint from it. What a slice says
    of its pods is anybody's text: only what a pod can be called becomes a part of a name.
    """
    found = {}
    for one in servers:
        server = EngineServer(one.address, one.port, use.options)
        mark = digest(use.options, 8) if use.options else ""
        pod = one.name if _POD.fullmatch(one.name) else "endpoint"
        found[f"{pod}_{one.address}:{one.port}_{mark}"] = server
    return found
