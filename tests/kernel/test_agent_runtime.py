"""What the agent asks of a runtime, of both it has: the embedded one (crun, conmon) and containerd through CRI."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from netplane.agent.runtime.cri import leftovers
from netplane.agent.runtime.protocol import (
    SECCOMP_DEFAULT,
    ContainerConfig,
    ContainerStatus,
    ImageMissing,
    Mount,
    PortMapping,
    Resources,
    Runtime,
    RuntimeFailure,
    SandboxConfig,
    Security,
)
from netplane.kernel import cgroup
from tests.support import nodes
from tests.support.nodes import BUSYBOX, NodeFolders


@pytest.fixture(params=["embedded", "containerd"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NodeFolders]:
    with nodes.node(tmp_path, request.param) as folders:
        yield folders


@pytest.fixture
async def runtime(node: NodeFolders) -> AsyncIterator[Runtime]:
    async with node.runtime().opened() as opened:
        yield opened


def sandbox(node: NodeFolders, **changes: object) -> SandboxConfig:
    fields: dict[str, object] = {
        "uid": "u1",
        "namespace": "default",
        "name": "web",
        "attempt": 0,
        "hostname": "web-host",
        "cgroup_parent": f"{node.cgroup_root}/podu1",
        "log_directory": node.root / "logs",
    }
    return SandboxConfig(**(fields | changes))  # type: ignore[arg-type]  # fields by name


def shell(script: str, **changes: object) -> ContainerConfig:
    fields: dict[str, object] = {"name": "main", "attempt": 0, "image": BUSYBOX, "log_path": "main/0.log"}
    return ContainerConfig(**(fields | {"command": ("/bin/sh", "-c", script)} | changes))  # type: ignore[arg-type]


async def run(runtime: Runtime, sandbox_id: str, config: ContainerConfig) -> str:
    container = await runtime.create_container(sandbox_id, config)
    await runtime.start_container(container)
    return container


async def ended(runtime: Runtime, container_id: str) -> ContainerStatus:
    async with asyncio.timeout(10):
        async for _ in runtime.changes():
            status = next(s for s in runtime.containers() if s.id == container_id)
            if status.state == "exited":
                return status
    raise AssertionError


def log(node: NodeFolders) -> list[str]:
    lines = (node.root / "logs" / "main" / "0.log").read_text().splitlines()
    return [" ".join(line.split(" ")[1:]) for line in lines]


async def logged(node: NodeFolders, *words: str) -> str:
    """Return the log once it says all this: a runtime may tell of the end before the last line is written."""
    for _ in range(300):
        text = "\n".join(log(node))
        if all(word in text for word in words):
            return text
        await asyncio.sleep(0.05)
    raise AssertionError(f"{words} not in {text}")


async def test_container_runs_to_its_end_and_its_log_is_in_cri_format(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    container = await run(runtime, place, shell("echo out; echo err >&2; hostname; exit 7"))
    status = await ended(runtime, container)
    assert (status.exit_code, status.reason) == (7, "Error")
    await logged(node, "err", "out", "web-host")
    assert sorted(log(node)) == ["stderr F err", "stdout F out", "stdout F web-host"]


async def test_network_is_made_by_the_plugin_and_taken_down_with_its_result(
    runtime: Runtime, node: NodeFolders
) -> None:
    mapping = PortMapping(80, 8080)
    place = await runtime.run_sandbox(sandbox(node, port_mappings=(mapping,)))
    assert runtime.sandboxes("u1")[0].ips == ("10.9.0.7", "fd09::7")
    await runtime.remove_sandbox(place)
    add, delete, *again = (line.split("\t") for line in node.calls.read_text().splitlines())
    assert (add[0], delete[0], add[1]) == ("ADD", "DEL", place)
    assert all(call[0] == "DEL" for call in again)
    mapped = {name.lower(): value for name, value in json.loads(add[3])["runtimeConfig"]["portMappings"][0].items()}
    assert mapped["hostport"] == 8080  # containerd writes HostPort
    assert json.loads(delete[3])["prevResult"]["ips"][0]["address"] == "10.9.0.7/24"
    assert not Path(add[2]).exists()


async def test_nothing_is_left_when_the_plugin_refuses(runtime: Runtime, node: NodeFolders) -> None:
    node.calls.with_name("calls.fail-ADD").touch()
    with pytest.raises(RuntimeFailure, match=r'plugin type="record" failed \(add\): no address left; in 10.9.0.0/24'):
        await runtime.run_sandbox(sandbox(node))
    assert not runtime.sandboxes()
    assert not Path(node.calls.read_text().split("\t")[2]).exists()
    assert not list(node.root.glob("*/sandboxes/*"))
    assert not cgroup.processes(f"{node.cgroup_root}/podu1".lstrip("/"))


def limits(path: str) -> tuple[int, int, int]:
    """Memory in bytes, processes (0 for any), CPU time in a period in microseconds: as this machine has them."""
    if cgroup.is_unified():
        folder = cgroup.MOUNT / path
        files = [folder / "memory.max", folder / "pids.max", folder / "cpu.max"]
    else:
        names = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": "cpu.cfs_quota_us"}
        files = [cgroup.MOUNT / controller / path / name for controller, name in names.items()]
    memory, pids, cpu = (int(file.read_text().split()[0].replace("max", "0")) for file in files)
    return memory, pids, cpu


async def test_limits_reach_the_cgroup(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    wanted = Resources(cpu_quota=50_000, memory=32 << 20, pids=20, cpu_shares=512)
    container = await run(runtime, place, shell("sleep 60", resources=wanted))
    group = f"podu1/{container}"
    memory, processes, cpu = limits(f"{node.cgroup_root}/{group}".lstrip("/"))
    assert (memory, cpu) == (32 << 20, 50_000)
    if node.kind == "embedded" or cgroup.is_unified():  # CRI has no word for it on cgroup v1.
        assert processes == 20


async def test_the_limits_of_what_runs_are_changed(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    before = Resources(cpu_quota=50_000, memory=32 << 20, cpu_shares=512)
    container = await run(runtime, place, shell("sleep 60", resources=before))
    after = Resources(cpu_quota=150_000, memory=64 << 20, cpu_shares=1024)
    await runtime.update_container(container, after)
    memory, _, cpu = limits(f"{node.cgroup_root}/podu1/{container}".lstrip("/"))
    assert (memory, cpu) == (64 << 20, 150_000)
    await runtime.update_container(container, before)
    memory, _, cpu = limits(f"{node.cgroup_root}/podu1/{container}".lstrip("/"))
    assert (memory, cpu) == (32 << 20, 50_000)
    assert runtime_state(runtime, container) == "running"


async def test_a_container_over_its_memory_limit_is_oomkilled(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1"
    container = await run(runtime, place, shell(f"exec {script}", resources=Resources(memory=16 << 20)))
    status = await ended(runtime, container)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


async def test_a_new_agent_adopts_what_runs_and_learns_what_ended(node: NodeFolders) -> None:
    async with node.runtime().opened() as first:
        place = await first.run_sandbox(sandbox(node))
        running = await run(first, place, shell("trap 'exit 3' TERM; while :; do sleep 0.05; done"))
        brief = await run(first, place, shell("sleep 0.2; exit 5", name="brief", log_path="brief/0.log"))
    await asyncio.sleep(0.5)
    async with node.runtime().opened() as second:
        assert runtime_state(second, running) == "running"
        assert (await ended(second, brief)).exit_code == 5
        assert second.sandboxes()[0].state == "ready"
        await second.stop_container(running, 5)
        assert next(s for s in second.containers() if s.id == running).exit_code == 3


async def test_a_sandbox_whose_cni_result_a_power_cut_emptied_is_still_removed(tmp_path: Path) -> None:
    with nodes.node(tmp_path, "containerd") as node:
        async with node.runtime().opened() as first:
            place = await first.run_sandbox(sandbox(node))
            (cached,) = leftovers.CACHE.glob(f"test-{place}-eth0")
            cached.write_bytes(b"")
            os.utime(cached, (1, 1))
            with pytest.raises(RuntimeFailure, match="unexpected end of JSON"):
                await first.stop_sandbox(place)
        async with node.runtime().opened() as second:
            await second.remove_sandbox(place)
            assert not second.sandboxes()
        assert node.calls.read_text().splitlines()[-1].startswith("DEL")


def runtime_state(runtime: Runtime, container_id: str) -> str:
    return next(s.state for s in runtime.containers() if s.id == container_id)


async def test_grace_over_means_kill(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    container = await run(runtime, place, shell("trap '' TERM; while :; do sleep 1; done"))
    await runtime.stop_container(container, 0.2)
    assert next(s for s in runtime.containers() if s.id == container).exit_code == 137


async def test_stopping_a_container_that_never_ran_leaves_nothing_of_it_alive(
    runtime: Runtime, node: NodeFolders
) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    container = await runtime.create_container(place, shell("sleep 100"))
    await runtime.stop_container(container, 2)
    assert [status.state for status in runtime.containers() if status.state != "exited"] == []
    again = await run(runtime, place, shell("sleep 100", attempt=1, log_path="main/1.log"))
    assert runtime_state(runtime, again) == "running"


async def test_a_program_that_is_not_there_is_a_start_error(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    container = await runtime.create_container(place, shell("", command=("/no/such",)))
    with pytest.raises(RuntimeFailure, match="/no/such"):
        await runtime.start_container(container)
    status = runtime.containers()[0]
    assert (status.state, status.exit_code, status.reason) == ("exited", 128, "StartError")


async def test_an_unknown_image_is_image_missing(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    with pytest.raises(ImageMissing, match="nowhere/x:1"):
        await runtime.create_container(place, shell("", image="nowhere/x:1"))


async def test_exec_gives_output_exit_code_and_a_terminal(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    container = await run(runtime, place, shell("sleep 60"))
    done = await runtime.exec_sync(container, ["/bin/sh", "-c", "echo $FROM_IMAGE; exit 4"], 5)
    assert (done.exit_code, done.output) == (4, b"yes\n")
    late = await runtime.exec_sync(container, ["sleep", "5"], 0.2)
    assert late.timed_out
    terminal = await runtime.exec(
        container,
        ["/bin/sh", "-c", "read x; stty size 2>/dev/null; tty=$(ls -l /proc/self/fd/0); echo got $x; exit 6"],
        tty=True,
        stdin=True,
    )
    seen = bytearray()

    async def sink(_: str, data: bytes) -> None:
        seen.extend(data)

    terminal.resize(100, 40)
    await terminal.write(b"hi\r")
    await terminal.forward(sink)
    assert await terminal.wait() == 6
    await terminal.close()
    assert b"got hi" in seen


async def test_attach_reaches_the_containers_own_process(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    container = await run(runtime, place, shell("read x; echo got $x; read y", stdin=True, stdin_once=True))
    stream = await runtime.attach(container, stdin=True)
    seen = bytearray()
    arrived = asyncio.Event()

    async def sink(_: str, data: bytes) -> None:
        seen.extend(data)
        arrived.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        forwarding = group.create_task(stream.forward(sink))
        await stream.write(b"word\n")
        await arrived.wait()
        await stream.close_input()
        await forwarding
    assert seen == b"got word\n"
    await stream.close()


async def test_containers_share_localhost_and_ipc_and_see_their_mounts(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node, share_pid=True))
    (node.root / "config").write_text("content")
    mount = Mount(str(node.root / "config"), "/etc/config", readonly=True)
    await run(runtime, place, shell("echo answer | nc -l -p 80", name="server", log_path="server/0.log"))
    script = "touch /dev/shm/x; cat /etc/config; echo; until nc 127.0.0.1 80; do sleep 0.02; done; ps"
    container = await run(runtime, place, shell(script, mounts=(mount,)))
    await ended_one(runtime, container)
    await logged(node, "stdout F answer", "content", "/pause")


async def test_a_container_with_a_target_sees_its_processes_and_nobody_elses(
    runtime: Runtime, node: NodeFolders
) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    await run(runtime, place, shell("exec sleep 1111", name="other", log_path="other/0.log"))
    target = await run(runtime, place, shell("exec sleep 2222", name="target", log_path="target/0.log"))
    container = await run(runtime, place, shell("ps; kill -TERM 1; true", target=target))
    await ended_one(runtime, container)
    assert "sleep 1111" not in await logged(node, "sleep 2222")


async def ended_one(runtime: Runtime, container_id: str) -> None:
    async with asyncio.timeout(10):
        async for _ in runtime.changes():
            if runtime_state(runtime, container_id) == "exited":
                return


@pytest.mark.parametrize("kind", ["", SECCOMP_DEFAULT, "own"])
async def test_a_filter_of_system_calls_is_the_one_asked_for(
    runtime: Runtime, node: NodeFolders, tmp_path: Path, kind: str
) -> None:
    profile = tmp_path / "own.json"
    refused = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}))
    place = await runtime.run_sandbox(sandbox(node))
    security = Security(seccomp=str(profile) if kind == "own" else kind)
    script = "mkdir /d && echo made; grep ^Seccomp: /proc/self/status; true"
    container = await run(runtime, place, shell(script, security=security))
    await ended_one(runtime, container)
    text = await logged(node, f"Seccomp:\t{2 if kind else 0}")
    assert ("made" in text) is (kind != "own")


async def test_user_groups_and_capabilities_are_as_asked(runtime: Runtime, node: NodeFolders) -> None:
    place = await runtime.run_sandbox(sandbox(node))
    security = Security(user=33, supplemental_groups=(77,), drop_capabilities=("ALL",), readonly_rootfs=True)
    container = await run(runtime, place, shell("id; touch /x; cat /proc/self/status; true", security=security))
    await ended_one(runtime, container)
    identity = "uid=33(web) gid=34(web) groups=34(web),35(extra),77"
    await logged(node, identity, "Read-only file system", "CapBnd:\t0000000000000000")
