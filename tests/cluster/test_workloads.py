"""Workloads of every kind run, fail and go as on any cluster, told by kubectl in the usual words."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import Lab, echo, eventually

SPACE = "work"
BUSYBOX = "netplane.local/busybox:1"


def container(script: str = ":", **fields: Any) -> dict[str, Any]:
    """A container named c that runs a script; it heeds SIGTERM at once."""
    command = ["sh", "-c", f"trap 'exit 0' TERM; {script}; while :; do sleep 0.1; done"]
    return {"name": "c", "image": BUSYBOX, "command": command, **fields}


def pod(name: str, *containers: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod of the test's namespace."""
    metadata = {"name": name, "namespace": SPACE, "labels": labels or {}}
    wanted = {"containers": list(containers) or [container()], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": wanted}


def made(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An object of another kind."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


def lapses() -> Iterator[dict[str, Any]]:
    """Pods that cannot live, each for another reason."""
    mount: dict[str, Any] = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    key = {"secretKeyRef": {"name": "kept", "key": "absent"}}
    yield pod("miss-map", container(envFrom=[{"configMapRef": {"name": "absent"}}]))
    yield pod("miss-key", container(env=[{"name": "A", "valueFrom": key}]))
    yield pod("miss-volume", container(**mount), volumes=[{"name": "v", "secret": {"secretName": "absent"}}])
    yield pod("no-image", {"name": "c", "image": "netplane.local/absent:1"})
    yield pod("no-command", {"name": "c", "image": BUSYBOX, "command": ["absent"]})
    yield pod("crash", {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", "echo boom; exit 3"]})
    limits = {"limits": {"memory": "20Mi"}}
    hungry = {"name": "c", "image": BUSYBOX, "command": ["tail", "/dev/zero"], "resources": limits}
    yield pod("hungry", hungry, restartPolicy="Never")
    yield pod("late", activeDeadlineSeconds=3, terminationGracePeriodSeconds=1)
    yield pod("too-big", container(resources={"requests": {"cpu": "999"}}))
    yield pod("root", container(), securityContext={"runAsNonRoot": True})


@pytest.fixture(scope="module")
def work(lab: Lab) -> Iterator[Lab]:
    """A namespace with all that fails already failing, so that nobody waits for a back-off."""
    lab.kubectl("create", "namespace", SPACE)
    in_work(lab, "create", "secret", "generic", "kept", "--from-literal=a=b")
    lab.apply(*lapses())
    yield lab
    lab.kubectl("delete", "namespace", SPACE, "--timeout=60s", limit=90)


def in_work(lab: Lab, *arguments: str, **options: Any) -> str:
    return lab.kubectl("-n", SPACE, *arguments, **options)


def ready(lab: Lab, *names: str) -> None:
    in_work(lab, "wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=20s")


def run_in(lab: Lab, name: str, script: str) -> str:
    return in_work(lab, "exec", name, "-c", "c", "--", "sh", "-c", script)


def one(lab: Lab, name: str) -> dict[str, Any]:
    return lab.get("pod", name, "-n", SPACE)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("miss-map", "CreateContainerConfigError"),
        ("miss-key", "CreateContainerConfigError"),
        ("miss-volume", "ContainerCreating"),
        ("no-image", "ErrImagePull|ImagePullBackOff"),
        ("no-command", "RunContainerError|CrashLoopBackOff"),
        ("crash", "CrashLoopBackOff"),
        ("hungry", "OOMKilled"),
        ("late", "Error|Completed|DeadlineExceeded"),
        ("too-big", "Pending"),
        ("root", "CreateContainerConfigError"),
    ],
)
def test_a_pod_that_cannot_live_is_listed_with_its_reason(work: Lab, name: str, shown: str) -> None:
    def state() -> bool:
        """listed with its reason"""
        return bool(re.fullmatch(shown, in_work(work, "get", "pod", name, "--no-headers").split()[2]))

    eventually(state)


def test_the_events_say_what_is_missing(work: Lab) -> None:
    said = {
        "miss-map": 'configmap "absent" not found',
        "miss-key": "couldn't find key absent in Secret work/kept",
        "miss-volume": 'MountVolume.SetUp failed for volume "v" : secret "absent" not found',
        "no-image": 'Failed to pull image "netplane.local/absent:1"',
        "too-big": "3 Insufficient cpu",
        "crash": "Back-off restarting failed container c",
    }
    for name, text in said.items():
        eventually(lambda name=name, text=text: text in in_work(work, "events", "--for", f"pod/{name}"))  # type: ignore[misc]  # bound at once


def test_how_a_container_ended_is_in_its_status(work: Lab) -> None:
    eventually(lambda: one(work, "late")["status"].get("reason") == "DeadlineExceeded")
    hungry = one(work, "hungry")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (hungry["reason"], hungry["exitCode"]) == ("OOMKilled", 137)
    assert in_work(work, "logs", "crash", "-p") == "boom\n"


def test_containers_of_a_pod_share_localhost_and_volumes_and_init_containers_go_first(work: Lab) -> None:
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    first = {"name": "first", "image": BUSYBOX, "command": ["sh", "-c", "echo left > /v/page"], **mount}
    aside = container("httpd -p 8099 -h /v", name="aside", restartPolicy="Always", **mount)
    memory = [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    work.apply(pod("many", container(), initContainers=[first, aside], volumes=memory))
    ready(work, "many")
    assert run_in(work, "many", "wget -qO- http://127.0.0.1:8099/page") == "left\n"
    assert in_work(work, "get", "pod", "many", "--no-headers").split()[1] == "2/2"


def test_objects_reach_volumes_when_they_change_but_not_sub_paths(work: Lab) -> None:
    work.kubectl("-n", SPACE, "create", "configmap", "conf", "--from-literal=key=old")
    names = {"fieldRef": {"fieldPath": "metadata.labels"}}
    volumes = [
        {"name": "v", "configMap": {"name": "conf"}},
        {"name": "d", "downwardAPI": {"items": [{"path": "labels", **names}]}},
    ]
    mounts = [
        {"name": "v", "mountPath": "/v"},
        {"name": "d", "mountPath": "/d"},
        {"name": "v", "mountPath": "/s/key", "subPath": "key"},
    ]
    work.apply(pod("shown", container(volumeMounts=mounts), volumes=volumes))
    ready(work, "shown")
    in_work(work, "patch", "configmap", "conf", "-p", '{"data":{"key":"new"}}')
    in_work(work, "label", "pod", "shown", "color=blue")
    eventually(lambda: run_in(work, "shown", "cat /v/key /s/key /d/labels") == 'newoldcolor="blue"')
    assert "Read-only" in run_in(work, "shown", "touch /v/x 2>&1 || true")


def test_probes_take_a_pod_out_of_its_service_and_restart_it(work: Lab) -> None:
    probe = {"periodSeconds": 1, "failureThreshold": 1}
    probes = {
        "readinessProbe": {"exec": {"command": ["test", "-e", "/ready"]}, **probe},
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/dead"]}, **probe},
        "ports": [{"containerPort": 80}],
    }
    work.apply(pod("probed", container("touch /ready", **probes), labels={"app": "probed"}))
    in_work(work, "expose", "pod", "probed", "--port=80")
    ready(work, "probed")

    def endpoints() -> str:
        return in_work(work, "get", "endpoints", "probed", "-o", "jsonpath={.subsets[*].addresses[*].ip}")

    eventually(endpoints)
    run_in(work, "probed", "rm /ready")
    eventually(lambda: endpoints() == "")
    run_in(work, "probed", "touch /ready")
    eventually(endpoints)
    run_in(work, "probed", "touch /dead")
    eventually(lambda: one(work, "probed")["status"]["containerStatuses"][0]["restartCount"] == 1)
    ready(work, "probed")


def test_a_pod_reaches_the_api_by_its_service_and_may_do_what_its_account_may(work: Lab) -> None:
    work.apply(pod("caller"))
    ready(work, "caller")
    caller = one(work, "caller")
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    token, ca = (run_in(work, "caller", f"cat {folder}/{name}") for name in ("token", "ca.crt"))
    trust = work.folders.run / "caller-ca.crt"
    trust.write_text(ca)
    inside = ("nsenter", f"--net=/run/netplane/netns/{caller['metadata']['uid']}")
    address = run_in(work, "caller", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT").strip()

    def code(path: str) -> str:
        bearer = ("-H", f"Authorization: Bearer {token}", "--cacert", str(trust), "--noproxy", "*", "--max-time", "5")
        asked = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *bearer, f"https://{address}{path}")
        return work.enter(caller["spec"]["nodeName"], *inside, *asked).stdout

    pods = f"/api/v1/namespaces/{SPACE}/pods"
    assert code(pods) == "403"
    in_work(work, "create", "rolebinding", "reads", "--clusterrole=view", f"--serviceaccount={SPACE}:default")
    assert eventually(lambda: code(pods) == "200")
    assert code(f"/api/v1/namespaces/{SPACE}/secrets") == "403"


def test_a_terminal_has_a_size_a_type_and_an_exit_code(work: Lab) -> None:
    work.apply(pod("terminal"))
    ready(work, "terminal")
    kubeconfig = f"KUBECONFIG={work.folders.admin_kubeconfig}"
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 99))
    argv = ["env", kubeconfig, "kubectl", "-n", SPACE, "exec", "-it", "terminal", "--", "sh"]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as shell:
        os.close(theirs)
        # The size comes on a channel of its own, a moment after the shell has started.
        os.write(ours, b'until [ "$(stty size)" != "0 0" ]; do sleep 0.1; done; echo =$(stty size)=$TERM=; exit 5\n')
        said = _everything(ours, 10)
        assert shell.wait(10) == 5
    os.close(ours)
    assert "=33 99=xterm=" in said


def _everything(terminal: int, seconds: float) -> str:
    said, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:
            break
        said += data
    return said.decode()


def test_files_are_copied_both_ways_and_ports_forwarded(work: Lab, tmp_path: Any) -> None:
    work.apply(pod("server", container("mkdir /w; echo page > /w/x; httpd -p 8080 -h /w")))
    ready(work, "server")
    (tmp_path / "sent").write_bytes(os.urandom(3 << 20))
    in_work(work, "cp", str(tmp_path / "sent"), "server:/w/sent")
    in_work(work, "cp", "server:/w/sent", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
    kubeconfig = f"KUBECONFIG={work.folders.admin_kubeconfig}"
    argv = ["env", kubeconfig, "kubectl", "-n", SPACE, "port-forward", "pod/server", ":8080"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            port = re.search(r"127\.0\.0\.1:(\d+)", forwarding.stdout.readline())
            assert port is not None
            got = subprocess.run(
                ["curl", "-sS", "--noproxy", "*", "--max-time", "5", f"http://127.0.0.1:{port[1]}/sent"],
                capture_output=True,
                check=True,
            )
            assert got.stdout == (tmp_path / "sent").read_bytes()
        finally:
            forwarding.terminate()


def test_a_daemon_set_on_the_host_network_answers_at_every_node(work: Lab) -> None:
    labels = {"app": "host"}
    served = container("httpd -p 9099 -h /etc", ports=[{"containerPort": 9099}])
    template = {"metadata": {"labels": labels}, "spec": {"hostNetwork": True, "containers": [served]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    work.apply(made("apps/v1", "DaemonSet", "host", spec))
    in_work(work, "rollout", "status", "daemonset/host", "--timeout=20s")
    for number in (1, 2, 3):
        asked = ("curl", "-sS", "--max-time", "5", f"http://172.30.0.1{number}:9099/hostname")
        assert work.enter("client", *asked).stdout.strip() == f"node-{number}"


def test_a_stateful_set_comes_and_goes_in_order_and_leaves_orphans_on_demand(work: Lab) -> None:
    labels = {"app": "ordered"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container()]}}
    spec = {"serviceName": "ordered", "replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    work.apply(made("apps/v1", "StatefulSet", "ordered", spec))
    in_work(work, "rollout", "status", "statefulset/ordered", "--timeout=20s")
    first, second = (one(work, f"ordered-{number}") for number in (0, 1))
    ready_at = next(c for c in first["status"]["conditions"] if c["type"] == "Ready")["lastTransitionTime"]
    assert ready_at <= second["metadata"]["creationTimestamp"]
    in_work(work, "delete", "statefulset", "ordered", "--cascade=orphan")
    assert in_work(work, "get", "pods", "-l", "app=ordered", "-o", "name").split() == ["pod/ordered-0", "pod/ordered-1"]
    in_work(work, "delete", "pods", "-l", "app=ordered", "--timeout=20s")


def test_jobs_count_what_succeeded_and_give_up_on_what_fails(work: Lab) -> None:
    in_work(work, "create", "job", "good", f"--image={BUSYBOX}", "--", "echo", "done")
    never = {"restartPolicy": "Never", "containers": [{"name": "c", "image": BUSYBOX, "command": ["false"]}]}
    work.apply(made("batch/v1", "Job", "bad", {"backoffLimit": 0, "template": {"spec": never}}))
    in_work(work, "wait", "--for=condition=Complete", "job/good", "--timeout=15s")
    assert in_work(work, "logs", "job/good") == "done\n"
    in_work(work, "wait", "--for=condition=Failed", "job/bad", "--timeout=15s")
    assert "BackoffLimitExceeded" in in_work(work, "describe", "job", "bad")


def test_a_drain_empties_a_node_as_fast_as_the_budget_allows(work: Lab) -> None:
    work.apply(echo("guarded", 3, namespace=SPACE))
    in_work(work, "create", "pdb", "guarded", "--selector=app=guarded", "--max-unavailable=1")
    in_work(work, "rollout", "status", "deployment/guarded", "--timeout=30s")
    in_work(work, "wait", "--for=jsonpath={.status.disruptionsAllowed}=1", "pdb/guarded", "--timeout=10s")
    try:
        told = work.kubectl("drain", "node-2", "--force", "--ignore-daemonsets", "--delete-emptydir-data",
                            "--pod-selector=app=guarded", "--timeout=30s")  # fmt: skip
        assert "evicted" in told
        assert "node/node-2 drained" in told
    finally:
        work.kubectl("uncordon", "node-2")


def test_a_deletion_in_a_hurry_cuts_a_restart_short(work: Lab) -> None:
    deaf = {"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"]}
    work.apply(pod("deaf", deaf, terminationGracePeriodSeconds=60))
    ready(work, "deaf")
    in_work(work, "set", "image", "pod/deaf", "c=netplane.local/absent:1")
    eventually(lambda: "will be restarted" in in_work(work, "events", "--for", "pod/deaf"))
    in_work(work, "delete", "pod", "deaf", "--now", "--timeout=15s")


def test_many_pods_come_at_once_and_leave_nothing_behind(work: Lab) -> None:
    names = [f"node-{number}" for number in (1, 2, 3)]

    def traces() -> dict[str, tuple[int, ...]]:
        places = ("ip -o link", "ls /run/netplane/netns", "cat /proc/mounts", "ip route", "ip -6 route")
        script = "; ".join(f"{place} | wc -l" for place in (*places, "ls /var/lib/netplane/agent/pods"))
        return {name: tuple(map(int, work.enter(name, "sh", "-c", script).stdout.split())) for name in names}

    # Owners first: a pod made anew and ended at once may get its signal before it heeds it.
    in_work(work, "delete", "deployments,daemonsets,jobs", "--all", "--cascade=orphan")
    in_work(work, "delete", "pods", "--all", "--grace-period=1", "--timeout=30s")

    def settled() -> dict[str, tuple[int, ...]]:
        """the nodes hold the folders of the pods there are, and no more"""
        homes = [found["spec"].get("nodeName") for found in work.get("pods", "-A")["items"]]
        found = traces()
        return found if all(found[name][-1] == homes.count(name) for name in names) else {}

    before = eventually(settled)
    in_work(work, "create", "deployment", "crowd", f"--image={BUSYBOX}", "--replicas=21", "--", "sh", "-c",
            "trap 'exit 0' TERM; while :; do sleep 0.5; done")  # fmt: skip
    in_work(work, "rollout", "status", "deployment/crowd", "--timeout=60s", limit=70)
    assert all(found[0] > before[name][0] for name, found in traces().items())
    in_work(work, "delete", "deployment", "crowd", "--cascade=foreground", "--timeout=60s", limit=70)

    def nothing_left() -> bool:
        assert traces() == before
        return True

    eventually(nothing_left)
