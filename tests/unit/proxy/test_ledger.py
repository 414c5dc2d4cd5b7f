"""Services that claim the same place end the same way, whatever came first."""

from __future__ import annotations

import itertools

from netplane.model.service import EndpointSlice, Service
from netplane_proxy.plan import forwarding, ledger
from tests.support.clusters import NODE, endpoint, ip_list, piece, service

A = service("a", ips="10.96.0.1", external_ips=ip_list("192.0.2.1"))
B = service("b", ips="10.96.0.2", external_ips=ip_list("192.0.2.1"))
THIEF = service("a-thief", ips="10.96.0.3", external_ips=ip_list("10.96.0.2"))
SLICES = {one: piece(endpoint(f"10.244.2.{at}"), of=one) for at, one in enumerate(("a", "b", "a-thief"))}


def rows(facts: Service, *slices: EndpointSlice) -> tuple[forwarding.PortForwarding, ...]:
    return forwarding.of_service(facts, slices, NODE)


def holder(book: ledger.Ledger, place: str) -> list[str]:
    return [key.service for key, row in book.ports.items() for one in row.frontends if str(one) == place]


def test_any_order_ends_in_the_same_rows() -> None:
    ends = []
    for order in itertools.permutations([A, B, THIEF]):
        book = ledger.Ledger()
        for facts in order:
            book.replace(facts.key, rows(facts))
        ends.append(book.ports)
    assert all(end == ends[0] for end in ends)
    assert len(ends[0]) == 3


def test_a_cluster_ip_cannot_be_taken_by_an_external_ip() -> None:
    book = ledger.Ledger()
    book.replace(THIEF.key, rows(THIEF))
    book.replace(B.key, rows(B))
    assert holder(book, "10.96.0.2:80/tcp") == ["b"]


def test_the_loser_gets_the_place_when_the_winner_leaves() -> None:
    book = ledger.Ledger()
    book.replace(A.key, rows(A))
    book.replace(B.key, rows(B))
    assert holder(book, "192.0.2.1:80/tcp") == ["a"]
    steps = book.replace(A.key, ())
    assert holder(book, "192.0.2.1:80/tcp") == ["b"]
    assert {key.service: step.now is None for key, step in steps.items()} == {"a": True, "b": False}


def test_what_did_not_change_is_not_reported() -> None:
    book = ledger.Ledger()
    assert len(book.replace(A.key, rows(A))) == 1
    assert book.replace(A.key, rows(A)) == {}
    assert [key.service for key in book.replace(A.key, rows(A, SLICES["a"]))] == ["a"]


def test_a_service_that_was_never_there_can_be_removed() -> None:
    assert ledger.Ledger().replace(("default", "none"), ()) == {}
