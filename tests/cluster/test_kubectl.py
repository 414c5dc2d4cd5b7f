"""The kubectl on the machine does its everyday work on the lab, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.cluster import GUESTBOOK, NETPLANE, Lab, eventually, run


@pytest.fixture(scope="module")
def guestbook(lab: Lab) -> Iterator[Lab]:
    lab.kubectl("create", "namespace", "shop")
    lab.kubectl("apply", "-n", "shop", "-f", str(GUESTBOOK))
    for name in ("leader", "follower", "frontend"):
        lab.kubectl("rollout", "status", "-n", "shop", f"deployment/{name}", "--timeout=60s")
    yield lab
    lab.kubectl("delete", "namespace", "shop", "--timeout=60s", limit=90)
    assert "shop" not in lab.kubectl("get", "namespaces")


def shop(lab: Lab, *arguments: str, **options: object) -> str:
    return lab.kubectl("-n", "shop", *arguments, **options)


def frontend(lab: Lab) -> str:
    return shop(lab, "get", "pods", "-l", "tier=frontend", "-o", "jsonpath={.items[0].metadata.name}")


def test_get_wide_names_address_and_node(guestbook: Lab) -> None:
    lines = shop(guestbook, "get", "pods", "-o", "wide").splitlines()
    assert lines[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert len(lines) == 7
    assert all("1/1" in line and "Running" in line and "node-" in line for line in lines[1:])


def test_get_all_shows_every_kind_of_the_application(guestbook: Lab) -> None:
    shown = shop(guestbook, "get", "all")
    for start in ("pod/frontend-", "service/frontend", "deployment.apps/frontend", "replicaset.apps/frontend-"):
        assert start in shown


def test_applying_again_changes_nothing(guestbook: Lab) -> None:
    said = shop(guestbook, "apply", "-f", str(GUESTBOOK))
    assert said.count("unchanged") == 9, said


def test_server_side_apply_takes_the_same_file(guestbook: Lab) -> None:
    said = shop(guestbook, "apply", "--server-side", "--force-conflicts", "-f", str(GUESTBOOK))
    assert said.count("serverside-applied") == 9


def test_describe_tells_events_and_endpoints(guestbook: Lab) -> None:
    pod = shop(guestbook, "describe", "pod", frontend(guestbook))
    for fact in (
        "Successfully assigned",
        "Started container echo",
        "netplane.local/echo:1",
        "Controlled By:  ReplicaSet/",
    ):
        assert fact in pod
    service = shop(guestbook, "describe", "service", "frontend")
    assert service.count(":8080") >= 3


def test_the_configmap_reaches_the_environment_and_the_volume(guestbook: Lab) -> None:
    assert "GREETING=Hello from the guestbook" in shop(
        guestbook,
        "exec",
        frontend(guestbook),
        "--",
        "/usr/bin/python3.11",
        "-ISc",
        "import os; print(*(f'{k}={v}' for k, v in os.environ.items()), sep=chr(10))",
    )
    page = shop(guestbook, "exec", "deploy/follower", "--", "cat", "/www/index.html")
    assert page.startswith("<h1>Guestbook</h1>")


def test_exec_hands_the_exit_code_and_both_streams_back(guestbook: Lab) -> None:
    done = run(
        *(
            "env",
            f"KUBECONFIG={guestbook.folders.admin_kubeconfig}",
            "kubectl",
            "-n",
            "shop",
            "exec",
            "deploy/follower",
        ),
        *("--", "sh", "-c", "echo out; echo err >&2; exit 7"),
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err" in done.stderr


def test_exec_takes_standard_input(guestbook: Lab) -> None:
    assert shop(guestbook, "exec", "-i", "deploy/follower", "--", "wc", "-c", stdin="12345") == "5\n"


def test_logs_follow_what_the_container_says(guestbook: Lab) -> None:
    shop(guestbook, "run", "talker", "--image=netplane.local/busybox:1", "--restart=Never", "--",
         "sh", "-c", "echo one; sleep 1; echo two")  # fmt: skip
    shop(guestbook, "wait", "--for=jsonpath={.status.phase}=Running", "pod/talker", "--timeout=20s")
    assert shop(guestbook, "logs", "-f", "talker") == "one\ntwo\n"
    eventually(lambda: "Completed" in shop(guestbook, "get", "pod", "talker"))
    assert shop(guestbook, "logs", "--tail=1", "talker") == "two\n"
    shop(guestbook, "delete", "pod", "talker")


def test_scale_label_wait_and_events(guestbook: Lab) -> None:
    shop(guestbook, "scale", "deployment/leader", "--replicas=3")
    shop(guestbook, "wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/leader", "--timeout=30s")
    assert "ScalingReplicaSet" in shop(guestbook, "events", "--for", "deployment/leader")
    shop(guestbook, "label", "deployment/leader", "season=winter")
    assert "leader" in shop(guestbook, "get", "deployments", "-l", "season in (winter, autumn)", "-o", "name")
    shop(guestbook, "scale", "deployment/leader", "--replicas=1")
    shop(guestbook, "wait", "--for=jsonpath={.status.replicas}=1", "deployment/leader", "--timeout=30s")


def test_rollout_restart_undo_and_history(guestbook: Lab) -> None:
    shop(guestbook, "set", "env", "deployment/frontend", "VERSION=2")
    shop(guestbook, "rollout", "status", "deployment/frontend", "--timeout=60s")
    assert len(shop(guestbook, "rollout", "history", "deployment/frontend").strip().splitlines()) == 4
    shop(guestbook, "rollout", "undo", "deployment/frontend")
    shop(guestbook, "rollout", "status", "deployment/frontend", "--timeout=60s")
    template = guestbook.get("-n", "shop", "deployment", "frontend")["spec"]["template"]["spec"]
    assert "VERSION" not in json.dumps(template)
    shop(guestbook, "rollout", "restart", "deployment/follower")
    assert "successfully rolled out" in shop(guestbook, "rollout", "status", "deployment/follower", "--timeout=60s")


def test_explain_knows_the_fields(guestbook: Lab) -> None:
    shown = guestbook.kubectl("explain", "deployment.spec.strategy.rollingUpdate")
    assert "maxSurge" in shown
    assert "maxUnavailable" in shown


def test_a_misspelt_field_is_refused_by_name(guestbook: Lab) -> None:
    manifest = GUESTBOOK.read_text().replace("replicas: 3", "replica: 3")
    done = run("env", f"KUBECONFIG={guestbook.folders.admin_kubeconfig}", "kubectl", "-n", "shop", "apply", "-f", "-",
               stdin=manifest, check=False)  # fmt: skip
    assert done.returncode == 1
    assert 'unknown field "spec.replica"' in done.stderr


def test_a_missing_image_is_told_by_the_pods_events(guestbook: Lab) -> None:
    shop(guestbook, "run", "lost", "--image=netplane.local/nothing:1")
    eventually(lambda: "ImagePull" in shop(guestbook, "get", "pod", "lost"))
    assert "netplane.local/nothing:1" in shop(guestbook, "events", "--for", "pod/lost")
    shop(guestbook, "delete", "pod", "lost", "--grace-period=1")


def test_the_printed_environment_makes_kubectl_work(guestbook: Lab) -> None:
    shell = f'eval "$({NETPLANE} lab env --name={guestbook.name})" && kubectl get nodes -o name'
    done = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": "/root"},
    )
    assert done.stdout.split() == ["node/node-1", "node/node-2", "node/node-3"]
