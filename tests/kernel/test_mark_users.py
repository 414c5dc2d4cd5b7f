"""Who uses which bits of the packet mark is read off the kernel's rules, whichever tool wrote them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import marks, netns
from netplane.lib import cli
from netplane_proxy.run import marks as check


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "host")
    netns.create(path)
    yield path
    netns.remove_if_present(path)


def users_after(place: str, *commands: str) -> list[str]:
    def act() -> list[str]:
        for command in commands:
            subprocess.run(command.split(" ", 3) if "nft" in command[:4] else command.split(), check=True, timeout=10)
        return [f"{use.table} {use.chain} {use.looks_at:#x} {use.writes:#x} {use.tool}" for use in marks.users()]

    return netns.run_in(place, act)


def nft(place: str, rule: str) -> list[str]:
    def act() -> list[str]:
        text = f"table inet t {{ chain c {{ {rule}; }}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, timeout=10)
        return [f"{use.looks_at:#x} {use.writes:#x}" for use in marks.users()]

    return netns.run_in(place, act)


@pytest.mark.parametrize(
    ("rule", "bits"),
    [
        ("meta mark 0x1 accept", "0x1 0x0"),
        ("meta mark & 0xff00 == 0x4000 accept", "0xff00 0x0"),
        ("meta mark & 0x4000 != 0 accept", "0x4000 0x0"),
        ("meta mark set 0x42", "0x0 0x42"),
        ("meta mark set meta mark | 0x4000", "0x0 0x4000"),
        ("meta mark set meta mark & 0xffff0fff", "0x0 0xf000"),
        ("meta mark set (meta mark & 0xfffffff0) | 0x3", "0x0 0xf"),
        ("meta mark & 0xf0 == { 0x10, 0x20 } meta mark set meta mark ^ 0x1", "0xf0 0x1"),
    ],
)
def test_bits_are_read_off_nft_rules(place: str, rule: str, bits: str) -> None:
    assert nft(place, rule) == [bits]


@pytest.mark.parametrize(
    "rule", ["ct mark 0x4000 accept", "meta mark set ct mark", "ct mark set meta mark", "tcp dport 16384 accept"]
)
def test_rules_that_name_no_bits_of_the_mark_use_none(place: str, rule: str) -> None:
    assert nft(place, rule) == []


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"])
def test_bits_are_read_off_the_rules_of_iptables(place: str, tool: str) -> None:
    found = users_after(
        place,
        f"{tool} -w -A INPUT -m mark --mark 0x4000/0xc000 -j ACCEPT",
        f"{tool} -w -A INPUT -m connmark --mark 0x8/0x8 -j ACCEPT",
        f"{tool} -w -t mangle -A PREROUTING -j MARK --set-xmark 0x10/0x30",
        f"{tool} -w -t mangle -A OUTPUT -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff",
    )
    family = "ip6" if tool.startswith("ip6") else "ip"
    name = "iptables-legacy" if "legacy" in tool else "nft"
    assert sorted(found) == [
        f"{family} filter INPUT 0xc000 0x0 {name}",
        f"{family} mangle OUTPUT 0x0 0xff {name}",
        f"{family} mangle PREROUTING 0x0 0x30 {name}",
    ]


def test_a_clash_is_named_and_refused_on_request(place: str) -> None:
    nft(place, "meta mark & 0x4000 == 0x4000 accept")
    with pytest.raises(
        cli.UserError, match=r"--masquerade-bit 14 .* chain c of table inet t \(nft\) looks at .* choose"
    ):
        netns.run_in(place, lambda: check.check(14, on_clash="refuse"))
    netns.run_in(place, lambda: check.check(15, on_clash="refuse"))
    netns.run_in(place, lambda: check.check(14, on_clash="warn"))
