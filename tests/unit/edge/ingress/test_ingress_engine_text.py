"""The engine's configuration and the texts given to it hold nothing but data of ours."""

from __future__ import annotations

import re
from pathlib import Path as File
from urllib.parse import unquote

import pytest

from netplane.edge.ingress.plan import apr1, base, desired, endpoints, observe, slots, state, table
from netplane.edge.ingress.plan.state import MAPS, EngineServer, Paths
from netplane.edge.ingress.run import passwords, telemetry
from netplane.model import address
from netplane.model.routing import (
    Backend,
    Certificate,
    ClientAuthority,
    Headers,
    Host,
    Listener,
    Match,
    Owner,
    Path,
    Policy,
    Route,
    Routing,
    Server,
)
from netplane.model.routing import ServicePort as Port
from netplane.model.service import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort

SETTINGS = base.Settings("/run/door", "/lib/door.lua")
HOSTILE = 'x"\n  http-request deny\n; show info\\ |&=,%[env(PATH)]'


def test_hostile_texts_stand_in_maps_encoded_and_nowhere_in_the_configuration() -> None:
    route = Route(
        Owner("Ingress", "ns", "web"),
        Match(Host("exact", "a.example"), Path()),
        (Backend(Port("ns", "web", 80)),),
        request_headers=Headers(set=(("x-a", HOSTILE),)),
        policy=Policy(hsts=HOSTILE),
    )
    plan = desired.compile_plan(Routing(routes=(route,)), SETTINGS, kept={})
    (text,) = plan.state.maps["policies"].values()
    assert not set(text) & set(' \n";\\|')
    assert HOSTILE in unquote(text)
    assert "deny" not in base.config(SETTINGS, plan.state.servers, mark="m", cookie_key="k")


def test_a_host_under_a_wildcard_certificate_has_its_own_entry_with_the_authorities_of_its_clients() -> None:
    routing = Routing(
        certificates=(Certificate("ns_tls", ("*.w.example",), "PEM"), Certificate("ns_b", ("b.w.example",), "PEM2")),
        client_authorities=(
            ClientAuthority("a", ("a.w.example", "b.w.example"), "CA"),
            ClientAuthority("deep", ("a.b.w.example",), "CA"),
        ),
    )
    found = desired.compile_plan(routing, SETTINGS, kept={}).state.certificates.values()
    listed = [(one.pem, one.names, "verify optional" in one.options) for one in found]
    assert listed == [
        ("PEM", ("*.w.example",), False),
        ("PEM", ("a.w.example",), True),
        ("PEM2", ("b.w.example",), True),
    ]


def test_servers_stand_in_the_configuration_of_a_new_process() -> None:
    text = base.config(SETTINGS, {"h00000": {"web-0_1": EngineServer("fd00::1", 80)}}, mark="m", cookie_key="k")
    assert "backend h00000 from roundrobin-slots\n  server web-0_1 [fd00::1]:80\n" in text


def test_what_the_engine_prints_is_read_back() -> None:
    paths = Paths("/run/door")
    maps = dict.fromkeys(MAPS, "") | {"prefix": "0x1 d80/a.example/ h0|Ingress/ns/web|n\n0x2 d80/b.example/ h1|x|n"}
    servers = (
        "1\n# be_id be_name\n"
        "7 h00000 1 web_1 10.0.0.1 0 1 1 1 1 1 0 0 0 0 0 0 - 8080 - 0 0 - - 0\n"
        "7 h00000 2 web_2 10.0.0.2 2 0 1 1 1 1 0 0 0 0 0 0 - 8080 - 0 0 - - 0\n"
        "9 basic 1 checker - 2 0 1 1 1 1 0 0 0 0 0 0 - 0 - 0 0 - - 0\n"
    )
    listed = f"# {paths.certificate_list}\n{paths.certificate('ns_web-1')} a.example\n"
    state = observe.state(maps, servers, listed, "", paths)
    assert state.maps["prefix"]["d80/b.example/"] == "h1|x|n"
    assert state.servers == {"h00000": {"web_2": EngineServer("10.0.0.2", 8080)}}
    assert state.leaving == {("h00000", "web_1")}
    assert list(state.certificates) == ["ns_web-1"]


def piece(name: str, *rows: Endpoint, family: address.Family = address.Family.V4) -> EndpointSlice:
    """A slice of the Service web."""
    return EndpointSlice("ns", name, "web", family, (EndpointPort("http", Protocol.TCP, 8080),), rows)


WEB = Service("ns", "web", ports=(ServicePort("http", Protocol.TCP, 80),))


def test_ready_endpoints_serve_and_ending_ones_only_when_none_is_ready() -> None:
    ready = Endpoint((address.parse("10.0.0.1"),), pod=("ns", "p1"))
    ending = Endpoint((address.parse("10.0.0.2"),), ready=False, terminating=True, pod=("ns", "p2"))
    failing = Endpoint((address.parse("10.0.0.3"),), ready=False, serving=False)
    assert endpoints.servers(WEB, WEB.ports[0], [piece("a", ready, ending, failing)]) == (
        Server("10.0.0.1", 8080, "p1"),
    )
    assert endpoints.servers(WEB, WEB.ports[0], [piece("a", ending, failing)]) == (Server("10.0.0.2", 8080, "p2"),)


def test_of_two_families_one_is_used() -> None:
    four, six = Endpoint((address.parse("10.0.0.1"),)), Endpoint((address.parse("fd00::1"),))
    both = [piece("a", four), piece("b", six, family=address.Family.V6)]
    assert [one.address for one in endpoints.servers(WEB, WEB.ports[0], both)] == ["10.0.0.1"]


@pytest.mark.parametrize(
    "hashed",
    [
        "$apr1$5Nq4fO9u$TzYmDyXbAQ1GRowR53uPc0",
        "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "$6$abcdefgh$Y.4D6.ZVkBPI1lWE6Hf3NJ9iq9dM7K0Xl3w5VjyB9Q9DGn1b3dhmn5Kj3vNlqAFu5v9p3YQm0yqzKkYyXk4mM0",
    ],
)
def test_a_wrong_password_never_matches(hashed: str) -> None:
    assert not passwords.matches("wrong", hashed)


def test_apr1_is_what_openssl_makes() -> None:
    # openssl passwd -apr1 -salt 5Nq4fO9u password
    assert apr1.crypt("password", "$apr1$5Nq4fO9u$") == "$apr1$5Nq4fO9u$TzYmDyXbAQ1GRowR53uPc0"


def test_sha_and_crypt_match_the_right_password() -> None:
    assert passwords.matches("password", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")
    made = passwords._crypt("password", "$6$abcdefgh$")
    assert made.startswith("$6$abcdefgh$")
    assert passwords.matches("password", made)


def test_the_script_of_the_engine_is_part_of_the_package_with_all_that_it_requires() -> None:
    entry = File(base.__file__).parents[1] / "door.lua"
    scripts = [entry, *entry.with_suffix("").glob("*.lua")]
    required = {name for script in scripts for name in re.findall(r'require\("([a-z.]+)"\)', script.read_text())}
    assert required == {f"door.{script.stem}" for script in scripts[1:]}


def test_a_simple_host_is_found_at_once_and_at_its_ports_alone() -> None:
    both = Route(Owner("Ingress", "ns", "both"), Match(Host("exact", "both.example")), ports=frozenset({80, 443}))
    one = Route(Owner("HTTPRoute", "ns", "one"), Match(Host("exact", "one.example")), ports=frozenset({80}))
    listeners, name = [Listener(80), Listener(443, "HTTPS")], lambda route: str(route.owner.name)
    tables = table.compile_tables([both, one], listeners, name, fast=name, own_ports=frozenset({80, 443}))
    assert tables.fast == {"both.example/": "both"}
    assert tables.near == {"d80/one.example/": "one"}


def test_an_owner_is_counted_once_whatever_its_services() -> None:
    table = (
        "# table: owners, type: string, size:20480, used:3\n"
        '0x1: key=Ingress/ns/web","service":"ns/one:80 use=0 exp=0 shard=0 gpc0=1 http_req_cnt=2 bytes_in_cnt=3\n'
        '0x2: key=Ingress/ns/web","service":"ns/two:80 use=0 exp=0 shard=0 gpc0=0 http_req_cnt=5 bytes_in_cnt=7\n'
        "0x3: key=HTTPRoute/ns/web use=0 exp=0 shard=0 gpc0=0 http_req_cnt=1 bytes_in_cnt=1\n"
    )
    assert list(telemetry._owners(table)) == [
        (["Ingress", "ns", "web"], {"gpc0": 1, "http_req_cnt": 7, "bytes_in_cnt": 10}),
        (["HTTPRoute", "ns", "web"], {"gpc0": 0, "http_req_cnt": 1, "bytes_in_cnt": 1}),
    ]


WEB_USE = slots.Use("h", Port("ns", "web", 80))


@pytest.mark.parametrize("name", ["x\ndisable frontend door\nshow info #", "a b", "a;b", "A", "-", "a_b", "x" * 254])
def test_a_server_is_named_after_what_can_be_a_pod_alone(name: str) -> None:
    assert list(slots.servers_of(WEB_USE, [Server("10.0.0.1", 80, name)])) == ["endpoint_10.0.0.1:80_"]


def test_what_would_be_more_than_one_command_is_not_said_to_the_engine() -> None:
    bad = "x\ndisable frontend door"
    have, paths = state.State(), Paths("/run/door")
    want = state.State(
        maps={"exact": {"a": "b\nc", "d e": "f", "g": "h"}},
        servers={"h00000": {bad: EngineServer("10.0.0.1", 80), "web_1": EngineServer("10.0.0.2", 80)}},
    )
    commands = state.diff(want, have, paths)
    assert all(one.is_one for one in commands)
    assert [one.line.split(" ")[2] for one in commands if one.line.startswith("add server")] == ["h00000/web_1"]
    assert [one.payload for one in commands if one.line.startswith("add map")] == ["g h"]
    assert bad not in base.config(SETTINGS, want.servers, mark="m", cookie_key="k")
    for line, payload in (("show info\nx", ""), ("show info;x", ""), ("set x", "a\n\nb"), ("set x", "a\x00")):
        assert not state.Command(line, payload).is_one
    assert state.Command("set map x a\\;b\\ c d", "x\ny").is_one


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "fe80::1", "::", "ff02::1"]
)
def test_the_doors_own_machine_is_no_endpoint(text: str) -> None:
    packed = address.parse(text)
    family = address.family(packed)
    assert endpoints.servers(WEB, WEB.ports[0], [piece("a", Endpoint((packed,)), family=family)]) == ()


def test_a_host_of_its_own_authorities_is_listed_by_itself_and_the_first_has_them() -> None:
    routing = Routing(
        certificates=(Certificate("star", ("*.example",), "PEM"),),
        client_authorities=(
            ClientAuthority("old", ("a.example",), "OLD"),
            ClientAuthority("young", ("a.example", "*.example"), "YOUNG"),
        ),
    )
    state_ = desired.compile_plan(routing, SETTINGS, kept={}).state
    listed = {name: one.options for one in state_.certificates.values() for name in one.names}
    old, young = state.authority_name("OLD"), state.authority_name("YOUNG")
    assert old in listed["a.example"]
    assert young in listed["*.example"]
    assert state_.maps["authorities"] == {"a.example": old, "*.example": young}
