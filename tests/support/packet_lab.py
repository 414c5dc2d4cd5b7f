"""A node in a network namespace, and everything around it in another, played by raw frames.

One link joins the two. The world has no stack: it sends first packets from any address it likes and writes down what
the node sends out. Each packet carries a number (TCP sequence, UDP payload, SCTP tag) that no translation changes, so
that hundreds can be under way at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from netplane.kernel import netns
from netplane.model import address
from netplane.model.address import Packed
from netplane_proxy.plan.oracle import Packet

MAC_NODE, MAC_WORLD = "02:00:00:00:00:01", "02:00:00:00:00:02"
NODE_V4, NODE_V6 = "172.30.0.11", "fd00:30::11"
TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
ETH_V4, ETH_V6 = 0x0800, 0x86DD
PACKET_OUTGOING = 4
_QUIET_SECONDS = 0.03

_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv4.icmp_ratemask=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.ipv6.icmp.ratemask=",
    "net.netfilter.nf_conntrack_checksum=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
)


class Left(NamedTuple):
    """How a packet was seen to leave: `end` is sent, refused or delivered (to the node itself)."""

    end: str
    source: Packed = b""
    destination: Packed = b""
    port: int = 0


@dataclass(slots=True)
class PacketLab:
    """The two namespaces, wired. Its sockets stay in the namespaces they were made in."""

    node: str
    wire: socket.socket
    senders: dict[int, socket.socket]
    conntrack: socket.socket
    listeners: list[socket.socket] = field(default_factory=list)
    number: int = 1

    def send(self, packets: Iterable[Packet]) -> list[Left | None]:
        """Send first packets of as many connections, and return how each left; None for those nobody saw again."""
        sent = list(packets)
        self.forget_connections()
        first = self.number
        self.number += len(sent)
        self._drain({}, first, first, 0.0)
        seen: dict[int, Left] = {}
        for at, packet in enumerate(sent):
            self._send(packet, first + at)
            if at % 64 == 63:
                self._drain(seen, first, self.number, 0.0)
        self._drain(seen, first, self.number, _QUIET_SECONDS)
        return [seen.get(first + at) for at in range(len(sent))]

    def flow(self, packet: Packet) -> Flow:
        """Return one connection that sends again and again from the same port."""
        self.number += 1
        return Flow(self, packet, self.number - 1)

    def again(self, packet: Packet, number: int) -> Left | None:
        """Send a packet of a connection that may be there already, and return how it left."""
        seen: dict[int, Left] = {}
        self._drain({}, number, number, 0.0)
        self._send(packet, number)
        self._drain(seen, number, number + 1, _QUIET_SECONDS)
        return seen.get(number)

    def forget_connections(self) -> None:
        """Flush connection tracking: source ports are used again sooner or later."""
        self.conntrack.send(struct.pack("=IHHIIBBH", 20, 0x0102, 0x5, 1, 0, 0, 0, 0))
        assert struct.unpack_from("=i", self.conntrack.recv(4096), 16)[0] == 0

    def _send(self, packet: Packet, number: int) -> None:
        whole = ip_packet(packet, number)
        if not packet.from_node:
            kind = ETH_V4 if len(packet.source) == 4 else ETH_V6
            mac = bytes.fromhex(MAC_NODE.replace(":", "")), bytes.fromhex(MAC_WORLD.replace(":", ""))
            self.wire.send(mac[0] + mac[1] + struct.pack("!H", kind) + whole)
            return
        with contextlib.suppress(PermissionError):  # EPERM: the rules dropped or refused it
            target = (address.text(packet.destination), 0)
            self.senders[len(packet.source)].sendto(whole, target)

    def _drain(self, seen: dict[int, Left], first: int, end: int, quiet: float) -> None:
        """Read all that came, until nothing has for a while. Delivery to the node wins over its own refusal."""
        sockets = [self.wire, *self.listeners]
        while True:
            readable, _, _ = select.select(sockets, [], [], quiet)
            if not readable:
                return
            for one in readable:
                for number, left in _read(one, is_wire=one is self.wire, is_loopback=one is self.listeners[0]):
                    if first <= number < end and not (number in seen and left.end == "refused"):
                        seen[number] = left


@dataclass(frozen=True, slots=True)
class Flow:
    """A client that keeps sending."""

    lab: PacketLab
    packet: Packet
    number: int

    def send(self) -> Packed:
        """Send once more, and return where it went; the address of nobody when it did not arrive."""
        left = self.lab.again(self.packet, self.number)
        return left.destination if left is not None and left.end == "sent" else bytes(len(self.packet.source))


def _read(one: socket.socket, *, is_wire: bool, is_loopback: bool) -> Iterator[tuple[int, Left]]:
    with contextlib.suppress(BlockingIOError):
        while True:
            data, sender = one.recvfrom(4096)
            if is_wire or is_loopback:
                if sender[2] == PACKET_OUTGOING and is_wire:
                    continue
                found = read_packet(data[14:])
                if found is not None and (is_wire or found[1].end == "refused"):
                    yield found
            else:
                number = _number(one.proto, data[(data[0] & 15) * 4 :] if one.family == socket.AF_INET else data)
                if number is not None:
                    yield number, Left("delivered")


def ip_packet(packet: Packet, number: int) -> bytes:
    """Return the first packet of a connection, from a source port that its number tells."""
    body = _transport(packet, number)
    if len(packet.source) == 4:
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, packet.protocol, 0, packet.source, packet.destination
        )
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), packet.protocol, 64, packet.source, packet.destination) + body


def _transport(packet: Packet, number: int) -> bytes:
    source_port = 20000 + number % 40000
    if packet.protocol == SCTP:
        init = struct.pack("!BBHIIHHI", 1, 0, 20, number, 65536, 1, 1, number)
        return struct.pack("!HHII", source_port, packet.port, 0, 0) + init
    if packet.protocol == TCP:
        body = struct.pack("!HHIIBBHHH", source_port, packet.port, number, 0, 5 << 4, 2, 65535, 0, 0)
        at = 16
    else:
        body = struct.pack("!HHHHI", source_port, packet.port, 12, 0, number)
        at = 6
    pseudo = packet.source + packet.destination + struct.pack("!II", len(body), packet.protocol)
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total) & 0xFFFF


def read_packet(data: bytes) -> tuple[int, Left] | None:
    """Return the number and fate that a packet on the wire tells of; None for what is not ours."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        protocol, source, destination, body = data[9], data[12:16], data[16:20], data[(data[0] & 15) * 4 :]
    else:
        protocol, source, destination, body = data[6], data[8:24], data[24:40], data[40:]
    if (protocol == ICMP and body[:1] == b"\x03") or (protocol == ICMP6 and body[:1] == b"\x01"):
        inner = read_packet(body[8:])
        return (inner[0], Left("refused")) if inner else None
    if protocol == TCP and body[13] & 4:  # RST answers with our number plus one
        return int.from_bytes(body[8:12], "big") - 1, Left("refused")
    number = _number(protocol, body)
    if number is None:
        return None
    return number, Left("sent", source, destination, int.from_bytes(body[2:4], "big"))


def _number(protocol: int, body: bytes) -> int | None:
    offset = {TCP: 4, UDP: 8, SCTP: 16}.get(protocol)
    if offset is None or len(body) < offset + 4:
        return None
    return int.from_bytes(body[offset : offset + 4], "big")


@contextlib.contextmanager
def packet_lab() -> Iterator[PacketLab]:
    """Make the namespaces and the sockets, and remove all of it."""
    name = f"np-{uuid.uuid4().hex[:8]}"
    node, world = f"/run/netns/{name}-n", f"/run/netns/{name}-w"
    with contextlib.ExitStack() as stack:
        for path in (node, world):
            netns.create(path)
            stack.callback(netns.remove_if_present, path)
        _wire(f"{name}-n", f"{name}-w")
        with netns.inside(world):
            wire = stack.enter_context(_packet_socket("w0"))
        with netns.inside(node):
            conntrack = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
            senders = {4: _raw(socket.AF_INET, socket.IPPROTO_RAW), 16: _raw(socket.AF_INET6, socket.IPPROTO_RAW)}
            listeners = [_packet_socket("lo")]
            for family in (socket.AF_INET, socket.AF_INET6):
                listeners += [_raw(family, protocol) for protocol in (TCP, UDP, SCTP)]
        for one in (conntrack, *senders.values(), *listeners):
            stack.enter_context(one)
        time.sleep(0.05)  # the link comes up on its own time
        yield PacketLab(node, wire, senders, conntrack, listeners)


def _wire(node: str, world: str) -> None:
    _run(f"ip link add n0 netns {node} address {MAC_NODE} type veth peer name w0 netns {world} address {MAC_WORLD}")
    # Without ARP and neighbour discovery the node sends every frame at once, to an address nobody minds.
    for line in (
        f"ip -n {world} link set w0 arp off up",
        f"ip -n {node} link set lo up",
        f"ip netns exec {node} sysctl -qw {' '.join(_SYSCTLS)}",
        f"ip -n {node} link set n0 arp off up",
        f"ip -n {node} addr add {NODE_V4}/24 dev n0",
        f"ip -n {node} addr add {NODE_V6}/64 dev n0 nodad",
        f"ip -n {node} route add default dev n0",
        f"ip -n {node} -6 route add default dev n0",
        f"ip netns exec {world} sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
    ):
        _run(line)


def _run(line: str) -> None:
    done = subprocess.run(line.split(), capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def _packet_socket(link: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.bind((link, 3))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.setblocking(False)
    return made


def _raw(family: int, protocol: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    made.setblocking(False)
    return made
