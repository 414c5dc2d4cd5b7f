"""Several ranges of Service addresses, as people use them: when the first is full another one is added, and leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.conftest import Kubectl, runner
from tests.support import apiserver, kubectls

RANGE = """apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: %s}
spec: {cidrs: [%s]}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Kubectl against a server of its own, which has six addresses, the first of them its own."""
    data, options = tmp_path_factory.mktemp("ranges") / "data", ("--service-cidr", "10.96.0.0/29")
    with apiserver.running(data, options=options) as server:
        yield runner(kubectls.newest(), server, tmp_path_factory.mktemp("home"))


def addresses(run: Kubectl) -> set[str]:
    found: list[dict[str, Any]] = json.loads(run("get", "services", "-o", "json"))["items"]
    return {each["spec"]["clusterIP"] for each in found}


def wait_for(run: Kubectl, name: str, status: str) -> None:
    run("wait", f"--for=condition=Ready={status}", f"servicecidr/{name}", "--timeout=25s")


def test_a_full_cluster_gets_another_range_which_goes_with_its_last_service(run: Kubectl) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        run("create", "service", "clusterip", name, "--tcp=80")
    assert addresses(run) == {f"10.96.0.{number}" for number in range(1, 7)}
    full = run("create", "service", "clusterip", "one-more", "--tcp=80", is_refused=True)
    assert "Internal error occurred: failed to allocate a serviceIP: range is full" in full
    outside = run("create", "service", "clusterip", "one-more", "--tcp=80", "--clusterip=10.97.0.9", is_refused=True)
    assert "failed to allocate IP 10.97.0.9: the provided network does not match the current range" in outside

    run("apply", "-f", "-", stdin=RANGE % ("more", "10.97.0.0/28"))
    wait_for(run, "more", "True")
    assert "10.97.0.0/28" in run("get", "servicecidr", "more")
    run("create", "service", "clusterip", "chosen", "--tcp=80", "--clusterip=10.97.0.9")
    run("create", "service", "clusterip", "given", "--tcp=80")
    assert run("get", "service", "given", "-o", "jsonpath={.spec.clusterIP}").startswith("10.97.0.")

    run("delete", "servicecidr", "more", "--wait=false")
    wait_for(run, "more", "False")
    told = run("get", "servicecidr", "more", "-o", "jsonpath={.status.conditions[0].reason} {.metadata.finalizers}")
    assert told == 'Terminating ["networking.k8s.io/service-cidr-finalizer"]'
    assert "range is full" in run("create", "service", "clusterip", "late", "--tcp=80", is_refused=True)
    assert "current range" in run(
        "create", "service", "clusterip", "late", "--tcp=80", "--clusterip=10.97.0.8", is_refused=True
    )
    run("label", "service", "chosen", "who=stays")
    run("delete", "service", "given", "chosen")
    run("wait", "--for=delete", "servicecidr/more", "--timeout=25s")


def test_the_servers_own_range_may_go_while_a_wider_one_covers_what_is_in_it(run: Kubectl) -> None:
    run("apply", "-f", "-", stdin=RANGE % ("wide", "10.96.0.0/24"))
    wait_for(run, "wide", "True")
    run("delete", "servicecidr", "kubernetes", "--timeout=25s")
    run("create", "service", "clusterip", "wider", "--tcp=80", "--clusterip=10.96.0.200")
    assert {"10.96.0.1", "10.96.0.200"} <= addresses(run)
