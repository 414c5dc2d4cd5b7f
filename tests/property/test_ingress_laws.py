"""Laws of the front door's plans: the tables mean what the routes mean, and differences lead where they should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.edge.ingress.plan import base, desired, table, values
from netplane.edge.ingress.plan.slots import SlotsExhausted
from netplane.edge.ingress.plan.state import Paths, State, diff
from netplane.model.routing import (
    Backend,
    Host,
    Listener,
    Match,
    Owner,
    Path,
    Policy,
    Route,
    Routing,
    Server,
    ServicePort,
    Value,
)
from tests.support.ingress_lookup import OWN_PORTS, Asked, PaperEngine, find, meant

_LABELS = ("a", "b", "c")
_NAMES = st.lists(st.sampled_from(_LABELS), min_size=1, max_size=3).map(".".join)
_HOSTS = st.one_of(
    st.builds(Host, st.just("exact"), _NAMES),
    st.builds(Host, st.sampled_from(["label", "suffix"]), _NAMES),
    st.just(Host()),
)
_TEXTS = st.lists(st.sampled_from(["x", "y", "xy"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
_PATHS = st.builds(Path, st.sampled_from(["exact", "prefix"]), _TEXTS)
_ROWS = st.sampled_from([(), (Value("k", "1"),), (Value("k", "2"),), (Value("k", "1"), Value("l", "1"))])
_MATCHES = st.builds(Match, _HOSTS, _PATHS, st.sampled_from(["", "GET", "POST"]), _ROWS, _ROWS)
_PORTS = st.sampled_from([frozenset[int](), frozenset({80}), frozenset({80, 443}), frozenset({8080})])
_PLAIN = st.builds(Match, _HOSTS, _PATHS)


@st.composite
def routes(draw: st.DrawFn) -> list[Route]:
    """Routes whose order decides last."""
    matches = draw(st.lists(st.one_of(_PLAIN, _MATCHES), min_size=1, max_size=8))
    return [
        Route(Owner("Ingress", "ns", f"r{at}"), match, ports=draw(_PORTS), order=("", "ns", f"r{at}", 0, 0))
        for at, match in enumerate(matches)
    ]


_VALUES = st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"]))
_ASKED = st.builds(
    Asked,
    host=st.lists(st.sampled_from(_LABELS), min_size=1, max_size=4).map(".".join),
    path=st.one_of(_TEXTS, _TEXTS.map(lambda text: f"{text}/")),
    method=st.sampled_from(["GET", "POST"]),
    port=st.sampled_from([80, 443, 8080]),
    headers=_VALUES,
    queries=_VALUES,
)


@given(routes(), st.lists(_ASKED, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_lookup_finds_the_first_route_by_rank_that_matches(given_routes: list[Route], asked: list[Asked]) -> None:
    listeners = [Listener(port) for port in (80, 443, 8080)]

    def record(route: Route) -> str:
        return f"h0|{route.owner}|n"

    def fast(route: Route) -> str:
        """Some routes have a policy or are split, which the fast way does not serve."""
        return "" if route.owner.name in ("r0", "r5") else record(route)

    tables = table.compile_tables(given_routes, listeners, record, fast=fast, own_ports=OWN_PORTS)
    for one in asked:
        best = meant(given_routes, one, table.rank)
        assert find(tables, one) == (f"h0|{best.owner}|n" if best else "")


@given(routes(), st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_order_of_facts_does_not_matter(given_routes: list[Route], shuffle: object) -> None:
    mixed = list(given_routes)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]  # a random.Random of hypothesis
    listeners = [Listener(80)]
    record = lambda route: str(route.owner)  # noqa: E731
    made = [
        table.compile_tables(rows, listeners, record, fast=record, own_ports=OWN_PORTS)
        for rows in (mixed, given_routes)
    ]
    assert made[0] == made[1]


_SETTINGS = base.Settings("/run/door", "/lib/door.lua", slots={"h": 6, "l": 1, "c": 1, "t": 1})
_SERVICES = [ServicePort("ns", f"s{at}", 80) for at in range(4)]


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    """Small routings that share Services."""
    made = [
        replace(
            route,
            backends=(Backend(draw(st.sampled_from(_SERVICES))),),
            policy=Policy(hsts=draw(st.sampled_from(["", "a"]))),
        )
        for route in draw(routes())
    ]
    servers = {
        service: tuple(Server(f"10.0.0.{at}", 80, f"p{at}") for at in sorted(draw(st.sets(st.integers(1, 5)))))
        for service in _SERVICES
    }
    return Routing(routes=tuple(made), servers=servers)


@given(st.lists(routings(), min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_differences_lead_an_engine_from_any_state_to_the_next(steps: list[Routing]) -> None:
    engine, have, paths = PaperEngine(), State(), Paths("/run/door")
    leaving: frozenset[tuple[str, str]] = frozenset()
    for step in steps:
        want = desired.compile_plan(step, _SETTINGS, kept=have.maps.get("slots", {})).state
        engine.run(diff(want, replace(have, leaving=leaving), paths))
        assert {name: rows for name, rows in engine.maps.items() if rows} == {k: v for k, v in want.maps.items() if v}
        serving = {name for name, takes in engine.servers.items() if takes}
        assert serving == {f"{slot}/{name}" for slot, held in want.servers.items() for name in held}
        leaving = frozenset(
            (name.partition("/")[0], name.partition("/")[2]) for name, takes in engine.servers.items() if not takes
        )
        assert diff(want, want, paths) == []
        have = want


@given(st.lists(routings(), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_use_keeps_its_slot_for_as_long_as_it_is_wanted(steps: list[Routing]) -> None:
    kept: dict[str, str] = {}
    for step in steps:
        plan = desired.compile_plan(step, _SETTINGS, kept=kept)
        before = {use: slot for slot, use in kept.items()}
        for use, slot in plan.slots.items():
            assert before.get(str(use), slot) == slot
        kept = dict(plan.state.maps["slots"])


def test_more_services_than_slots_ask_for_more_slots() -> None:
    many = tuple(
        Route(
            Owner("Ingress", "ns", f"r{at}"),
            Match(Host("exact", f"h{at}")),
            (Backend(ServicePort("ns", f"s{at}", 80)),),
        )
        for at in range(7)
    )
    with pytest.raises(SlotsExhausted) as raised:
        desired.compile_plan(Routing(routes=many), _SETTINGS, kept={})
    assert (raised.value.kind, raised.value.wanted) == ("h", 7)


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_what_is_read_from_users_never_ends_a_line_or_a_word(text: str) -> None:
    readers = [values.host, values.path, values.token, values.origins, values.networks, values.printable]
    for reader in readers:
        try:
            read = reader(text)
        except ValueError:
            continue
        for one in [read] if isinstance(read, str) else read:
            assert "\n" not in one
            assert "\r" not in one
            assert reader is values.printable or not set(one) & set(' "\\<{}')
