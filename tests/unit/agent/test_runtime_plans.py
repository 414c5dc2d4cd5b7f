"""OCI bundles, image users and CNI calls, as data."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from netplane.agent.runtime.cni import plan
from netplane.agent.runtime.cni.plan import Attachment, CniError
from netplane.agent.runtime.embedded import bundle, pause, users
from netplane.agent.runtime.embedded.bundle import Host, ImageConfig, Place
from netplane.agent.runtime.embedded.users import NoSuchUser, User
from netplane.agent.runtime.protocol import ContainerConfig, Mount, PortMapping, Resources, Security

HOST = Host(frozenset({*bundle.DEFAULT_CAPABILITIES, "NET_ADMIN", "SYS_ADMIN"}), unified_cgroups=True)
PLACE = Place("/rootfs", "/netplane/podu1/c1", "web", {"network": "/run/netns/x", "pid": ""})
IMAGE = ImageConfig(("/entry",), ("cmd",), ("PATH=/bin", "A=image"), "/work")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:\n"
GROUP = "root:x:0:\nweb:x:34:\nextra:x:35:web,other\n"


def config(**fields: Any) -> ContainerConfig:
    wanted: dict[str, Any] = {"name": "main", "attempt": 0, "image": "i"} | fields
    return ContainerConfig(**wanted)


def document(**fields: Any) -> dict[str, Any]:
    return bundle.container(config(**fields), IMAGE, User(33, 34, (35,)), PLACE, HOST)


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ("/entry", "cmd")),
        (("/x",), (), ("/x",)),
        ((), ("y",), ("/entry", "y")),
        (("/x",), ("y",), ("/x", "y")),
    ],
)
def test_command_and_args_replace_what_the_image_says(
    command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert bundle.argv(config(command=command, args=args), IMAGE) == expected


def test_the_containers_environment_goes_over_the_images() -> None:
    env = document(env=(("A", "own"), ("B", "=")))["process"]["env"]
    assert env == ["PATH=/bin", "HOSTNAME=web", "A=own", "B==", "HOME=/"]


def test_limits_and_namespaces_are_in_the_bundle() -> None:
    linux = document(resources=Resources(cpu_quota=5000, memory=1 << 20, pids=7))["linux"]
    assert linux["resources"]["cpu"] == {"quota": 5000, "period": 100_000}
    assert (linux["resources"]["memory"], linux["resources"]["pids"]) == ({"limit": 1 << 20}, {"limit": 7})
    kinds = {entry["type"]: entry.get("path") for entry in linux["namespaces"]}
    assert kinds == {"mount": None, "cgroup": None, "network": "/run/netns/x", "pid": None}


def test_capabilities_are_what_is_asked_as_far_as_the_machine_has_them() -> None:
    def granted(**security: Any) -> set[str]:
        return set(bundle.capabilities(Security(**security), HOST))

    assert granted() == set(bundle.DEFAULT_CAPABILITIES)
    assert granted(drop_capabilities=("ALL",), add_capabilities=("CAP_NET_ADMIN", "SYS_TIME")) == {"NET_ADMIN"}
    assert granted(privileged=True) == HOST.capabilities
    assert "CHOWN" not in granted(add_capabilities=("ALL",), drop_capabilities=("CHOWN",))


def test_outer_mounts_come_first_and_a_pods_own_replace_the_usual_ones() -> None:
    wanted = (Mount("/b", "/data/deep"), Mount("/a", "/data", readonly=True), Mount("/s", "/sys"))
    found = bundle.mounts(wanted, privileged=False, host=HOST)
    targets = [entry["destination"] for entry in found]
    assert targets.index("/data") < targets.index("/data/deep")
    assert targets.count("/sys") == 1
    assert next(e for e in found if e["destination"] == "/data")["options"] == ["rbind", "rprivate", "ro"]


def test_without_the_right_the_oom_score_is_never_lowered() -> None:
    host = Host(frozenset(), unified_cgroups=False, oom_score_adj=10, can_lower_oom_score=False)
    made = bundle.container(config(resources=Resources(oom_score_adj=-997)), IMAGE, User(0, 0), PLACE, host)
    assert made["process"]["oomScoreAdj"] == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (), "/root")),
        ("web", User(33, 34, (35,), "/var/www")),
        ("33", User(33, 34, (35,), "/var/www")),
        ("web:root", User(33, 0, (), "/var/www")),
        ("1234", User(1234, 0, (), "/")),
        ("1234:77", User(1234, 77, (), "/")),
    ],
)
def test_users_are_found_in_the_image(text: str, expected: User) -> None:
    assert users.resolve(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize("text", ["nobody", "web:nogroup"])
def test_an_unknown_name_is_no_user(text: str) -> None:
    with pytest.raises(NoSuchUser):
        users.resolve(text, PASSWD, GROUP)


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_pause_program_is_an_elf_that_ends_in_its_signal_action(machine: str, number: int) -> None:
    program = pause.elf(machine)
    assert program[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", program, 18)[0] == number
    assert program.endswith(struct.pack("<QQQQ", 1, 0, 0, 0))


CONFLIST = json.dumps(
    {
        "cniVersion": "1.0.0",
        "name": "net",
        "plugins": [{"type": "a", "capabilities": {"portMappings": True}, "x": 1}, {"type": "b"}],
    }
)
WHERE = Attachment("s1", "u1", "default", "web", "/run/netns/u1", (PortMapping(80, 8080, "UDP", "127.0.0.1"),))


def test_a_plugin_is_called_with_its_own_configuration_and_what_came_before() -> None:
    network = plan.network_list(CONFLIST, single=False)
    call = plan.call("ADD", network, network.plugins[0], WHERE, path="/opt/cni/bin", previous={"ips": []})
    assert call.plugin == "a"
    assert call.config == {
        "type": "a",
        "capabilities": {"portMappings": True},
        "x": 1,
        "cniVersion": "1.0.0",
        "name": "net",
        "prevResult": {"ips": []},
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"}]
        },
    }
    assert call.environment["CNI_ARGS"] == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=s1;K8S_POD_UID=u1"
    )
    second = plan.call("ADD", network, network.plugins[1], WHERE, path="", previous=None)
    assert "runtimeConfig" not in second.config
    assert [p["type"] for p in plan.order("DEL", network)] == ["b", "a"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"name":"x"}', '{"name":"x","plugins":[]}', '{"name":"x","plugins":[{"type":"../x"}]}']
)
def test_a_configuration_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(CniError):
        plan.network_list(text, single=False)


def test_a_pod_has_one_address_of_each_family_in_the_plugins_order() -> None:
    ips = [{"address": text} for text in ("fd00::2/64", "10.0.0.2/24", "fd00::3/64", "10.0.0.3/24")]
    assert plan.addresses({"ips": ips}) == ("fd00::2", "10.0.0.2")
    nonsense: tuple[Any, ...] = ({}, {"ips": []}, {"ips": [{"address": "x"}]}, None)
    for bad in nonsense:
        with pytest.raises(CniError):
            plan.addresses(bad)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (b'{"code":7,"msg":"no","details":"why"}', "no; why"),
        (b"panic: boom\nat x", "panic: boom at x"),
        (b"", "exit 3 without a word"),
    ],
)
def test_the_users_hear_the_plugins_own_words(output: bytes, said: str) -> None:
    assert str(plan.failure("a", "ADD", output, 3)) == f'plugin type="a" failed (add): {said}'
