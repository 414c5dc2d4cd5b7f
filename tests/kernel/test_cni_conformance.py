"""The CNI specification's tables, asked of our plugin and of Debian's alike: where both must agree, a test that were
wrong would fail on theirs. Section numbers are of version 1.1.0."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane_cni import spec
from tests.support.cni_nodes import Answer, Machine, World, until

DEBIAN = Path("/usr/lib/cni")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
COMMON_VERSIONS = ("0.3.1", "0.4.0", "1.0.0")
"""What both speak: Debian's plugins are older than 1.1.0."""
POOL = "10.244.1."
_numbers = itertools.count()


@dataclass
class Plugin:
    """A plugin on a node, and how it is configured."""

    name: str
    binary: Path
    config: dict[str, Any]
    node: str
    folder: Path

    def call(
        self, command: str, where: Mapping[str, str], config: Mapping[str, Any] | None = None, *, raw: bytes = b""
    ) -> Answer:
        """Execute it in the node's namespace. A variable that is to be missing is given as "-"."""
        given = {
            "CNI_COMMAND": command, "CNI_IFNAME": "eth0", "CNI_PATH": str(self.binary.parent), "PATH": PATH,
            **where,
        }  # fmt: skip
        environment = {key: value for key, value in given.items() if value != "-"}
        content = {"cniVersion": "1.0.0", "name": "conformance", **self.config, **(config or {})}
        stdin = raw or json.dumps({key: value for key, value in content.items() if value is not None}).encode()
        argv = ["/usr/bin/nsenter", f"--net={self.node}", str(self.binary)]
        done = subprocess.run(argv, input=stdin, env=environment, capture_output=True, timeout=30, check=False)
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, 0.0)

    @property
    def is_ours(self) -> bool:
        return self.name == "netplane"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with World(tmp_path_factory.mktemp("conformance") / "world", nodes=1, families=[4]) as world:
        world.machines[0].options = ["--cool-down=0"]
        world.machines[0].start()
        yield world.machines[0]


def plugin_on(machine: Machine, name: str) -> Plugin:
    """Return one of the plugins, ready to be called."""
    if name == "netplane":
        config: dict[str, Any] = {"type": "netplane-cni"}
        return Plugin(name, machine.folder / "bin" / "netplane-cni", config, machine.netns, machine.folder)
    ipam = {"type": "host-local", "dataDir": str(machine.folder / f"ipam-{name}"), "subnet": f"{POOL}0/24"}
    config = {"type": name, "ipam": {**ipam, "routes": [{"dst": "0.0.0.0/0"}]}}
    config |= {"bridge": "cni0", "isGateway": True} if name == "bridge" else {}
    return Plugin(name, DEBIAN / name, config, machine.netns, machine.folder)


@pytest.fixture(params=["netplane", "ptp", "bridge"])
def plugin(request: pytest.FixtureRequest, machine: Machine) -> Plugin:
    return plugin_on(machine, request.param)


@pytest.fixture
def ours(machine: Machine) -> Plugin:
    return plugin_on(machine, "netplane")


@pytest.fixture
def where(machine: Machine) -> Iterator[dict[str, str]]:
    """A container that is not attached to anything, as a runtime names it."""
    container = f"container-{next(_numbers)}"
    path = str(machine.folder / "pods" / container)
    netns.create(path)
    yield {"CNI_CONTAINERID": container, "CNI_NETNS": path}
    for name in ("netplane", "ptp", "bridge"):
        plugin_on(machine, name).call("DEL", {"CNI_CONTAINERID": container, "CNI_NETNS": path})
    netns.remove_if_present(path)


def seen(place: str, ifname: str = "eth0") -> tuple[str, set[str]]:
    """Return MAC address and IPv4 addresses of an interface as the kernel has them."""
    with link.Socket(place) as inside:
        there = inside.link(ifname)
        assert there is not None
        held = {f"{'.'.join(map(str, a.address))}" for a in inside.addresses(there.index) if len(a.address) == 4}
        return there.mac.hex(":"), held


# Section 2, protocol parameters; section 5, error codes.


@pytest.mark.parametrize(
    "code, environment, config",
    [
        (4, {"CNI_COMMAND": "REMOVE"}, {}),
        (4, {"CNI_CONTAINERID": "-"}, {}),
        (4, {"CNI_CONTAINERID": "not/one"}, {}),
        (4, {"CNI_CONTAINERID": "_begins-wrong"}, {}),
        (4, {"CNI_NETNS": "-"}, {}),
        (4, {"CNI_IFNAME": "-"}, {}),
        (4, {"CNI_IFNAME": "longer-than-fifteen"}, {}),
        (4, {"CNI_IFNAME": "a/b"}, {}),
        (4, {"CNI_IFNAME": "a b"}, {}),
        (4, {"CNI_IFNAME": ".."}, {}),
        (1, {}, {"cniVersion": "99.0.0"}),
        (7, {}, {"name": None}),
        (7, {}, {"name": "not a name"}),
        (1, {"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}),
    ],
)
def test_a_wrong_parameter_has_the_code_of_the_table(
    plugin: Plugin, where: dict[str, str], code: int, environment: dict[str, str], config: dict[str, Any]
) -> None:
    answer = plugin.call("ADD", {**where, **environment}, config)
    assert (answer.code != 0, answer.body["code"]) == (True, code), answer
    assert_is_error(answer.body, plugin)


def test_a_call_without_command_is_an_error(ours: Plugin, where: dict[str, str]) -> None:
    # Debian's print who they are, and succeed.
    assert ours.call("ADD", {**where, "CNI_COMMAND": "-"}).body["code"] == 4


@pytest.mark.parametrize("raw", [b"{", b"no JSON at all"])
def test_what_cannot_be_decoded_has_code_6(plugin: Plugin, where: dict[str, str], raw: bytes) -> None:
    answer = plugin.call("ADD", where, raw=raw)
    assert (answer.code != 0, answer.body["code"]) == (True, 6)
    assert_is_error(answer.body, plugin)


def test_a_namespace_that_is_not_there_is_an_error_of_add(plugin: Plugin, where: dict[str, str]) -> None:
    answer = plugin.call("ADD", {**where, "CNI_NETNS": "/run/netns/none-of-that-name"})
    assert answer.code != 0
    assert_is_error(answer.body, plugin)


def assert_is_error(body: Mapping[str, Any], plugin: Plugin) -> None:
    """Section 5: code and msg, details if any; the version has been there since 1.0.0, which Debian's leave out."""
    assert type(body["code"]) is int
    assert body["msg"]
    assert isinstance(body.get("details", ""), str)
    assert set(body) <= {"cniVersion", "code", "msg", "details"}
    assert not plugin.is_ours or body["cniVersion"] in spec.VERSIONS


# Section 3, ADD; section 5, results.


def test_version_lists_what_is_spoken(plugin: Plugin) -> None:
    answer = plugin.call("VERSION", {"CNI_IFNAME": "-"})
    assert answer.code == 0
    assert set(COMMON_VERSIONS) <= set(answer.body["supportedVersions"])
    assert answer.body["cniVersion"] in spec.VERSIONS


@pytest.mark.parametrize("version", COMMON_VERSIONS)
def test_the_result_of_add_has_the_versions_form_and_is_true(
    plugin: Plugin, where: dict[str, str], version: str
) -> None:
    answer = plugin.call("ADD", where, {"cniVersion": version})
    assert answer.code == 0, answer
    assert_is_result(answer.body, version, where["CNI_NETNS"])
    (inside,) = [one for one in answer.body["interfaces"] if one.get("sandbox")]
    told = {ip["address"].partition("/")[0] for ip in answer.body["ips"]}
    assert seen(where["CNI_NETNS"]) == (inside["mac"], told)
    assert plugin.call("DEL", where, {"cniVersion": version}) == Answer(0, {}, 0.0)


def test_the_result_of_add_has_the_newest_form_too(ours: Plugin, where: dict[str, str]) -> None:
    answer = ours.call("ADD", where, {"cniVersion": "1.1.0"})
    assert_is_result(answer.body, "1.1.0", where["CNI_NETNS"])
    assert all(one["mtu"] == 1450 for one in answer.body["interfaces"])


def assert_is_result(body: Mapping[str, Any], version: str, sandbox: str) -> None:
    assert body["cniVersion"] == version
    assert set(body) <= {"cniVersion", "interfaces", "ips", "routes", "dns"}
    (inside,) = [n for n, one in enumerate(body["interfaces"]) if one.get("sandbox")]
    assert (body["interfaces"][inside]["name"], body["interfaces"][inside]["sandbox"]) == ("eth0", sandbox)
    newer = {"mtu"} if version == "1.1.0" else set()
    for one in body["interfaces"]:
        assert set(one) <= {"name", "mac", "sandbox"} | newer
        assert len(bytes.fromhex(one["mac"].replace(":", ""))) == 6
    for ip in body["ips"]:
        # Before 1.0.0 an address told its family.
        assert ip.get("version") == (None if version >= "1." else "4")
        assert ip["interface"] == inside
        assert "/" in ip["address"]
        assert "gateway" in ip
    assert {route["dst"] for route in body["routes"]} == {"0.0.0.0/0"}


# Section 3, DEL: it succeeds for what is not there.


def test_del_succeeds_again_without_namespace_and_without_add(plugin: Plugin, where: dict[str, str]) -> None:
    assert plugin.call("DEL", where).code == 0
    assert plugin.call("ADD", where).code == 0
    for given in ({}, {}, {"CNI_NETNS": ""}, {"CNI_NETNS": "-"}, {"CNI_NETNS": "/run/netns/none-of-that-name"}):
        assert plugin.call("DEL", {**where, **given}) == Answer(0, {}, 0.0)
    with link.Socket(where["CNI_NETNS"]) as inside:
        until(lambda: {one.name for one in inside.links()} == {"lo"})


# Section 3, CHECK.


def test_check_agrees_with_add_until_something_is_gone(plugin: Plugin, where: dict[str, str]) -> None:
    result = plugin.call("ADD", where).body
    assert plugin.call("CHECK", where, {"prevResult": result}) == Answer(0, {}, 0.0)
    subprocess.run(["nsenter", f"--net={where['CNI_NETNS']}", "ip", "addr", "flush", "dev", "eth0"], check=True)
    answer = plugin.call("CHECK", where, {"prevResult": result})
    assert answer.code != 0
    assert_is_error(answer.body, plugin)


def test_check_finds_an_interface_that_was_renamed(plugin: Plugin, where: dict[str, str]) -> None:
    result = plugin.call("ADD", where).body
    rename = "ip link set eth0 down && ip link set eth0 name other && ip link set other up"
    subprocess.run(["nsenter", f"--net={where['CNI_NETNS']}", "sh", "-c", rename], check=True)
    assert plugin.call("CHECK", where, {"prevResult": result}).code != 0
    assert plugin.call("DEL", where).code == 0


def test_check_of_what_was_never_added_is_an_error(plugin: Plugin, where: dict[str, str]) -> None:
    other = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": where["CNI_NETNS"]}], "ips": []}
    assert plugin.call("CHECK", where, {"prevResult": other}).code != 0


# Section 3, STATUS and GC (1.1.0): Debian's do not know them.


@pytest.mark.parametrize("command", ["STATUS", "GC"])
def test_what_came_later_is_refused_in_older_versions(ours: Plugin, command: str) -> None:
    answer = ours.call(command, {}, {"cniVersion": "1.0.0"})
    assert (answer.code, answer.body["code"]) == (1, 1)


def test_status_succeeds_on_a_ready_node(ours: Plugin) -> None:
    assert ours.call("STATUS", {"CNI_IFNAME": "-"}, {"cniVersion": "1.1.0"}) == Answer(0, {}, 0.0)


def test_gc_ends_attachments_that_are_not_listed_and_no_others(ours: Plugin, where: dict[str, str]) -> None:
    second = {**where, "CNI_IFNAME": "net1"}
    for one in (where, second):
        assert ours.call("ADD", one).code == 0
    valid = [{"containerID": where["CNI_CONTAINERID"], "ifname": "eth0"}]
    listed = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert ours.call("GC", {"CNI_IFNAME": "-"}, listed) == Answer(0, {}, 0.0)
    with link.Socket(where["CNI_NETNS"]) as inside:
        until(lambda: {one.name for one in inside.links()} == {"lo", "eth0"})


# Section 4: chains. Other plugins take our result as it is, and we theirs.


@pytest.mark.parametrize("version", COMMON_VERSIONS)
def test_debians_plugins_go_on_from_our_result(
    machine: Machine, ours: Plugin, where: dict[str, str], version: str
) -> None:
    port = {"runtimeConfig": {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}}
    later: dict[str, dict[str, Any]] = {
        "tuning": {"sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}},
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000},
        "portmap": {"capabilities": {"portMappings": True}, "snat": True, **port},
        **({} if version == "0.3.1" else {"firewall": {"backend": "iptables"}}),  # it knows no older one
    }
    result = ours.call("ADD", where, {"cniVersion": version}).body
    chain = [Plugin(n, DEBIAN / n, {"type": n, **c}, machine.netns, machine.folder) for n, c in later.items()]
    for one in chain:
        answer = one.call("ADD", where, {"cniVersion": version, "prevResult": result})
        assert answer.code == 0, (one.name, answer)
        assert answer.body["ips"] == result["ips"]
        result = answer.body
    if version != "0.3.1":
        # Without an IPv6 address, portmap misses rules for one.
        for one in (ours, *(one for one in chain if one.name != "portmap")):
            assert one.call("CHECK", where, {"cniVersion": version, "prevResult": result}).code == 0, one.name
    for one in (*reversed(chain), ours):
        assert one.call("DEL", where, {"cniVersion": version, "prevResult": result}) == Answer(0, {}, 0.0), one.name


@pytest.mark.parametrize("version", COMMON_VERSIONS)
def test_behind_another_plugin_ours_adds_to_its_result(
    machine: Machine, ours: Plugin, where: dict[str, str], version: str
) -> None:
    first = plugin_on(machine, "ptp")
    before = first.call("ADD", where, {"cniVersion": version}).body
    second = {**where, "CNI_IFNAME": "net1"}
    after = ours.call("ADD", second, {"cniVersion": version, "prevResult": before}).body
    count = len(before["interfaces"])
    assert after["interfaces"][:count] == before["interfaces"]
    assert after["interfaces"][count + 1]["name"] == "net1"
    assert after["ips"][: len(before["ips"])] == before["ips"]
    assert after["ips"][-1]["interface"] == count + 1
    assert [route["dst"] for route in after["routes"]] == ["0.0.0.0/0"]
    assert ours.call("DEL", second, {"cniVersion": version, "prevResult": after}).code == 0


# Capabilities and CNI_ARGS.


def test_an_address_is_given_as_asked_by_argument_and_by_capability(plugin: Plugin, where: dict[str, str]) -> None:
    by_argument = {**where, "CNI_ARGS": f"IgnoreUnknown=1;IP={POOL}77;K8S_POD_NAME=x"}
    assert plugin.call("ADD", by_argument).body["ips"][0]["address"].startswith(f"{POOL}77/")
    assert plugin.call("DEL", where).code == 0
    if plugin.name != "netplane":
        plugin.config["ipam"] |= {"runtimeConfig": {"ips": [f"{POOL}78/24"]}}
    asked = {"runtimeConfig": {"ips": [f"{POOL}78/24"]}, "capabilities": {"ips": True}}
    assert plugin.call("ADD", where, asked).body["ips"][0]["address"].startswith(f"{POOL}78/")


@pytest.mark.parametrize("name", ["netplane", "bridge"])  # ptp knows no MAC address
def test_a_mac_address_is_given_as_asked_by_argument_and_by_capability(
    machine: Machine, where: dict[str, str], name: str
) -> None:
    plugin, mac = plugin_on(machine, name), "c2:11:22:33:44:55"
    plugin.call("ADD", {**where, "CNI_ARGS": f"IgnoreUnknown=1;MAC={mac}"})
    assert seen(where["CNI_NETNS"])[0] == mac
    plugin.call("DEL", where)
    assert plugin.call("ADD", where, {"runtimeConfig": {"mac": mac.replace("c2", "c6")}}).code == 0
    assert seen(where["CNI_NETNS"])[0] == mac.replace("c2", "c6")


def test_dns_of_the_runtime_comes_before_that_of_the_configuration(ours: Plugin, where: dict[str, str]) -> None:
    config = {"dns": {"nameservers": ["10.96.0.10"]}}
    assert ours.call("ADD", where, config).body["dns"] == config["dns"]
    told = {"searches": ["default.svc"], "servers": ["10.96.0.11"]}
    answer = ours.call("ADD", where, {**config, "runtimeConfig": {"dns": told}})
    assert answer.body["dns"] == {"nameservers": ["10.96.0.11"], "search": ["default.svc"]}
