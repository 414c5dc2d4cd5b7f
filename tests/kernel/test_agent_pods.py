"""Pods on a real node, on both runtimes: cgroups, volumes and probes, against an API in memory."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from netplane.agent.lifecycle import rotation
from netplane.agent.runtime.protocol import Runtime
from netplane.agent.server import logs
from netplane.kernel import cgroup
from netplane.kube.fake import FakeApi
from netplane.kube.types import CONFIGMAPS, PODS, SECRETS, Object
from netplane.lib import clock
from tests.support import nodes
from tests.support.agent_pods import pod_object
from tests.support.agent_rig import Rig, rig
from tests.support.nodes import BUSYBOX, NodeFolders

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


@pytest.fixture(params=["embedded", "containerd"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NodeFolders]:
    with nodes.node(tmp_path, request.param) as folders:
        yield folders


@pytest.fixture
async def runtime(node: NodeFolders) -> AsyncIterator[Runtime]:
    async with node.runtime().opened() as opened:
        yield opened


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def keep(api: FakeApi, runtime: Runtime, node: NodeFolders) -> AbstractAsyncContextManager[Rig]:
    return rig(api, runtime, clock.SYSTEM, node.root / "agent", cgroup=node.cgroup_root)


@pytest.fixture
async def kept(api: FakeApi, runtime: Runtime, node: NodeFolders) -> AsyncIterator[Rig]:
    async with keep(api, runtime, node) as running:
        yield running


def shell(script: str, name: str = "main", **fields: Any) -> Object:
    return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], **fields}


async def until(api: FakeApi, holds: Callable[[], bool]) -> None:
    await api.until(holds, seconds=15)


def log(node: NodeFolders, name: str = "main/0.log") -> str:
    shown = logs.Shown(logs.Wanted())
    lines = [logs.line(raw) for raw in (node.root / "agent/pods/u1/logs" / name).read_bytes().splitlines()]
    return b"".join(shown.text(line) for line in lines if line).decode()


async def test_a_pod_sees_its_volumes_its_environment_and_what_its_init_containers_left(
    kept: Rig, api: FakeApi, node: NodeFolders
) -> None:
    api.seed(CONFIGMAPS, {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a.txt": "from map"}})
    secret = {"pw": base64.b64encode(b"hidden").decode()}
    api.seed(SECRETS, {"metadata": {"name": "s", "namespace": "default"}, "data": secret})
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("shared", "memory", "config", "secret", "host")]
    volumes = [
        {"name": "shared", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "config", "configMap": {"name": "cm"}},
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "host", "hostPath": {"path": str(node.root / "host"), "type": "DirectoryOrCreate"}},
    ]
    script = "cat /shared/x /config/a.txt /secret/pw; echo; echo $IP $LIMIT; stat -f -c %T /memory; echo w >/host/w; "
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
    ]
    main = shell(script + FOREVER, env=env, volumeMounts=mounts, resources={"limits": {"memory": "64Mi"}})
    first = shell("echo left >/shared/x", "init", volumeMounts=mounts[:1])
    api.seed(PODS, pod_object(main, initContainers=[first], volumes=volumes))
    await until(api, lambda: kept.condition("Ready") == "True")
    await until(api, lambda: log(node) == "left\nfrom maphidden\n10.9.0.7 64\ntmpfs\n")
    await until(api, lambda: (node.root / "host" / "w").exists())
    api.seed(CONFIGMAPS, {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a.txt": "new"}})
    runtime = kept.services.runtime
    container = runtime.containers("u1")[0]

    async def shows() -> bytes:
        return (await runtime.exec_sync(container.id, ["cat", "/config/a.txt"], 5)).output

    for _ in range(200):
        if await shows() == b"new":
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await shows())


async def test_a_deleted_pod_runs_its_hook_ends_by_itself_and_leaves_nothing(
    kept: Rig, api: FakeApi, node: NodeFolders
) -> None:
    mount = [{"name": "host", "mountPath": "/host"}]
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >>/host/order"]}}}
    script = "trap 'echo term >>/host/order; exit 0' TERM; while :; do sleep 0.05; done"
    volumes = [{"name": "host", "hostPath": {"path": str(node.root / "host"), "type": "DirectoryOrCreate"}}]
    api.seed(PODS, pod_object(shell(script, volumeMounts=mount, lifecycle=hook), volumes=volumes))
    await until(api, lambda: kept.condition("Ready") == "True")
    await api.delete(PODS, "web", namespace="default")
    await until(api, lambda: not kept.pod() and not list(kept.roster))
    assert (node.root / "host" / "order").read_text() == "hook\nterm\n"
    assert not (node.root / "agent" / "pods" / "u1").exists()
    assert not kept.services.runtime.sandboxes()
    assert not kept.services.runtime.containers()
    assert not [path for name in ("sandboxes", "containers", "bundles") for path in node.root.glob(f"*/{name}/*")]
    calls = [line.split("\t")[0] for line in node.calls.read_text().splitlines()]
    assert calls == ["ADD", *["DEL"] * (len(calls) - 1)]
    assert len(calls) > 1


async def test_a_killed_process_is_restarted_and_its_last_words_are_kept(kept: Rig, api: FakeApi) -> None:
    api.seed(PODS, pod_object(shell(f"echo last words >/dev/termination-log; {FOREVER}")))
    await until(api, lambda: kept.condition("Ready") == "True")
    runtime = kept.services.runtime
    await runtime.exec_sync(runtime.containers("u1")[0].id, ["kill", "1"], 5)
    await until(api, lambda: kept.container().get("restartCount") == 1)
    assert kept.container()["lastState"]["terminated"]["message"] == "last words\n"


def first_process(node: NodeFolders, sandbox_id: str) -> int:
    if node.kind == "embedded":
        return int((node.layout.bundle(sandbox_id) / "pid").read_text())
    (group,) = (cgroup.MOUNT / ("" if cgroup.is_unified() else "pids")).glob(f"{node.cgroup_root[1:]}/*/{sandbox_id}")
    return int((group / "cgroup.procs").read_text())


async def test_a_pod_whose_pause_process_dies_gets_a_new_sandbox(kept: Rig, api: FakeApi, node: NodeFolders) -> None:
    api.seed(PODS, pod_object(shell(FOREVER)))
    await until(api, lambda: kept.condition("Ready") == "True")
    runtime = kept.services.runtime
    (place,) = runtime.sandboxes("u1")
    subprocess.run(["kill", "-9", str(first_process(node, place.id))], check=True)
    await until(api, lambda: kept.container().get("restartCount") == 1 and kept.condition("Ready") == "True")
    assert runtime.sandboxes("u1")[0].attempt == 1


async def test_a_container_added_for_debugging_runs_beside_the_others_and_is_attached_to(
    kept: Rig, api: FakeApi, node: NodeFolders
) -> None:
    api.seed(PODS, pod_object(shell(f"sleep 4321 & {FOREVER}")))
    await until(api, lambda: kept.condition("Ready") == "True")
    added = shell("ps; read x; exit 3", "look", stdin=True, targetContainerName="main")
    await api.patch(PODS, "web", {"spec": {"ephemeralContainers": [added]}}, namespace="default", kind="strategic")

    def state() -> Object:
        statuses = kept.pod()["status"].get("ephemeralContainerStatuses") or [{"state": {}}]
        found: Object = statuses[0]["state"]
        return found

    await until(api, lambda: "running" in state())
    runtime = kept.services.runtime
    look = next(status for status in runtime.containers("u1") if status.name == "look")
    stream = await runtime.attach(look.id, stdin=True)
    await stream.write(b"done\n")
    await until(api, lambda: state().get("terminated", {}).get("exitCode") == 3)
    await stream.close()
    assert "sleep 4321" in log(node, "look/0.log")
    assert kept.condition("Ready") == "True"
    assert kept.container()["restartCount"] == 0


async def test_a_resize_changes_the_cgroup_of_what_runs_on(kept: Rig, api: FakeApi, node: NodeFolders) -> None:
    def sized(cpu: str, memory: str) -> Object:
        return pod_object(shell(FOREVER, resources={"limits": {"cpu": cpu, "memory": memory}}))

    api.seed(PODS, sized("500m", "32Mi"))
    await until(api, lambda: kept.condition("Ready") == "True")
    runtime = kept.services.runtime
    before = runtime.containers("u1")[0].id
    await api.patch(PODS, "web", {"spec": sized("1", "64Mi")["spec"]}, namespace="default", kind="merge")
    await until(api, lambda: kept.container()["resources"] == {"limits": {"cpu": "1", "memory": "64Mi"}})
    path = f"{node.cgroup_root}/podu1/{before}".lstrip("/")
    file = "memory.max" if cgroup.is_unified() else "memory.limit_in_bytes"
    root = cgroup.MOUNT if cgroup.is_unified() else cgroup.MOUNT / "memory"
    assert int((root / path / file).read_text()) == 64 << 20
    assert [status.id for status in runtime.containers("u1")] == [before]
    assert kept.container()["restartCount"] == 0


async def test_probes_reach_a_server_in_the_pod(kept: Rig, api: FakeApi) -> None:
    http = {"httpGet": {"path": "/x", "port": "web"}, "periodSeconds": 1}
    tcp = {"tcpSocket": {"port": 8099}, "periodSeconds": 1}
    ports = [{"name": "web", "containerPort": 8099}]
    script = "mkdir /www; echo ok >/www/x; httpd -p 127.0.0.1:8099 -h /www; " + FOREVER
    main = shell(script, readinessProbe=http, startupProbe=tcp, ports=ports)
    api.seed(PODS, pod_object(main, hostNetwork=True))
    await until(api, lambda: kept.condition("Ready") == "True")
    runtime = kept.services.runtime
    await runtime.exec_sync(runtime.containers("u1")[0].id, ["rm", "/www/x"], 5)
    await until(api, lambda: kept.condition("Ready") == "False")


async def test_a_new_agent_takes_over_and_learns_what_ended(api: FakeApi, node: NodeFolders) -> None:
    async with node.runtime().opened() as first, keep(api, first, node) as kept:
        two = (shell(FOREVER), shell("sleep 0.6; exit 4", "brief"))
        api.seed(PODS, pod_object(*two, restartPolicy="Never"))
        await until(api, lambda: kept.condition("Ready") == "True")
        before = kept.container()["containerID"]
    await asyncio.sleep(0.8)
    async with node.runtime().opened() as second, keep(api, second, node) as kept:
        await until(api, lambda: "terminated" in kept.container("brief")["state"])
        assert kept.container("brief")["state"]["terminated"]["exitCode"] == 4
        assert kept.container()["containerID"] == before
        assert "running" in kept.container()["state"]


async def test_a_large_log_is_rotated_and_goes_on(kept: Rig, api: FakeApi, node: NodeFolders) -> None:
    api.seed(PODS, pod_object(shell("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done")))
    await until(api, lambda: kept.condition("Ready") == "True")
    fake = clock.Fake()
    folder = node.root / "agent/pods/u1/logs/main"
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        rotating = group.create_task(rotation.run(kept.services.runtime, fake, largest=100, kept=2))
        for _ in range(3):
            await asyncio.sleep(0.3)
            await fake.advance(rotation.EVERY + 1)
            await asyncio.sleep(0.05)
        rotating.cancel()
    numbers = [
        int(line.split()[-1])
        for path in sorted(folder.iterdir(), reverse=True)
        for line in path.read_text().splitlines()
    ]
    assert len(list(folder.iterdir())) == 2
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_pods_run_on_while_containerd_is_dead_and_are_the_same_when_it_is_back(
    api: FakeApi, tmp_path: Path
) -> None:
    with nodes.node(tmp_path, "containerd") as node:
        daemon = node.containerd
        assert daemon is not None
        async with node.runtime().opened() as runtime, keep(api, runtime, node) as kept:
            api.seed(PODS, pod_object(shell(f"echo begun; {FOREVER}")))
            await until(api, lambda: kept.condition("Ready") == "True" and log(node) == "begun\n")
            before = kept.container()["containerID"]
            daemon.kill()
            assert not (await runtime.status()).runtime.ok
            await asyncio.sleep(1.5)
            assert [status.state for status in runtime.containers("u1")] == ["running"]
            daemon.start()
            for _ in range(100):
                if (await runtime.status()).runtime.ok:
                    break
                await asyncio.sleep(0.1)
            container = runtime.containers("u1")[0].id
            done = await runtime.exec_sync(container, ["echo", "here"], 5)
            assert done.output == b"here\n"
            await asyncio.sleep(1.5)
            assert (kept.container()["containerID"], kept.container()["restartCount"]) == (before, 0)
            assert log(node) == "begun\n"
            await api.delete(PODS, "web", namespace="default")
            await until(api, lambda: not kept.pod() and not list(kept.roster))
            assert not runtime.sandboxes()
