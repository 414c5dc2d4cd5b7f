"""What every kubectl asks of a running pod, by way of the server and the node's agent: logs, exec, cp, ports, top."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kubectls
from tests.support.cluster import Lab, eventually

_BUSY = "while :; do :; done"
_FAILING = "echo one; sleep 1; echo two; exit 3"
_SERVING = "mkdir -p /www; echo hello > /www/index.html; httpd -p 127.0.0.1:8080 -h /www; echo serving; exec sleep 3600"
_IMAGE = "--image=netplane.local/busybox:1"
_VERSIONS = sorted(kubectls.programs().items())


@pytest.fixture(scope="module")
def shown(lab: Lab) -> Iterator[Lab]:
    """A namespace with a pod that serves, one that is busy, and one that fails again and again."""
    lab.kubectl("create", "namespace", "shown")
    for name, script in (("serving", _SERVING), ("busy", _BUSY), ("failing", _FAILING)):
        lab.kubectl("-n", "shown", "run", name, _IMAGE, "--", "sh", "-c", script)
    lab.kubectl("-n", "shown", "wait", "--for=condition=Ready", "pod/serving", "pod/busy", "--timeout=40s")
    eventually(lambda: lab.get("-n", "shown", "pod", "failing")["status"]["containerStatuses"][0]["restartCount"] > 0)
    yield lab
    lab.kubectl("-n", "shown", "delete", "pods", "--all", "--now")
    lab.kubectl("delete", "namespace", "shown", "--timeout=40s", limit=60)


def environment(lab: Lab) -> dict[str, str]:
    ways = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "true"}
    return {**os.environ, "KUBECONFIG": str(lab.folders.admin_kubeconfig), **ways}


def tell(lab: Lab, program: str, *arguments: str) -> str:
    command = [program, "-n", "shown", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(lab), check=False)
    assert done.returncode == 0, f"{Path(program).name} {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("version", "program"), _VERSIONS, ids=lambda each: str(each).rpartition("/")[2])
def test_every_kubectl_reads_logs_and_usage(shown: Lab, version: tuple[int, int], program: str) -> None:
    assert tell(shown, program, "logs", "serving", "--tail=1", "--since=1h") == "serving\n"
    assert tell(shown, program, "logs", "failing", "--previous") == "one\ntwo\n"
    pod, cpu, _ = tell(shown, program, "top", "pod", "busy", "--no-headers").split()
    assert (pod, int(cpu.removesuffix("m")) > 10) == ("busy", True)
    assert "node-1" in tell(shown, program, "top", "nodes")


@pytest.mark.parametrize(("version", "program"), _VERSIONS, ids=lambda each: str(each).rpartition("/")[2])
def test_every_kubectl_that_speaks_websocket_runs_commands_and_copies(
    shown: Lab, tmp_path: Path, version: tuple[int, int], program: str
) -> None:
    if (0, 0) < version < (1, 29):
        command = [program, "-n", "shown", "exec", "serving", "--", "true"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(shown), check=False)
        assert "use kubectl 1.31 or newer" in done.stderr
        return
    assert tell(shown, program, "exec", "serving", "--", "echo", "out") == "out\n"
    (tmp_path / "there").write_text("carried\n")
    tell(shown, program, "cp", str(tmp_path / "there"), f"serving:/tmp/{version[1]}")
    tell(shown, program, "cp", f"serving:/tmp/{version[1]}", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "carried\n"


@pytest.mark.parametrize("program", kubectls.since(30), ids=lambda path: Path(path).name)
def test_every_kubectl_that_speaks_websocket_debugs_a_pod_that_runs(shown: Lab, program: str) -> None:
    name = "look-" + Path(program).name.replace(".", "-")
    command = [
        program, "-n", "shown", "debug", "-i", "pod/serving", _IMAGE, "--target=serving", f"--container={name}",
        "--profile=general", "--", "sh", "-c", "read word; echo heard $word; ps; sleep 1",
    ]  # fmt: skip
    done = subprocess.run(
        command, input="hello\n", capture_output=True, text=True, timeout=60, env=environment(shown), check=False
    )
    assert done.returncode == 0, done.stderr
    assert "heard hello" in tell(shown, program, "logs", "serving", "-c", name)
    assert "sleep 3600" in tell(shown, program, "logs", "serving", "-c", name)
    statuses = shown.get("-n", "shown", "pod", "serving")["status"]["ephemeralContainerStatuses"]
    assert name in [each["name"] for each in statuses]


@pytest.mark.parametrize("program", kubectls.since(32), ids=lambda path: Path(path).name)
def test_every_kubectl_that_can_resizes_a_pod_that_runs(shown: Lab, program: str) -> None:
    name = "sized-" + Path(program).name.replace(".", "-")
    container = {"name": name, "image": "netplane.local/busybox:1", "args": ["sleep", "3600"]}
    spec = {"containers": [container | {"resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "100m"}}}]}
    tell(shown, program, "run", name, _IMAGE, f"--overrides={json.dumps({'spec': spec})}")
    tell(shown, program, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=40s")
    resources = {"requests": {"cpu": "20m"}, "limits": {"cpu": "200m"}}
    patch = {"spec": {"containers": [{"name": name, "resources": resources}]}}
    tell(shown, program, "patch", "pod", name, "--subresource", "resize", "-p", json.dumps(patch))

    def held() -> bool:
        (status,) = shown.get("-n", "shown", "pod", name)["status"]["containerStatuses"]
        return bool(status["resources"] == resources and status["restartCount"] == 0)

    eventually(held)
    tell(shown, program, "delete", "pod", name, "--now")


@pytest.mark.parametrize("program", kubectls.since(31), ids=lambda path: Path(path).name)
def test_every_kubectl_that_speaks_websocket_forwards_ports(shown: Lab, program: str) -> None:
    command = [program, "-n", "shown", "port-forward", "pod/serving", ":8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(shown)) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().split("->")[0].rpartition(":")[2].strip()
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with contextlib.closing(direct.open(f"http://127.0.0.1:{port}/", timeout=10)) as answer:
                assert answer.read() == b"hello\n"
        finally:
            process.terminate()


def test_a_drained_node_is_left_by_its_pods_and_takes_them_again(shown: Lab) -> None:
    shown.kubectl("-n", "shown", "create", "deployment", "moving", _IMAGE, "--", "sleep", "3600")
    shown.kubectl("-n", "shown", "rollout", "status", "deployment/moving", "--timeout=40s")
    node = shown.get("-n", "shown", "pods", "-l", "app=moving")["items"][0]["spec"]["nodeName"]
    try:
        selector = ("--pod-selector=app=moving", "--grace-period=1", "--timeout=40s")
        assert "drained" in shown.kubectl("drain", node, "--ignore-daemonsets", *selector)
        (moved,) = shown.ready_pods("app=moving", 1, namespace="shown")
        assert moved["spec"]["nodeName"] != node
    finally:
        shown.kubectl("uncordon", node)
        shown.kubectl("-n", "shown", "delete", "deployment", "moving")
