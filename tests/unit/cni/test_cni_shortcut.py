"""Which links get the short way's programs, how these go again, and what the rules say of the tunnel's packets."""

from __future__ import annotations

import struct

from netplane.kernel.bpf.assembly import STACK, Assembly, network
from netplane.kernel.link.objects import Link, Place, Program, remove
from netplane.model import address
from netplane_cni.plan import attach, masquerade, shortcut

MAC = bytes(5) + b"\1"
OURS = Program(7, shortcut.NAME, shortcut.PRIORITY, is_arriving=True)
OTHERS = Program(7, "other", 1, is_arriving=True)


def cable(index: int, *, group: int = attach.GROUP, master: int = 0, mac: bytes = MAC) -> Link:
    return Link(index, f"np{index}", "veth", mac, group=group, master=master)


def test_routed_cables_the_tunnel_and_the_underlay_are_chosen() -> None:
    links = [cable(5), cable(6, master=4), cable(7, group=attach.LEAVING_GROUP), Link(2, "eth0", mac=MAC)]
    links += [Link(9, "np.vxlan", "vxlan", MAC), Link(3, "eth1", mac=MAC)]
    assert shortcut.chosen(links, 2) == [5, 2, 9]
    assert shortcut.chosen(links, 0) == [5, 9]


def test_a_link_without_mac_addresses_is_left_out() -> None:
    assert shortcut.chosen([Link(2, "wg0", mac=b"")], 2) == []


def test_the_place_goes_with_the_last_program() -> None:
    assert shortcut.undo(7, [OURS]) == (remove(Place(7)),)
    assert shortcut.undo(7, [OURS, OTHERS]) == (remove(OURS),)
    assert shortcut.undo(7, [OTHERS]) == ()
    assert shortcut.undo(7, []) == ()


def test_an_earlier_program_of_ours_makes_room() -> None:
    first, *programs = shortcut.lay(7, 3, 4)
    assert first.thing == Place(7)
    assert [(one.verb, one.thing) for one in programs] == [
        ("replace", Program(7, shortcut.NAME, shortcut.PRIORITY, is_arriving=True, file=3)),
        ("replace", Program(7, shortcut.NAME, shortcut.PRIORITY, is_arriving=False, file=4)),
    ]


def test_the_programs_have_each_jump_within_them() -> None:
    maps = dict.fromkeys(shortcut.FAMILIES, 3)
    for code in (shortcut.arriving(maps), shortcut.leaving(maps)):
        rows = list(struct.iter_unpack("=BBhi", code))
        jumps = [(at, row[2]) for at, row in enumerate(rows) if row[0] & 7 == 5 and row[0] not in (0x85, 0x95)]
        assert jumps
        assert all(at < at + 1 + offset < len(rows) for at, offset in jumps)
        assert rows[-1][0] == 0x95


def test_an_instruction_is_as_the_standard_has_it() -> None:
    code = Assembly()
    code.set(0, -1)
    code.store(4, STACK, -8, 1)
    code.jump_if(1, "==", 5, "end")
    code.call(23)
    code.label("end")
    code.end()
    # RFC 9669: MOV64 imm, STX word, JEQ imm over one, CALL, EXIT; registers by half bytes.
    assert [row[0] for row in struct.iter_unpack("=BBhi", code.code())] == [0xB7, 0x63, 0x15, 0x85, 0x95]
    assert list(struct.iter_unpack("=BBhi", code.code()))[2][2:] == (1, 5)


def test_numbers_in_network_order_are_as_this_machine_reads_them() -> None:
    assert struct.pack("=H", network(0x0800)) == b"\x08\x00"


def test_the_tunnels_outer_packets_are_untracked_where_told() -> None:
    pods = (address.Prefix(address.parse("10.244.1.0"), 24),)
    assert "notrack" not in masquerade.text(masquerade.Facts(pods, pods))
    told = masquerade.text(masquerade.Facts(pods, pods, untracked=4789))
    assert told.count("udp dport 4789") == 2
    assert "udp dport 4789 fib daddr type local notrack" in told
