"""Leases found by address, host port and container are those that a look at every lease would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netplane.model import address
from netplane_cni.plan import masquerade
from netplane_cni.plan.book import Book, Both
from netplane_cni.plan.ipam import Lease, Pool
from netplane_cni.spec import PortMapping

NUMBERS = st.integers(0, 4)
CHANGES = st.lists(st.tuples(st.booleans(), NUMBERS, NUMBERS, NUMBERS), max_size=30)


def lease(container: int, ifname: int, *, port: int, is_leaving: bool = False) -> Lease:
    """Return a lease with an address and a host port of its own, as the plugin gives none twice."""
    ip = bytes([10, 1, container, 10 + ifname])
    ports = (PortMapping("tcp", 1000 + container * 100 + ifname * 10 + port, 80),) if port else ()
    name = f"np{container}{ifname}"
    return Lease(f"c{container}", f"eth{ifname}", name, (ip,), b"", "boot", ports=ports, is_leaving=is_leaving)


@given(CHANGES)
def test_whatever_came_and_went_the_index_agrees_with_the_leases(
    changes: list[tuple[bool, int, int, int]],
) -> None:
    book = Book()
    for is_there, container, ifname, port in changes:
        one = lease(container, ifname, port=port, is_leaving=port == 4)
        if is_there:
            book.put(one)
        else:
            book.drop(one.key)
    leases = list(book.leases.values())
    assert book.by_address == {ip: one for one in leases for ip in one.addresses}
    assert book.by_port == {p.frontend: one for one in leases for p in masquerade.host_ports([one])}
    assert {key: one for held in book.by_container.values() for key, one in held.items()} == book.leases
    assert all(book.by_container.values())


def test_what_is_being_given_counts_beside_what_is_kept() -> None:
    kept, given_ = Book(), Book()
    first, second = lease(1, 0, port=1), lease(2, 0, port=1)
    kept.put(first)
    given_.put(second)
    both = Both(kept, given_)
    assert both.leases == [first, second]
    assert all(ip in both.held for one in (first, second) for ip in one.addresses)
    assert [both.by_address(one.addresses[0]) for one in (first, second)] == [first, second]
    assert both.of("c1") == [first]
    assert both.of("c9") == []


def test_the_capacity_of_a_pool_leaves_out_what_is_excluded_once() -> None:
    cut = tuple(address.prefix(text) for text in ("10.1.0.0/30", "10.1.0.8/29", "10.1.0.10/31", "10.9.0.0/16"))
    # 16 addresses, of which the first two and the last are reserved: 2 to 14; 2, 3 and 8 to 14 are excluded.
    assert Pool(address.prefix("10.1.0.0/28"), cut).capacity == 4
