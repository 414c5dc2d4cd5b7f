"""Whose use of the masquerade bit is a clash."""

from __future__ import annotations

import pytest

from netplane.kernel.marks import read_listing
from netplane.kernel.nft.marks import Use
from netplane_proxy.run.marks import clashes


@pytest.mark.parametrize(
    ("table", "chain", "bits", "is_clash"),
    [
        ("ip mangle", "PREROUTING", 0x4000, True),
        ("ip mangle", "PREROUTING", 0x8000, False),
        ("ip nat", "KUBE-POSTROUTING", 0x4000, False),
        ("ip nat", "NETPLANE-POSTROUTING", 0x4000, False),
        ("ip6 kube-proxy", "masquerading", 0x4000, False),
        ("ip netplane", "postrouting", 0x4000, False),
        ("inet calico", "forward", 0xFFFF0000 | 0x4000, True),
    ],
)
def test_only_others_with_another_meaning_clash(table: str, chain: str, bits: int, is_clash: bool) -> None:
    assert bool(clashes([Use(table, chain, bits, 0)], 14)) is is_clash


def test_each_chain_is_named_once() -> None:
    uses = [Use("ip mangle", "A", 0x4000, 0), Use("ip mangle", "A", 0, 0x4000), Use("ip mangle", "B", 0x4000, 0)]
    assert [use.chain for use in clashes(uses, 14)] == ["A", "B"]


def test_a_mark_without_a_mask_is_about_the_bits_of_its_value() -> None:
    text = "*mangle\n:X - [0:0]\n-A X -m mark --mark 0x2 -j MARK --set-xmark 0x4000/0xffffffff\nCOMMIT\n"
    assert list(read_listing("ip", text)) == [Use("ip mangle", "X", 0x2, 0x4000, "iptables-legacy")]
