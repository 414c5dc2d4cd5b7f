"""Several API servers on one etcd are one cluster to their clients: what one says holds at the others."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import apiserver, many_servers
from tests.support.http_client import Client

MAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[many_servers.Many]:
    with many_servers.running(tmp_path_factory.mktemp("many"), servers=2) as running:
        yield running


def clients(many: many_servers.Many) -> list[Client]:
    return [Client(server) for server in many.servers]


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def test_what_was_answered_by_one_server_is_what_the_other_one_shows_next(many: many_servers.Many) -> None:
    one, other = clients(many)
    for number in range(20):
        path = f"{MAPS}/seen-{number}"
        code, made = one.ask("POST", MAPS, {"metadata": {"name": f"seen-{number}"}})
        assert code == 201
        assert other.ask("GET", path) == (200, made)
        assert other.ask("DELETE", path)[0] == 200
        assert one.ask("GET", path)[0] == 404
        assert one.ask("POST", MAPS, {"metadata": {"name": f"seen-{number}"}})[0] == 201


def test_a_replace_from_a_revision_that_the_other_server_gave_is_no_conflict(many: many_servers.Many) -> None:
    one, other = clients(many)
    _, obj = one.ask("POST", MAPS, {"metadata": {"name": "swap"}, "data": {"n": "0"}})
    for number in range(10):
        obj["data"]["n"] = str(number + 1)
        code, obj = (one, other)[number % 2].ask("PUT", f"{MAPS}/swap", obj)
        assert code == 200, obj


def test_a_watch_begun_at_one_server_goes_on_at_the_other_without_a_gap(many: many_servers.Many) -> None:
    one, other = clients(many)
    _, listed = one.ask("GET", MAPS)
    revision = listed["metadata"]["resourceVersion"]
    names = [f"gap-{number}" for number in range(6)]
    for name in names[:3]:
        assert other.ask("POST", MAPS, {"metadata": {"name": name}})[0] == 201
    with one.watch(f"{MAPS}?watch=1&resourceVersion={revision}") as events:
        told = [next(events)["object"]["metadata"] for _ in names[:3]]
    for name in names[3:]:
        assert one.ask("POST", MAPS, {"metadata": {"name": name}})[0] == 201
    with other.watch(f"{MAPS}?watch=1&resourceVersion={told[-1]['resourceVersion']}") as events:
        told += [next(events)["object"]["metadata"] for _ in names[3:]]
    assert [metadata["name"] for metadata in told] == names


def test_a_list_in_pages_may_be_asked_of_one_server_after_the_other(many: many_servers.Many) -> None:
    servers = clients(many)
    for number in range(7):
        body = {"metadata": {"name": f"page-{number}", "labels": {"page": "yes"}}}
        assert servers[0].ask("POST", MAPS, body)[0] == 201
    found, token, turn = [], "", 1
    while True:
        _, page = servers[turn % 2].ask("GET", f"{MAPS}?limit=2&labelSelector=page%3Dyes&continue={token}")
        found += [item["metadata"]["name"] for item in page["items"]]
        token, turn = page["metadata"].get("continue", ""), turn + 1
        if not token:
            break
    assert found == [f"page-{number}" for number in range(7)]


def test_an_address_asked_for_at_two_servers_at_once_is_given_once(many: many_servers.Many) -> None:
    for turn in range(5):
        answers: list[int] = []

        def ask(number: int, client: Client, turn: int = turn, answers: list[int] = answers) -> None:
            wanted = service(f"same-{turn}-{number}", clusterIP=f"10.96.0.{100 + turn}")
            answers.append(client.ask("POST", SERVICES, wanted)[0])

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(clients(many))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [201, 422]


def test_services_made_everywhere_at_once_all_have_addresses_and_ports_of_their_own(many: many_servers.Many) -> None:
    def make(number: int, client: Client) -> None:
        for each in range(15):
            code, made = client.ask("POST", SERVICES, service(f"own-{number}-{each}", type="NodePort"))
            assert code == 201, made

    threads = [threading.Thread(target=make, args=pair) for pair in enumerate(clients(many) * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, listed = clients(many)[0].ask("GET", SERVICES)
    made = [item["spec"] for item in listed["items"] if item["metadata"]["name"].startswith("own-")]
    assert len(made) == 60
    assert len({spec["clusterIP"] for spec in made}) == 60
    assert len({spec["ports"][0]["nodePort"] for spec in made}) == 60


def test_a_definition_given_to_one_server_is_served_by_the_other(many: many_servers.Many) -> None:
    one, other = clients(many)
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "metadata": {"name": "things.example.org"},
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    assert one.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)[0] == 201
    things = "/apis/example.org/v1/namespaces/default/things"
    deadline = time.monotonic() + 10
    while other.ask("GET", things)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert other.ask("POST", things, {"metadata": {"name": "a"}, "spec": {"n": 1}})[0] == 201
    assert one.ask("GET", f"{things}/a")[1]["spec"] == {"n": 1}


def test_each_server_has_a_lease_of_its_own(many: many_servers.Many) -> None:
    one, _ = clients(many)
    _, listed = one.ask("GET", f"{LEASES}?labelSelector=netplane.io%2Fserves%3Dapi")
    held = {item["spec"]["holderIdentity"] for item in listed["items"]}
    assert {f"127.0.0.1_{server.port}" for server in many.servers} <= held


def test_a_server_with_other_keys_is_refused_in_one_line(many: many_servers.Many, tmp_path: Path) -> None:
    options = (*many.options[:-1], str(tmp_path / "other-keys"))
    command = apiserver.command(tmp_path / "data", apiserver.free_port(), options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "with other keys" in done.stderr


def test_etcd_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    options = ("--no-controllers", "--etcd-servers", f"http://127.0.0.1:{apiserver.free_port()}")
    command = apiserver.command(tmp_path / "data", apiserver.free_port(), options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot use etcd at 127.0.0.1:" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--etcd-servers", "etcd.example"), "not HOST:PORT"),
        (("--etcd-servers", "http://a:1,https://b:1"), "all members are"),
        (("--etcd-servers", "https://a:1", "--etcd-certfile", "/etc/hostname"), "go together"),
        (("--etcd-cafile", "/etc/hostname"), "need --etcd-servers"),
        (("--etcd-servers", "https://a:1", "--etcd-cafile", "/nowhere"), "--etcd-cafile"),
    ],
)
def test_a_wrong_option_says_which_and_why(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    command = apiserver.command(tmp_path / "data", apiserver.free_port(), ("--no-controllers", *options))
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "data").exists()


def holder(client: Client, lease: str) -> str:
    code, found = client.ask("GET", f"{LEASES}/{lease}")
    return str(found["spec"].get("holderIdentity", "")) if code == 200 else ""


def test_another_servers_controllers_take_over_when_the_leader_goes(tmp_path: Path) -> None:
    with many_servers.running(tmp_path, servers=2, options=()) as many:
        client = Client(many.servers[1])
        deadline = time.monotonic() + 30
        while not all(holder(client, name) for name in ("kube-controller-manager", "kube-scheduler")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first = holder(client, "kube-controller-manager")
        deployment = {
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "web"}]},
                },
            },
        }
        # The first server to start leads: it is told to go, and gives its leases back.
        assert many.servers[0].stop(signal.SIGTERM) == 0
        assert client.ask("POST", "/apis/apps/v1/namespaces/default/deployments", deployment)[0] == 201
        deadline = time.monotonic() + 40
        while len(client.ask("GET", "/api/v1/namespaces/default/pods")[1]["items"]) != 2:
            assert time.monotonic() < deadline, (many.servers[1].data_dir / "server.log").read_text()
            time.sleep(0.2)
        assert holder(client, "kube-controller-manager") not in ("", first)


def test_no_server_gives_an_address_of_a_range_that_another_one_has_taken_away(many: many_servers.Many) -> None:
    one, other = clients(many)
    ranges = "/apis/networking.k8s.io/v1/servicecidrs"
    for turn in range(3):
        code, made = one.ask(
            "POST", ranges, {"metadata": {"name": f"r{turn}"}, "spec": {"cidrs": [f"10.9.{turn}.0/24"]}}
        )
        assert code == 201, made
        answers: list[tuple[int, Any]] = []

        def ask(turn: int = turn, answers: list[tuple[int, Any]] = answers) -> None:
            for number in range(1, 31):
                wanted = service(f"range-{turn}-{number}", clusterIP=f"10.9.{turn}.{number}")
                answers.append(other.ask("POST", SERVICES, wanted))

        asking = threading.Thread(target=ask)
        asking.start()
        code, gone = one.ask("DELETE", f"{ranges}/r{turn}")
        asking.join()
        assert code == 200, gone
        end = int(gone["metadata"]["resourceVersion"])
        revisions = [int(told["metadata"]["resourceVersion"]) for code, told in answers if code == 201]
        assert all(revision < end for revision in revisions), (revisions, end)
        refused = [told["message"] for code, told in answers if code != 201]
        assert all("does not match the current range" in message for message in refused), refused
        late = service(f"late-{turn}", clusterIP=f"10.9.{turn}.99")
        assert other.ask("POST", SERVICES, late)[0] == 422


def test_an_address_goes_to_a_service_of_one_server_or_to_something_else_of_another(many: many_servers.Many) -> None:
    one, other = clients(many)
    parent = {"group": "example.org", "resource": "doors", "name": "front"}
    for turn in range(5):
        address = f"10.96.0.{200 + turn}"
        shown = {"metadata": {"name": address}, "spec": {"parentRef": parent}}
        reserve = ("/apis/networking.k8s.io/v1/ipaddresses", shown)
        answers: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(one.ask("POST", *reserve)))  # noqa: B023  # joined here
        asking.start()
        code, made = other.ask("POST", SERVICES, service(f"door-{turn}", clusterIP=address))
        asking.join()
        ((reserved, told),) = answers
        assert reserved == 201, told
        if code == 201:
            assert int(made["metadata"]["resourceVersion"]) < int(told["metadata"]["resourceVersion"])
        else:
            assert (code, "already allocated" in made["message"]) == (422, True)
