"""WireGuard's settings as generic netlink bytes (include/uapi/linux/wireguard.h). Sending is run's."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from netplane.kernel.netlink.wire import attribute, attributes, nested
from netplane.kernel.wireguard.objects import Change, Device, Endpoint, Identity, Network, Peer

FAMILY = "wireguard"
GET_DEVICE, SET_DEVICE = 0, 1
INDEX, NAME, PRIVATE_KEY, PUBLIC_KEY, FLAGS, PORT, MARK, PEERS = range(1, 9)
PEER_KEY, PEER_PRESHARED, PEER_FLAGS, PEER_ENDPOINT, PEER_KEEPALIVE, PEER_HANDSHAKE = range(1, 7)
PEER_NETWORKS = 9
REMOVE, REPLACE_NETWORKS = 1, 2
NETWORK_FAMILY, NETWORK_ADDRESS, NETWORK_LENGTH = 1, 2, 3
AF_INET, AF_INET6 = 2, 10
U16, U32 = struct.Struct("=H"), struct.Struct("=I")
SIN, SIN6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2sI16sI")
TIME = struct.Struct("=qq")
LARGEST = 48 << 10
"""Of the list of peers in one message: an attribute's length has 16 bits."""


def identity(index: int, mine: Identity) -> bytes:
    """Return the attributes that set a device's key and port."""
    return (
        attribute(INDEX, U32.pack(index)) + attribute(PRIVATE_KEY, mine.private) + attribute(PORT, U16.pack(mine.port))
    )


def changes(index: int, wanted: Sequence[Change]) -> Iterator[bytes]:
    """Return the attributes of as many messages as the changes take, in order."""
    packed: list[bytes] = []
    size = 0
    for change in wanted:
        one = nested(len(packed), _peer(change))
        if size + len(one) > LARGEST and packed:
            yield attribute(INDEX, U32.pack(index)) + nested(PEERS, *packed)
            packed, size = [], 0
        packed.append(one)
        size += len(one)
    if packed:
        yield attribute(INDEX, U32.pack(index)) + nested(PEERS, *packed)


def request(index: int) -> bytes:
    """Return the attributes that ask for a device."""
    return attribute(INDEX, U32.pack(index))


def read(bodies: Iterable[bytes], index: int) -> Device:
    """Read a device out of a dump's messages. A peer with many networks goes on in the next message."""
    public, port = b"", 0
    peers: dict[bytes, Peer] = {}
    handshakes: dict[bytes, float] = {}
    for body in bodies:
        for kind, start, stop in attributes(body, 4, len(body)):
            if kind == PUBLIC_KEY:
                public = body[start:stop]
            elif kind == PORT:
                port = U16.unpack_from(body, start)[0]
            elif kind == PEERS:
                for _, first, last in attributes(body, start, stop):
                    peer, handshake = _read_peer(body, first, last)
                    known = peers.get(peer.key)
                    peers[peer.key] = (known and Peer(peer.key, known.endpoint, known.networks | peer.networks)) or peer
                    handshakes[peer.key] = max(handshake, handshakes.get(peer.key, 0.0))
    return Device(index, public, port, peers, handshakes)


def _peer(change: Change) -> bytes:
    key = attribute(PEER_KEY, change.peer.key)
    if change.verb == "remove":
        return key + attribute(PEER_FLAGS, U32.pack(REMOVE))
    out = key + attribute(PEER_FLAGS, U32.pack(REPLACE_NETWORKS))
    if change.peer.endpoint is not None:
        out += attribute(PEER_ENDPOINT, _endpoint(change.peer.endpoint))
    networks = [nested(number, _network(one)) for number, one in enumerate(sorted(change.peer.networks))]
    return out + nested(PEER_NETWORKS, *networks)


def _endpoint(where: Endpoint) -> bytes:
    port = where.port.to_bytes(2, "big")
    if len(where.address) == 4:
        return SIN.pack(AF_INET, port, where.address)
    return SIN6.pack(AF_INET6, port, 0, where.address, 0)


def _network(one: Network) -> bytes:
    family = AF_INET if len(one.address) == 4 else AF_INET6
    return (
        attribute(NETWORK_FAMILY, U16.pack(family))
        + attribute(NETWORK_ADDRESS, one.address)
        + attribute(NETWORK_LENGTH, bytes([one.length]))
    )


def _read_peer(body: bytes, start: int, stop: int) -> tuple[Peer, float]:
    found = {kind: body[a:b] for kind, a, b in attributes(body, start, stop)}
    seconds, nanoseconds = TIME.unpack(found[PEER_HANDSHAKE]) if PEER_HANDSHAKE in found else (0, 0)
    listed = found.get(PEER_NETWORKS, b"")
    networks = frozenset(_read_network(listed, a, b) for _, a, b in attributes(listed, 0, len(listed)))
    return Peer(found[PEER_KEY], _read_endpoint(found.get(PEER_ENDPOINT, b"")), networks), seconds + nanoseconds / 1e9


def _read_network(listed: bytes, start: int, stop: int) -> Network:
    found = {kind: listed[a:b] for kind, a, b in attributes(listed, start, stop)}
    return Network(found[NETWORK_ADDRESS], found[NETWORK_LENGTH][0])


def _read_endpoint(packed: bytes) -> Endpoint | None:
    if len(packed) < SIN.size:
        return None
    if U16.unpack_from(packed)[0] == AF_INET:
        _, port, address = SIN.unpack_from(packed)
    else:
        _, port, _, address, _ = SIN6.unpack_from(packed)
    return Endpoint(address, int.from_bytes(port, "big"))
