"""Which peers a node's WireGuard device has, what leaves in plain, and when keys change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netplane.kernel.link.objects import Route
from netplane.kernel.wireguard import diff, wire
from netplane.kernel.wireguard.fake import Kernel, public
from netplane.kernel.wireguard.objects import Change, Endpoint, Identity, Network, Peer, parse, text
from netplane.lib import clock
from netplane.lib.cli import UserError
from netplane.model import address
from netplane.model.node import ZONE_LABEL, Node
from netplane_cni.plan import fabric, wireguard
from netplane_cni.plan.wireguard import Keys, Pair
from netplane_cni.run import encryption

UNDERLAY = fabric.Underlay(index=2, mtu=1500, networks=(address.prefix("172.30.0.0/24"),))
OLD, NEW = bytes([1]) * 32, bytes([2]) * 32
A, B, C = (Pair(bytes([n]) * 32, bytes([n + 100]) * 32) for n in (1, 2, 3))


def node(number: int, *, key: bytes | None = None, zone: str = "", **said: str) -> Node:
    annotations = {wireguard.PUBLIC_KEY: text(key), wireguard.PORT: "51820"} if key else {}
    return Node(
        f"node-{number}",
        internal_ips=(address.parse(f"172.30.0.{number}"),),
        pod_cidrs=(address.prefix(f"10.244.{number}.0/24"), address.prefix(f"fd00:244:0:{number}::/64")),
        labels={ZONE_LABEL: zone} if zone else {},
        annotations={**annotations, **said},
    )


def planned(*nodes: Node, encryption: fabric.Encryption = "all") -> tuple[fabric.Plan, set[Route]]:
    settings = fabric.Settings("wireguard", encryption=encryption)
    me = nodes[0]
    plan = fabric.plan({one.name: one for one in nodes}, me, underlay=UNDERLAY, settings=settings)
    found = fabric.paths(plan, me, fabric.Where(UNDERLAY, 7, 9))
    return plan, set(found.routes)


def ways(routes: set[Route], network: str) -> list[tuple[str, int]]:
    packed = address.prefix(network)
    return sorted((r.type, r.index) for r in routes if (r.network, r.length) == packed)


def test_every_way_is_encrypted_and_shut_behind() -> None:
    plan, routes = planned(node(1), node(2, key=OLD))
    assert plan.tunnel is None
    assert plan.mtu == 1440
    for network in ("10.244.2.0/24", "fd00:244:0:2::/64"):
        assert ways(routes, network) == [("unicast", 9), ("unreachable", 0)]


def test_a_node_without_key_is_named_and_nothing_goes_to_it_in_plain() -> None:
    plan, routes = planned(node(1), node(2))
    assert plan.problems == {"node-2": "it has announced no WireGuard key"}
    assert ways(routes, "10.244.2.0/24") == [("unreachable", 0)]


@pytest.mark.parametrize(
    "said, problem",
    [
        ({wireguard.PUBLIC_KEY: "x"}, f"annotation {wireguard.PUBLIC_KEY} is no WireGuard key"),
        ({wireguard.PORT: "many"}, f"annotation {wireguard.PORT} is not a number"),
        ({wireguard.PORT: "70000"}, f"annotation {wireguard.PORT} 70000 is not a port"),
        ({wireguard.NEXT_KEY: "AAAA"}, f"annotation {wireguard.NEXT_KEY} is no WireGuard key"),
    ],
)
def test_what_makes_no_sense_is_named(said: dict[str, str], problem: str) -> None:
    plan, _ = planned(node(1), node(2, key=OLD, **said))
    assert plan.problems == {"node-2": problem}


def test_between_zones_packets_are_encrypted_and_within_one_they_are_not() -> None:
    near, far, nowhere = node(2, zone="a"), node(3, zone="b", key=OLD), node(4, key=NEW)
    plan, routes = planned(node(1, zone="a"), near, far, nowhere, encryption="zones")
    assert [one.name for one in plan.sealed] == ["node-3", "node-4"]
    assert ways(routes, "10.244.2.0/24") == [("unicast", UNDERLAY.index)]
    assert ways(routes, "10.244.3.0/24") == [("unicast", 9), ("unreachable", 0)]
    assert plan.tunnel is not None
    assert plan.mtu == 1440


def test_both_keys_are_peers_and_the_one_in_use_has_the_networks() -> None:
    other = node(2, key=OLD, **{wireguard.NEXT_KEY: text(NEW)})
    found = wireguard.peers([other], address.Family.V4)
    where = Endpoint(address.parse("172.30.0.2"), 51820)
    assert found[NEW] == Peer(NEW, where)
    assert found[OLD] == Peer(OLD, where, frozenset(Network(*cidr) for cidr in other.pod_cidrs))


def test_networks_move_to_the_new_key_before_the_old_one_goes() -> None:
    where, networks = Endpoint(b"\1\2\3\4", 5), frozenset({Network(b"\n\0\0\0", 24)})
    before = {OLD: Peer(OLD, where, networks), NEW: Peer(NEW, where)}
    after = {NEW: Peer(NEW, where, networks)}
    changes = diff.peers(after, before, told=before)
    assert [(one.verb, one.peer.key) for one in changes] == [("set", NEW), ("remove", OLD)]
    kernel = Kernel()
    kernel.add(3)
    kernel.commit(3, diff.peers(before, {}))
    kernel.commit(3, changes)
    assert kernel.device(3).peers == after
    assert diff.peers(after, kernel.device(3).peers) == ()


def test_an_endpoint_that_the_kernel_learnt_stays_until_another_is_wanted() -> None:
    wanted, learnt = Peer(OLD, Endpoint(b"\1\1\1\1", 5)), Peer(OLD, Endpoint(b"\2\2\2\2", 6))
    assert diff.peers({OLD: wanted}, {OLD: learnt}, told={OLD: wanted}) == ()
    moved = Peer(OLD, Endpoint(b"\3\3\3\3", 5))
    assert diff.peers({OLD: moved}, {OLD: learnt}, told={OLD: wanted}) == (Change("set", moved),)


def test_a_key_is_announced_before_it_is_used() -> None:
    keys = Keys(A, 100.0)
    assert wireguard.next_step(keys, 150.0, interval=100.0, fresh=B) == keys
    announced = wireguard.next_step(keys, 200.0, interval=100.0, fresh=B)
    assert announced == replace(keys, following=B, announced=200.0)
    assert wireguard.next_step(announced, 205.0, interval=100.0, fresh=C, is_asked=True) == announced
    assert wireguard.next_step(announced, 210.0, interval=100.0, fresh=C) == Keys(B, 210.0)
    assert wireguard.wait(announced, 205.0, interval=100.0) == 5.0
    assert wireguard.wait(keys, 205.0, interval=0) is None


def test_a_clock_set_back_does_not_keep_a_key_waiting_for_ever() -> None:
    announced = Keys(A, 100.0, B, 200.0)
    assert wireguard.next_step(announced, 50.0, interval=0, fresh=C) == Keys(B, 50.0)


def test_peers_beyond_one_message_go_in_several() -> None:
    where, networks = Endpoint(b"\1\2\3\4", 5), frozenset({Network(b"\n\0\0\0", 24), Network(bytes(16), 64)})
    changes = [Change("set", Peer(number.to_bytes(32, "big"), where, networks)) for number in range(2000)]
    bodies = list(wire.changes(3, changes))
    assert len(bodies) > 1
    assert max(map(len, bodies)) < 65536


def test_what_is_written_can_be_read() -> None:
    peer = Peer(OLD, Endpoint(address.parse("fd00::1"), 5), frozenset({Network(b"\n\0\0\0", 24)}))
    (body,) = wire.changes(3, [Change("set", peer)])
    assert wire.read([bytes(4) + body], 3).peers == {OLD: peer}


def test_private_keys_are_not_printed() -> None:
    assert "\\x01" not in repr(Identity(OLD, 1)) + repr(A).replace(repr(A.public), "")


def test_a_key_pair_is_kept_for_root_alone_and_used_again(tmp_path: Path) -> None:
    first = encryption.Encryption(tmp_path, 51820, clock.Fake())
    again = encryption.Encryption(tmp_path, 51820, clock.Fake())
    assert first.annotations == again.annotations
    assert (tmp_path / encryption.FILE).stat().st_mode & 0o777 == 0o600
    assert parse(first.public)


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / encryption.FILE).write_text("{}")
    with pytest.raises(UserError, match=r"wireguard\.json holds no WireGuard key"):
        encryption.Encryption(tmp_path, 51820, clock.Fake())


def test_the_fake_derives_public_keys() -> None:
    kernel = Kernel()
    kernel.add(3)
    kernel.identify(3, Identity(OLD, 7))
    assert (kernel.device(3).public, kernel.device(3).port) == (public(OLD), 7)
