"""The bytes of rtnetlink messages, as the kernel's own tools send them, and the order of changes."""

from __future__ import annotations

import ipaddress

import pytest

from netplane.kernel.link import diff, encode, events, wire
from netplane.kernel.link.objects import (
    Address,
    Command,
    Forward,
    LinkChange,
    LinkName,
    Neighbour,
    Route,
    Veth,
    add,
    change,
    describe,
    remove,
    replace,
)
from netplane.kernel.netlink import wire as netlink

MAC = bytes.fromhex("02000000000a")


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    "command, kind, flags, payload",
    [
        (
            # ip addr add 10.1.0.2/32 dev 5
            add(Address(5, ip("10.1.0.2"), 32)),
            wire.NEWADDR,
            wire.CREATE | wire.EXCL,
            "02208000 05000000 0800 0200 0a010002 0800 0100 0a010002 0800 0800 80000000",
        ),
        (
            # ip route replace 10.2.0.0/24 via 10.2.0.0 dev 7 onlink proto 110
            replace(Route(ip("10.2.0.0"), 24, 7, ip("10.2.0.0"), 110, onlink=True)),
            wire.NEWROUTE,
            wire.CREATE | wire.REPLACE,
            "02180000 fe6e0001 04000000 0800 0100 0a020000 0800 0500 0a020000 0800 0400 07000000",
        ),
        (
            # ip route del unreachable 10.1.0.0/24 proto 110
            remove(Route(ip("10.1.0.0"), 24, protocol=110, type="unreachable")),
            wire.DELROUTE,
            0,
            "02180000 fe6e0007 00000000 0800 0100 0a010000",
        ),
        (
            # ip neigh replace 10.2.0.0 lladdr 02:..:0a dev 7 nud permanent
            replace(Neighbour(7, ip("10.2.0.0"), MAC)),
            wire.NEWNEIGH,
            wire.CREATE | wire.REPLACE,
            "02000000 07000000 8000 0000 0800 0100 0a020000 0a00 0200 02000000000a 0000",
        ),
        (
            # bridge fdb replace 02:..:0a dev 7 dst 172.30.0.12 self
            replace(Forward(7, MAC, ip("172.30.0.12"))),
            wire.NEWNEIGH,
            wire.CREATE | wire.REPLACE,
            "07000000 07000000 c000 0200 0a00 0200 02000000000a 0000 0800 0100 ac1e000c",
        ),
        (
            # ip link set dev 7 up
            change(LinkChange(7, is_up=True)),
            wire.NEWLINK,
            0,
            "00000000 07000000 01000000 01000000",
        ),
        (
            # ip link del np1
            remove(LinkName("np1")),
            wire.DELLINK,
            0,
            "00000000 00000000 00000000 00000000 0800 0300 6e703100",
        ),
    ],
)  # fmt: skip
def test_commands_are_packed_as_ip_and_bridge_do(command: Command, kind: int, flags: int, payload: str) -> None:
    message = encode.command(command)
    assert (message.type, message.flags) == (kind, flags)
    assert message.body.hex() == payload.replace(" ", "")


def test_commands_read_as_people_write_them() -> None:
    route = Route(ip("10.2.0.0"), 24, 7, ip("10.2.0.0"), 110, ip("10.1.0.0"), onlink=True)
    assert describe(route) == "route 10.2.0.0/24 via 10.2.0.0 dev 7 onlink src 10.1.0.0"
    assert str(add(Veth("np1", "eth0"))) == "add link np1 type veth peer eth0"
    assert str(change(LinkChange(name="x", mtu=9, inet=(("rp_filter", 1),)))) == "change link x: mtu 9 rp_filter=1"


def test_a_route_never_stands_without_what_it_needs() -> None:
    node = diff.Paths(
        frozenset({Route(ip("10.2.0.0"), 24, 7, ip("10.2.0.0"))}),
        frozenset({Neighbour(7, ip("10.2.0.0"), MAC)}),
        frozenset({Forward(7, MAC, ip("172.30.0.12"))}),
    )
    kinds = [type(command.thing) for command in diff.paths(node, diff.Paths())]
    assert kinds == [Forward, Neighbour, Route]
    kinds = [type(command.thing) for command in diff.paths(diff.Paths(), node)]
    assert kinds == [Route, Neighbour, Forward]
    assert diff.paths(node, node) == ()


def test_an_event_tells_who_changed_what() -> None:
    payload = encode.command(remove(Route(ip("10.2.0.0"), 24, 7, protocol=110))).body
    data = netlink.HEADER.pack(netlink.HEADER.size + len(payload), wire.DELROUTE, 0, 0, 4711) + payload
    assert events.read(data) == [events.Event("route", True, 4711, 7, protocol=110)]
    assert events.read(data[: netlink.HEADER.size - 1]) == []
