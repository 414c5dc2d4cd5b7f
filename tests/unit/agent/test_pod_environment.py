"""Environment, downward API, resolv.conf and hosts, as the kubelet makes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from netplane.agent.pods import config, environment
from netplane.agent.pods.config import NodeFacts
from netplane.agent.pods.environment import ConfigError
from netplane.agent.pods.fields import Surroundings
from netplane.agent.pods.spec import Pod
from netplane.agent.runtime.protocol import SECCOMP_DEFAULT, Dns, ImageStatus, PortMapping
from netplane.kube.types import CONFIGMAPS, SECRETS, Object
from tests.support.agent_pods import pod

AROUND = Surroundings("node-1", ("172.30.0.11", "fd00::11"), ("10.0.0.5", "fd01::5"), {"cpu": "4", "memory": "8Gi"})
PROFILES = Path("/profiles")
NODE = NodeFacts(
    "node-1",
    ("172.30.0.11",),
    "/netplane",
    Path("/var"),
    cluster_dns=("10.96.0.10",),
    resolv=Dns(("9.9.9.9",), ("lan",)),
)


def env(
    one: Pod, objects: Mapping[Any, Object | None] | None = None, services: tuple[Object, ...] = ()
) -> dict[str, str]:
    return dict(environment.build(one, one.containers[0], objects or {}, AROUND, services))


def main(**fields: Any) -> Pod:
    return pod({"name": "main", **fields}, metadata={"labels": {"app": "web"}})


def test_values_may_use_what_was_set_before_them() -> None:
    one = main(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(NONE)-$$(A)-$(C)"}, {"name": "C"}])
    assert env(one) == {"A": "1", "B": "1-$(NONE)-$(A)-$(C)", "C": ""}


def test_fields_of_the_pod_and_its_limits() -> None:
    sources = {
        "NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "APP": {"fieldRef": {"fieldPath": "metadata.labels['app']"}},
        "IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "IPS": {"fieldRef": {"fieldPath": "status.podIPs"}},
        "NODE": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        "HOST": {"fieldRef": {"fieldPath": "status.hostIP"}},
        "CPU": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}},
        "WHOLE": {"resourceFieldRef": {"resource": "limits.cpu"}},
        "MEM": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
    }
    one = main(env=[{"name": k, "valueFrom": v} for k, v in sources.items()], resources={"limits": {"cpu": "1500m"}})
    assert env(one) == {
        "NAME": "web",
        "APP": "web",
        "IP": "10.0.0.5",
        "IPS": "10.0.0.5,fd01::5",
        "NODE": "node-1",
        "HOST": "172.30.0.11",
        "CPU": "1500",
        "WHOLE": "2",
        "MEM": "8192",
    }


def test_config_maps_and_secrets_by_key_and_whole() -> None:
    config_map = {"data": {"a": "1", "b": "$(A)"}}
    secret = {"data": {"pw": base64.b64encode(b"x y").decode()}}
    objects = {(CONFIGMAPS, "cm"): config_map, (SECRETS, "s"): secret, (CONFIGMAPS, "no"): None}
    one = main(
        envFrom=[{"configMapRef": {"name": "cm"}, "prefix": "P_"}, {"configMapRef": {"name": "no", "optional": True}}],
        env=[
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": True}}},
            {"name": "P_a", "value": "own"},
        ],
    )
    assert env(one, objects) == {"P_a": "own", "P_b": "$(A)", "PW": "x y"}
    assert environment.references(one.containers[0]) == {(CONFIGMAPS, "cm"), (CONFIGMAPS, "no"), (SECRETS, "s")}


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({}, 'configmap "cm" not found'),
        ({(CONFIGMAPS, "cm"): {"data": {}}}, "couldn't find key k in ConfigMap default/cm"),
    ],
)
def test_what_is_missing_is_named(objects: Mapping[Any, Object], message: str) -> None:
    one = main(env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}])
    with pytest.raises(ConfigError) as error:
        env(one, objects)
    assert str(error.value) == message


def service(name: str, namespace: str, address: str, *ports: Object) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": address, "ports": list(ports)}}


def test_services_of_the_namespace_and_the_api_server_are_linked() -> None:
    services = (
        service("my-db", "default", "10.96.0.7", {"name": "sql", "port": 5432}),
        service("kubernetes", "default", "10.96.0.1", {"port": 443}),
        service("other", "elsewhere", "10.96.0.8", {"port": 1}),
        service("headless", "default", "None", {"port": 1}),
    )
    found = env(main(), services=services)
    assert found["MY_DB_SERVICE_HOST"] == "10.96.0.7"
    assert found["MY_DB_SERVICE_PORT_SQL"] == "5432"
    assert found["MY_DB_PORT_5432_TCP"] == found["MY_DB_PORT"] == "tcp://10.96.0.7:5432"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert not [name for name in found if name.startswith(("OTHER", "HEADLESS"))]
    unlinked = dict(environment.build(pod(enableServiceLinks=False), pod().containers[0], {}, AROUND, services))
    assert {name.partition("_")[0] for name in unlinked} == {"KUBERNETES"}


def test_dns_by_policy() -> None:
    searches = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan")
    assert config.dns(pod(), NODE) == Dns(("10.96.0.10",), searches, ("ndots:5",))
    assert config.dns(pod(dnsPolicy="Default"), NODE) == Dns(("9.9.9.9",), ("lan",))
    assert config.dns(pod(hostNetwork=True), NODE) == Dns(("9.9.9.9",), ("lan",))
    wanted = {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}
    assert config.dns(pod(dnsPolicy="None", dnsConfig=wanted), NODE) == Dns(("1.1.1.1",), (), ("ndots:2", "edns0"))
    assert config.dns(pod(dnsConfig=wanted), NODE).options == ("ndots:2", "edns0")


def test_resolv_conf_is_read_as_the_resolver_does() -> None:
    text = "# a comment\nnameserver 9.9.9.9\nnameserver ::1\nsearch a b\noptions ndots:1 edns0\n;x y\n\n"
    assert config.resolv(text) == Dns(("9.9.9.9", "::1"), ("a", "b"), ("ndots:1", "edns0"))


def test_hosts_names_the_pod_and_its_aliases() -> None:
    one = pod(hostAliases=[{"ip": "10.1.1.1", "hostnames": ["db", "db.lan"]}], subdomain="sub", hostname="h")
    text = config.hosts(one, NODE, ["10.0.0.5"])
    assert "10.0.0.5\th.sub.default.svc.cluster.local\th\n" in text
    assert text.endswith("# Entries added by HostAliases.\n10.1.1.1\tdb\tdb.lan\n")


def test_the_sandbox_has_the_pods_ports_and_its_cgroup() -> None:
    one = pod(
        {"name": "main", "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}, {"containerPort": 1}]}
    )
    found = config.sandbox(one, NODE, 2)
    assert found.port_mappings == (PortMapping(80, 8080, "UDP"),)
    assert (found.attempt, found.cgroup_parent, found.hostname) == (2, "/netplane/podu1", "web")


def test_root_is_refused_where_the_pod_forbids_it() -> None:
    one = main(securityContext={"runAsNonRoot": True})
    for image, user, word in (
        (ImageStatus("x", "y", uid=0), None, "image will run as root"),
        (ImageStatus("x", "y", username="web"), None, "non-numeric user"),
        (ImageStatus("x", "y", uid=33), 0, "runAsUser breaks non-root policy"),
    ):
        context = {"runAsNonRoot": True, **({} if user is None else {"runAsUser": user})}
        with pytest.raises(ConfigError, match=word):
            config.security(one, main(securityContext=context).containers[0], image, PROFILES)
    assert config.security(one, one.containers[0], ImageStatus("x", "y", uid=33), PROFILES).user is None


def test_a_containers_filter_of_system_calls_is_its_own_or_the_pods() -> None:
    def told(own: Object | None, of_pod: Object | None = None) -> str:
        contexts = [{"seccompProfile": profile} if profile else {} for profile in (own, of_pod)]
        one = pod({"name": "main", "securityContext": contexts[0]}, securityContext=contexts[1])
        return config.security(one, one.containers[0], ImageStatus("x", "y"), PROFILES).seccomp

    default, none = {"type": "RuntimeDefault"}, {"type": "Unconfined"}
    assert [told(None), told(default), told(none, default)] == ["", SECCOMP_DEFAULT, ""]
    assert told(None, default) == SECCOMP_DEFAULT
    assert told({"type": "Localhost", "localhostProfile": "a/b.json"}) == str(PROFILES / "a/b.json")
    for outside in ("../x.json", "/etc/x.json", ""):
        with pytest.raises(ConfigError, match="localhostProfile"):
            told({"type": "Localhost", "localhostProfile": outside})


def test_the_containers_own_security_goes_before_the_pods() -> None:
    one = pod(
        {"name": "main", "securityContext": {"runAsUser": 5, "capabilities": {"drop": ["ALL"]}}},
        securityContext={"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]},
    )
    found = config.security(one, one.containers[0], ImageStatus("x", "y"), PROFILES)
    assert (found.user, found.group, found.supplemental_groups) == (5, 2, (4, 3))
    assert found.drop_capabilities == ("ALL",)
