"""Say which peers this node's WireGuard device has, and what it tells the others of itself. Doing it is run/encryption.

Each node has one key pair, of which the public half stands in its Node's annotations, which only it may write. A new
key is announced beside the one in use before it is taken, so that every peer knows it by then:

    announce   peers hold both keys; the networks belong to the one in use
    take       this node signs with the new key, and announces it as the one in use
    follow     each peer moves the networks to it in one step, and forgets the other
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from netplane.kernel.wireguard.objects import Endpoint, Network, Peer, parse, text
from netplane.model import address
from netplane.model.node import Node

DEVICE = "np.wg"
PUBLIC_KEY = "netplane.io/wireguard-public-key"
NEXT_KEY = "netplane.io/wireguard-next-key"
PORT = "netplane.io/wireguard-port"
OVERHEAD = {address.Family.V4: 60, address.Family.V6: 80}
"""What WireGuard adds: outer IP, UDP 8, its header 16, the authenticator 16."""
OVERLAP = 10.0
"""Seconds between the announcement of a new key and its use: as long as it may take to reach every node."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its public half."""

    private: bytes = field(repr=False)
    public: bytes


@dataclass(frozen=True, slots=True)
class Keys:
    """The pair in use, since when (seconds since the epoch), and the one announced to follow it."""

    current: Pair
    since: float
    following: Pair | None = None
    announced: float = 0.0


@dataclass(frozen=True, slots=True)
class Announced:
    """What a Node says of its WireGuard end."""

    key: bytes
    port: int
    following: bytes | None = None


def said_of(keys: Keys, port: int) -> dict[str, str | None]:
    """Return what this node's Node shall say; None takes an annotation away."""
    following = text(keys.following.public) if keys.following else None
    return {PUBLIC_KEY: text(keys.current.public), NEXT_KEY: following, PORT: str(port)}


def announced(node: Node) -> Announced | None:
    """Return what a Node says; None when it says nothing yet, ValueError when that makes no sense."""
    written = node.annotations
    if PUBLIC_KEY not in written:
        return None
    try:
        port = int(written.get(PORT, ""))
    except ValueError as error:
        raise ValueError(f"annotation {PORT} is not a number") from error
    if not 0 < port < 65536:
        raise ValueError(f"annotation {PORT} {port} is not a port")
    following = _key(written, NEXT_KEY) if NEXT_KEY in written else None
    return Announced(_key(written, PUBLIC_KEY), port, following)


def problem(node: Node) -> str:
    """Say why there can be no encrypted path to a node; "" when there can."""
    try:
        return "" if announced(node) else "it has announced no WireGuard key"
    except ValueError as error:
        return str(error)


def peers(nodes: Iterable[Node], family: address.Family) -> dict[bytes, Peer]:
    """Return the peers for nodes that have no `problem`, by key; each may speak for its own pods only."""
    found: dict[bytes, Peer] = {}
    for node in nodes:
        said, ip = announced(node), node.ip(family)
        if said is None or ip is None:
            continue
        where = Endpoint(ip, said.port)
        if said.following is not None and said.following != said.key:
            found.setdefault(said.following, Peer(said.following, where))
        networks = frozenset(Network(*cidr) for cidr in node.pod_cidrs)
        found[said.key] = Peer(said.key, where, networks)
    return found


def next_step(keys: Keys, now: float, *, interval: float, fresh: Pair, is_asked: bool = False) -> Keys:
    """Return the keys as they shall be now: the same, with a new one announced, or with the announced one in use.

    `interval` 0 changes keys only when asked. `fresh` is a pair that nobody has used.
    """
    if keys.following is not None:
        is_due = not 0 <= now - keys.announced < OVERLAP  # also when the clock was set back
        return Keys(keys.following, now) if is_due else keys
    is_old = bool(interval) and now - keys.since >= interval
    return replace(keys, following=fresh, announced=now) if is_asked or is_old else keys


def wait(keys: Keys, now: float, *, interval: float) -> float | None:
    """Return the seconds until `next_step` has something to do; None when it never has by itself."""
    if keys.following is not None:
        return max(0.0, OVERLAP - (now - keys.announced))
    return max(0.0, interval - (now - keys.since)) if interval else None


def _key(written: Mapping[str, str], name: str) -> bytes:
    try:
        return parse(written[name])
    except ValueError as error:
        raise ValueError(f"annotation {name} is no WireGuard key") from error
