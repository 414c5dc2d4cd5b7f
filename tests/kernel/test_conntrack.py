"""Tracked connections: listed and deleted one by one, in a network namespace of their own."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import conntrack, netns
from netplane.kernel.conntrack import AF_INET, AF_INET6, Flow
from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import wire as netlink

TCP, UDP = 6, 17
FAMILIES = {AF_INET: "10.0.0.{}", AF_INET6: "fd00::{:x}"}


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def flow(number: int, *, family: int = AF_INET, protocol: int = UDP) -> Flow:
    """A connection to 53 that somebody else answers on 5353."""
    one = FAMILIES[family]
    addresses = packed(one.format(number)), packed(one.format(200)), packed(one.format(100 + number))
    return Flow(protocol, addresses[0], 1000 + number, addresses[1], 53, addresses[2], 5353)


def track(raw: socket.socket, entry: Flow) -> None:
    """Have the kernel track a connection that no packet made."""
    family = AF_INET if len(entry.source) == 4 else AF_INET6
    back = Flow(entry.protocol, entry.answering, entry.answering_port, entry.source, entry.source_port, b"", 0)
    reply = bytearray(conntrack._original(back))
    struct.pack_into("=H", reply, 2, conntrack.TUPLE_REPLY | netlink.NESTED)
    body = struct.pack("=BBH", family, 0, 0) + conntrack._original(entry) + bytes(reply)
    body += netlink.attribute(7, struct.pack(">I", 600))
    if entry.protocol == TCP:
        body += netlink.nested(4, netlink.nested(1, netlink.attribute(1, b"\x03")))
    raw.send(struct.pack("=IHHII", 16 + len(body), 0x100, 0x605, 1, 0) + body)
    assert struct.unpack_from("=i", raw.recv(4096), 16)[0] == 0


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[conntrack.Socket]:
    """Forty UDP connections in each family, and one of TCP."""
    place = str(tmp_path / "ns")
    netns.create(place)
    try:
        with netns.inside(place), contextlib.closing(conntrack.Socket()) as made:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as raw:
                for family in FAMILIES:
                    for number in range(1, 41):
                        track(raw, flow(number, family=family))
                track(raw, flow(7, protocol=TCP))
            yield made
    finally:
        netns.remove_if_present(place)


@pytest.mark.parametrize("family", FAMILIES)
def test_flows_are_listed_by_family_and_protocol(tracked: conntrack.Socket, family: int) -> None:
    assert sorted(tracked.flows(family)) == sorted(flow(number, family=family) for number in range(1, 41))


def test_another_protocol_is_listed_alone(tracked: conntrack.Socket) -> None:
    assert tracked.flows(AF_INET, protocol=TCP) == [flow(7, protocol=TCP)]


@pytest.mark.parametrize("family", FAMILIES)
def test_deleting_takes_those_flows_and_no_other(tracked: conntrack.Socket, family: int) -> None:
    gone = [flow(number, family=family) for number in (3, 4, 5)]
    assert tracked.delete(gone) == 3
    assert sorted(tracked.flows(family)) == sorted({flow(n, family=family) for n in range(1, 41)} - set(gone))
    assert len(tracked.flows(AF_INET6 if family == AF_INET else AF_INET)) == 40
    assert tracked.flows(AF_INET, protocol=TCP)


def test_deleting_what_is_gone_is_no_failure(tracked: conntrack.Socket) -> None:
    assert tracked.delete([flow(1), flow(99), flow(2)]) == 2
    assert tracked.delete([flow(1)]) == 0


def test_nothing_to_delete_deletes_nothing(tracked: conntrack.Socket) -> None:
    assert tracked.delete([]) == 0
    assert len(tracked.flows(AF_INET)) == 40


def test_more_than_one_message_can_hold_are_deleted(tracked: conntrack.Socket) -> None:
    every = [flow(number) for number in range(1, 41)]
    assert tracked.delete(every * 11) == 40
    assert tracked.flows(AF_INET) == []


def test_a_kernel_without_filters_is_asked_for_all(tracked: conntrack.Socket) -> None:
    whole = tracked._dump(struct.pack("=BBH", AF_INET, 0, 0))
    assert sum(one.protocol == UDP for one in whole) == 40
    assert sum(one.protocol == TCP for one in whole) == 1


def test_a_refusal_says_what_was_tried(tracked: conntrack.Socket) -> None:
    bad = flow(1)._replace(source=b"\1\2")
    with pytest.raises(KernelError, match="delete 1 tracked connections: E"):
        tracked.delete([bad])
