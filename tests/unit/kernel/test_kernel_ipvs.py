"""IPVS changes as bytes, and what turns some virtual servers into others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.errors import KernelError
from netplane.kernel.ipvs import diff, listing, wire
from netplane.kernel.ipvs.fake import Kernel
from netplane.kernel.ipvs.objects import IPV4, IPV6, Change, Destination, Held, Load, Scheduling, Server, Virtual
from netplane.kernel.netlink import wire as netlink
from netplane.model import address

WEB = Virtual(IPV4, 6, address.parse("10.96.0.1"), 80)
WEB6 = Virtual(IPV6, 132, address.parse("fd00:96::1"), 80)
DNS = Virtual(IPV4, 17, address.parse("10.96.0.10"), 53)
MARKED = Virtual(IPV4, 0, b"", 0, 0x6E700004)
A, B, C = (Destination(address.parse(f"10.244.1.{number}"), 8080) for number in (1, 2, 3))


def lingers(virtual: Virtual) -> bool:
    return virtual.protocol != 17


@pytest.mark.parametrize(
    "change, command, body",
    [
        (
            # ipvsadm -A -t 10.96.0.1:80 -s rr -p 60
            Change("add", WEB, scheduling=Scheduling("rr", 0, 60)),
            1,
            "54000180 06000100 02000000 06000200 06000000 14000300 0a600001 000000000000000000000000"
            " 06000400 00500000 07000600 72720000 0c000700 01000000 ffffffff 08000800 3c000000 08000900 ffffffff",
        ),
        (
            # ipvsadm -A -f 0x6e700004 -s mh -b mh-fallback
            Change("add", MARKED, scheduling=Scheduling("mh", 8)),
            1,
            "38000180 06000100 02000000 08000500 0400706e 07000600 6d680000 0c000700 08000000 ffffffff"
            " 08000800 00000000 08000900 ffffffff",
        ),
        (
            # ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.1:8080 -m -w 1
            Change("add", WEB, A, 1),
            5,
            "30000180 06000100 02000000 06000200 06000000 14000300 0a600001 000000000000000000000000 06000400 00500000"
            " 48000280 14000100 0af40101 000000000000000000000000 06000200 1f900000 08000300 00000000"
            " 08000400 01000000 08000500 00000000 08000600 00000000 06000b00 02000000",
        ),
        (
            # ipvsadm -d --sctp-service [fd00:96::1]:80 -r [fd00::1]:8080
            Change("remove", WEB6, Destination(address.parse("fd00::1"), 8080)),
            7,
            "30000180 06000100 0a000000 06000200 84000000 14000300 fd000096000000000000000000000001 06000400 00500000"
            " 28000280 14000100 fd000000000000000000000000000001 06000200 1f900000 06000b00 0a000000",
        ),
        # ipvsadm -D -u 10.96.0.10:53
        (
            Change("remove", DNS),
            3,
            "30000180 06000100 02000000 06000200 11000000 14000300 0a60000a 000000000000000000000000 06000400 00350000",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Change) else "",
)
def test_changes_are_packed_as_ipvsadm_does(change: Change, command: int, body: str) -> None:
    assert wire.change(change) == (command, bytes.fromhex(body))


def test_a_dumped_server_is_read_back() -> None:
    for virtual, scheduling in ((WEB, Scheduling("wlc", 0, 30)), (WEB6, Scheduling()), (MARKED, Scheduling("mh", 8))):
        _, body = wire.change(Change("add", virtual, scheduling=scheduling))
        assert wire.read_server(b"\1\1\0\0" + body) == (virtual, scheduling)


def test_a_dumped_destination_is_read_back_with_its_connections() -> None:
    _, body = wire.change(Change("add", WEB, A, 7))
    start = body.index(b"\x48\0\2\x80")
    more = netlink.attribute(wire.ACTIVE, wire.U32.pack(2)) + netlink.attribute(wire.INACTIVE, wire.U32.pack(3))
    found = netlink.nested(wire.DESTINATION, body[start + 4 :], more)
    assert wire.read_destination(b"\5\1\0\0" + found) == (A, Load(7, 5))


def test_changes_read_as_sentences() -> None:
    assert str(Change("add", WEB, A, 1)) == "add destination 10.244.1.1:8080 weight 1 of tcp 10.96.0.1:80"
    assert str(Change("remove", WEB6)) == "remove virtual server sctp [fd00:96::1]:80"
    assert str(Change("add", MARKED)) == "add virtual server mark 0x6e700004 rr"


def test_a_destination_that_leaves_loses_its_weight_first_and_goes_without_connections() -> None:
    have = {WEB: Held(Scheduling(), {A: Load(1, 3), B: Load(1)})}
    want = {WEB: Server(Scheduling(), {B: 1})}
    delta = diff.servers(dict(want), have, lingers=lingers)
    assert (delta.grow, delta.shrink) == ([], [Change("set", WEB, A, 0)])
    diff.apply(delta.shrink, have)
    assert diff.idle(want, have) == []
    have[WEB].loads[A] = Load(0, 0)
    assert diff.idle(want, have) == [Change("remove", WEB, A)]


def test_one_that_comes_back_gets_its_weight_back() -> None:
    have = {WEB: Held(Scheduling(), {A: Load(0, 3)})}
    assert diff.servers({WEB: Server(Scheduling(), {A: 1})}, have, lingers=lingers).grow == [Change("set", WEB, A, 1)]


def test_without_an_end_to_wait_for_it_goes_at_once() -> None:
    have = {DNS: Held(Scheduling(), {A: Load(1, 3), B: Load(1)})}
    assert diff.servers({DNS: Server(Scheduling(), {B: 1})}, have, lingers=lingers).shrink == [Change("remove", DNS, A)]
    assert diff.servers({DNS: None}, have, lingers=lingers).shrink[-1] == Change("remove", DNS)


def test_a_server_nobody_wants_stays_until_its_last_connection_ended() -> None:
    have = {WEB: Held(Scheduling(), {A: Load(1, 1)})}
    diff.apply(diff.servers({WEB: None}, have, lingers=lingers).shrink, have)
    assert (have[WEB].loads, diff.idle({}, have)) == ({A: Load(0, 1)}, [])
    have[WEB].loads[A] = Load(0, 0)
    assert diff.idle({}, have) == [Change("remove", WEB, A), Change("remove", WEB)]


def test_weight_zero_is_wanted_only_of_what_is_there() -> None:
    want = {DNS: Server(Scheduling(), {A: 0, B: 1})}
    fresh = diff.servers(dict(want), {}, lingers=lingers)
    assert fresh.grow == [Change("add", DNS), Change("add", DNS, B, 1)]
    held = {DNS: Held(Scheduling(), {A: Load(1, 2), B: Load(1)})}
    assert diff.servers(dict(want), held, lingers=lingers).shrink == [Change("set", DNS, A, 0)]


def test_the_fake_refuses_what_the_kernel_refuses() -> None:
    kernel = Kernel()
    kernel.commit([Change("remove", WEB), Change("add", WEB)])
    with pytest.raises(KernelError, match=r"add virtual server tcp 10\.96\.0\.1:80 rr: EEXIST"):
        kernel.commit([Change("add", WEB), Change("add", WEB, A, 1)])
    assert kernel.loads(WEB) == {A: Load(1)}


servers = st.dictionaries(
    st.sampled_from([WEB, WEB6, DNS, MARKED]),
    st.builds(
        Server,
        st.sampled_from([Scheduling(), Scheduling("lc", 0, 60)]),
        st.dictionaries(st.sampled_from([A, B, C]), st.just(1)),
    ),
)


@given(servers, servers)
def test_any_servers_become_any_others_and_then_there_is_nothing_to_do(
    before: dict[Virtual, Server], after: dict[Virtual, Server]
) -> None:
    kernel = Kernel()
    for want in (before, after):
        have = kernel.servers()
        delta = diff.servers(diff.everything(want, have), have, lingers=lingers)
        kernel.commit([*delta.grow, *delta.shrink])
        kernel.commit(diff.idle(want, kernel.servers()))
        held = kernel.servers()
        assert {one: held[one].scheduling for one in held} == {one: want[one].scheduling for one in want}
        assert {one: set(held[one].loads) for one in held} == {one: set(want[one].weights) for one in want}
        assert not diff.servers(diff.everything(want, held), held, lingers=lingers)


def test_a_listing_tells_the_destinations_of_every_server() -> None:
    # ipvsadm(8)'s source of truth, /proc/net/ip_vs, of Linux 6.1.
    text = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:0050 rr persistent 10800 FFFFFFFF
  -> 0AF40101:1F90      Masq    1      2          1
  -> 0AF40102:1F90      Masq    0      0          0
SCTP [fd00:0096:0000:0000:0000:0000:0000:0001]:0050 rr
  -> [fd00:0244:0000:0000:0000:0000:0000:0001]:1F90      Masq    1      0          7
UDP  0A60000A:0035 rr ops
FWM  6E700004 mh
  -> 0AF40103:1F90      Masq    1      0          0
FWM  6E700004 rr
  -> [fd00:0244:0000:0000:0000:0000:0000:0001]:1F90      Masq    1      0          0
FWM  6E700008 rr
IP_47  0A60000B:0000 rr
"""
    away = Destination(address.parse("fd00:244::1"), 8080)
    assert listing.read(text) == {
        WEB: {A: Load(1, 3), B: Load(0, 0)},
        WEB6: {away: Load(1, 7)},
        DNS: {},
        MARKED: {C: Load(1)},
        MARKED._replace(family=IPV6): {away: Load(1)},
        Virtual(IPV4, 47, address.parse("10.96.0.11"), 0): {},
    }


def test_a_listings_stamp_follows_servers_and_destinations_and_no_connection() -> None:
    def stamp(*, server: str = "TCP  0A600001:0050 rr  ", weight: int = 1, active: int = 0, inactive: int = 0) -> int:
        goal = f"  -> 0AF40101:1F90      Masq    {weight:<6} {active:<10} {inactive:<10}"
        return listing.stamp(f"Prot LocalAddress:Port Scheduler Flags\n{server}\n{goal}\n".encode())

    assert stamp() == stamp(active=7) == stamp(active=4294967295, inactive=1)
    assert len({stamp(), stamp(weight=0), stamp(server="TCP  0A600001:0051 rr  "), stamp(server="")}) == 4
