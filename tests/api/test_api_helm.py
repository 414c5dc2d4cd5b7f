"""helm on the server: releases from install to uninstall, their waits and hooks, by client-go's own informers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import apiserver, helm_chart, instant_agent, kubectls

Ask = Callable[..., str]
_PATIENT = ("--node-monitor-grace-period", "24h", "--node-startup-grace-period", "24h")
"""The agent keeps no Lease."""
_OLDEST_AND_NEWEST = sorted({*list(kubectls.programs().values())[:1], *list(kubectls.programs().values())[-1:]})
_WAIT = ("--wait", "--timeout", "60s")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.Server]:
    """A server with one node on which every pod is ready at once."""
    folder = tmp_path_factory.mktemp("helm")
    with apiserver.running(folder / "data", options=_PATIENT) as running:
        agent = [sys.executable, instant_agent.__file__, str(running.kubeconfig), "node-1"]
        with subprocess.Popen(agent) as process:
            try:
                yield running
            finally:
                process.kill()


@pytest.fixture(scope="module")
def helm(served: apiserver.Server, tmp_path_factory: pytest.TempPathFactory) -> helm_chart.Helm:
    """helm as the administrator runs it."""
    return helm_chart.Helm(served.kubeconfig, tmp_path_factory.mktemp("helm-home"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the large chart."""
    return str(helm_chart.shop(tmp_path_factory.mktemp("chart") / "shop"))


@pytest.fixture(scope="module")
def ask(served: apiserver.Server, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """The newest kubectl."""
    home = tmp_path_factory.mktemp("kubectl-home")

    def run(*arguments: str) -> str:
        line = [kubectls.newest(), *arguments]
        environment = {"KUBECONFIG": str(served.kubeconfig), "HOME": str(home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


def data(ask: Ask, namespace: str, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(ask("-n", namespace, "get", "cm", name, "-o", "jsonpath={.data}"))
    return found


def history(helm: helm_chart.Helm, namespace: str, name: str) -> list[tuple[str, str]]:
    found: list[dict[str, Any]] = json.loads(helm("history", name, "-n", namespace, "-o", "json"))
    return [(each["status"], each["description"]) for each in found]


def test_a_release_lives_from_install_to_uninstall(helm: helm_chart.Helm, ask: Ask, shop: str) -> None:
    assert "STATUS: deployed" in helm("install", "a", shop, "-n", "life", "--create-namespace", *_WAIT)
    assert ask("-n", "life", "get", "rs", "-l", "app=a", "-o", "jsonpath={.items[*].status.readyReplicas}") == "2"
    assert ask("-n", "life", "get", "widget", "a", "-o", "jsonpath={.spec}") == '{"colour":"red","size":3}'
    assert data(ask, "life", "a")["widgets"] == "true"
    assert data(ask, "life", "a")["kubernetes"].startswith("v1.33")
    assert "Shop of a." in helm("status", "a", "-n", "life")
    assert "kind: Widget" in helm("get", "manifest", "a", "-n", "life")
    assert "helm.sh/hook: pre-install" in helm("get", "hooks", "a", "-n", "life")

    assert "STATUS: deployed" in helm("upgrade", "a", shop, "-n", "life", "--set", "colour=blue,replicas=1")
    assert data(ask, "life", "a")["colour"] == "blue"
    assert ask("-n", "life", "get", "deploy", "a", "-o", "jsonpath={.spec.replicas}") == "1"
    assert json.loads(helm("get", "values", "a", "-n", "life", "-o", "json")) == {"colour": "blue", "replicas": 1}

    assert "Rollback was a success" in helm("rollback", "a", "1", "-n", "life")
    assert data(ask, "life", "a")["colour"] == "red"
    assert ask("-n", "life", "get", "deploy", "a", "-o", "jsonpath={.spec.replicas}") == "2"
    assert history(helm, "life", "a") == [
        ("superseded", "Install complete"),
        ("superseded", "Upgrade complete"),
        ("deployed", "Rollback to 1"),
    ]
    assert [each["name"] for each in json.loads(helm("list", "-A", "-o", "json", "-f", "^a$"))] == ["a"]

    assert "Phase:          Succeeded" in helm("test", "a", "-n", "life", "--timeout", "60s")
    assert ask("-n", "life", "get", "jobs", "-o", "name") == "", "a hook that succeeded stayed"

    assert "uninstalled" in helm("uninstall", "a", "-n", "life", *_WAIT)
    kinds = "deploy,svc,secrets,sa,roles,rolebindings,ingress,pdb,hpa,widgets,jobs"
    left = ask("-n", "life", "get", kinds, "-o", "name").split()
    assert left == ["serviceaccount/default"]
    assert ask("get", "crd", "widgets.shop.example", "-o", "name"), "helm never removes definitions"


def test_an_upgrade_that_is_refused_is_rolled_back(helm: helm_chart.Helm, ask: Ask, shop: str) -> None:
    helm("install", "b", shop, "-n", "atomic", "--create-namespace", "--no-hooks")
    wanted = ("--set", "colour=blue,replicas=-1", "--atomic", "--no-hooks", "--timeout", "60s")
    why = helm("upgrade", "b", shop, "-n", "atomic", *wanted, is_refused=True)
    assert 'Deployment.apps "b" is invalid: spec.replicas: Invalid value: -1' in why
    assert "rolled back due to atomic being set" in why
    assert data(ask, "atomic", "b")["colour"] == "red"
    assert [status for status, _ in history(helm, "atomic", "b")] == ["superseded", "failed", "deployed"]


def test_an_upgrade_that_does_not_get_ready_in_time_fails(helm: helm_chart.Helm, ask: Ask, tmp_path: Path) -> None:
    web = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nspec: {containers: [{name: a, image: 'fails:1'}]}\n"
    chart = helm_chart.write(tmp_path / "web", {"web.yaml": web})
    late = ("-n", "late", "--create-namespace", "--wait", "--timeout", "1s")
    assert "deadline" in helm("install", "c", str(chart), *late, is_refused=True)
    assert history(helm, "late", "c")[0][0] == "failed"


def test_a_hook_that_fails_stops_the_release_and_is_removed(helm: helm_chart.Helm, ask: Ask, tmp_path: Path) -> None:
    templates = {
        "hook.yaml": helm_chart.hook("pre-install", image="fails:1", policy="hook-failed"),
        "config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\n",
    }
    chart = str(helm_chart.write(tmp_path / "sad", templates))
    why = helm("install", "d", chart, "-n", "sad", "--create-namespace", "--timeout", "60s", is_refused=True)
    assert "job d-pre-install failed: BackoffLimitExceeded" in why
    assert ask("-n", "sad", "get", "jobs,cm", "-o", "name").split() == ["configmap/kube-root-ca.crt"]


def test_what_is_tried_dry_sees_the_cluster_and_changes_nothing(helm: helm_chart.Helm, ask: Ask, shop: str) -> None:
    ask("create", "namespace", "dry")
    ask("-n", "dry", "create", "cm", "seen", "--from-literal=word=hello")
    # Definitions are not made in a dry run either: whoever comes first leaves them here.
    ask("apply", "--server-side", "-f", f"{shop}/crds")
    before = ask("-n", "dry", "get", "cm,secrets,deploy,widgets", "-o", "name")
    assert "seen: hello" in helm("install", "e", shop, "-n", "dry", "--dry-run=server")
    assert "seen: hello" in helm("template", "e", shop, "-n", "dry", "--validate", "--dry-run=server")
    assert ask("-n", "dry", "get", "cm,secrets,deploy,widgets", "-o", "name") == before


def test_an_object_of_somebody_else_is_taken_only_when_told_to(helm: helm_chart.Helm, ask: Ask, tmp_path: Path) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\ndata: {by: helm}\n"
    chart = str(helm_chart.write(tmp_path / "one", {"config.yaml": config}))
    ask("create", "namespace", "taken")
    ask("-n", "taken", "create", "cm", "f", "--from-literal=by=hand")
    assert "invalid ownership metadata" in helm("install", "f", chart, "-n", "taken", is_refused=True)
    helm("install", "f", chart, "-n", "taken", "--take-ownership")
    assert data(ask, "taken", "f") == {"by": "helm"}


def test_an_upgrade_mends_what_was_changed_by_hand(helm: helm_chart.Helm, ask: Ask, shop: str) -> None:
    helm("install", "g", shop, "-n", "drift", "--create-namespace", "--no-hooks")
    ask("-n", "drift", "scale", "deploy", "g", "--replicas=3")
    ask("-n", "drift", "label", "deploy", "g", "mine=stays")
    ask("-n", "drift", "delete", "secret", "g")
    address = ask("-n", "drift", "get", "svc", "g", "-o", "jsonpath={.spec.clusterIP}")
    helm("upgrade", "g", shop, "-n", "drift", "--reuse-values", "--no-hooks")
    seen = ask("-n", "drift", "get", "deploy", "g", "-o", "jsonpath={.spec.replicas} {.metadata.labels.mine}")
    assert seen == "2 stays"
    assert ask("-n", "drift", "get", "secret", "g", "-o", "name") == "secret/g\n"
    # By replacing instead of patching: what was allotted stays.
    helm("upgrade", "g", shop, "-n", "drift", "--force", "--no-hooks", "--set", "colour=green")
    assert data(ask, "drift", "g")["colour"] == "green"
    assert ask("-n", "drift", "get", "svc", "g", "-o", "jsonpath={.spec.clusterIP}") == address


def test_every_workload_is_waited_for_and_what_shall_stay_stays(
    helm: helm_chart.Helm, ask: Ask, tmp_path: Path
) -> None:
    chart = str(helm_chart.others(tmp_path / "others"))
    helm("install", "h", chart, "-n", "all", "--create-namespace", "--wait-for-jobs", *_WAIT)
    assert ask("-n", "all", "get", "sts", "h", "-o", "jsonpath={.status.readyReplicas}") == "2"
    assert ask("-n", "all", "get", "ds", "h", "-o", "jsonpath={.status.numberReady}") == "1"
    assert ask("-n", "all", "get", "job", "h", "-o", "jsonpath={.status.succeeded}") == "1"
    assert "h-kept" in helm("uninstall", "h", "-n", "all")
    ask("-n", "all", "wait", "--for=delete", "sts/h", "ds/h", "jobs/h", "--timeout=40s")
    assert ask("-n", "all", "get", "cm", "-o", "name").split() == ["configmap/h-kept", "configmap/kube-root-ca.crt"]


def test_rights_in_one_namespace_suffice_there_alone(helm: helm_chart.Helm, ask: Ask, tmp_path: Path) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\n"
    chart = str(helm_chart.write(tmp_path / "one", {"config.yaml": config}))
    ask("create", "namespace", "hers")
    ask("-n", "hers", "create", "rolebinding", "ann", "--clusterrole=admin", "--user=ann")
    helm("install", "i", chart, "-n", "hers", "--kube-as-user", "ann")
    why = helm("install", "i", chart, "-n", "default", "--kube-as-user", "ann", is_refused=True)
    assert 'User "ann" cannot get resource "configmaps" in API group "" in the namespace "default"' in why


@pytest.mark.parametrize("program", _OLDEST_AND_NEWEST, ids=lambda path: Path(path).name)
def test_kubectl_waits_by_an_informer(served: apiserver.Server, home: Path, program: str) -> None:
    namespace = f"waits-{Path(program).name.replace('.', '-')}"
    environment = {"KUBECONFIG": str(served.kubeconfig), "HOME": str(home), "PATH": "/usr/bin:/bin"}

    def run(*arguments: str) -> str:
        line = [program, "-n", namespace, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    run("create", "namespace", namespace)
    line = [program, "-n", namespace, "events", "--watch"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as events:
        try:
            run("create", "deployment", "web", "--image=echo:1", "--replicas=2")
            assert "successfully rolled out" in run("rollout", "status", "deploy/web", "--timeout=40s")
            assert "condition met" in run("wait", "--for=condition=Available", "deploy/web", "--timeout=40s")
            assert events.stdout is not None
            assert any("ScalingReplicaSet" in line for line in events.stdout)
        finally:
            events.kill()
    run("delete", "deploy", "web", "--cascade=foreground", "--timeout=40s")
    assert run("get", "deploy,rs", "-o", "name") == ""
