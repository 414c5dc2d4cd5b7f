"""Bring a lab up, or up again: every step makes only what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from netplane.agent.builtin import build as builtin
from netplane.controlplane.api import kubeconfig as kubeconfigs
from netplane.controlplane.api import pki
from netplane.kernel import cgroup
from netplane.kube import client as kube
from netplane.kube import errors, informer, meta, types
from netplane.lab import containerd, host, launch, protocol, requirements, state, units
from netplane.lab.progress import Steps
from netplane.lab.spec import Folders, LabSpec, NodeSpec
from netplane.lib.cli import UserError
from netplane.lib.clock import SYSTEM

KEEPER_LIMIT = 25.0  # seconds until the keeper answers; it waits for the end of the one before
RESTARTS_LIMIT = 5  # restarts of a daemon that is not ready, after which waiting is in vain
UNITS_LIMIT = 120.0  # seconds until all daemons are ready, plus one for each; on a machine that others use, too
POLL = 0.05  # seconds between looks at the keeper's answer

USERS = {
    "agent": ("system:node:{node}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
    "cni": ("system:netplane-cni", ""),
    "ingress": ("system:netplane-ingress", ""),
}


def up(spec: LabSpec, folders: Folders, steps: Steps) -> None:
    """Make or mend the whole lab and wait until every node is Ready."""
    with steps.step("check the machine"):
        requirements.check(fabric=spec.fabric, proxy_mode=spec.proxy_mode, runtime=spec.runtime)
        if not launch.survivor(folders.run, units.server(spec, folders, host.program())):
            requirements.check_port(spec.api_port)
    state.save(spec, folders)
    folders.run.mkdir(parents=True, exist_ok=True)
    with steps.step("build the images"):
        builtin.build(folders.images)
    with steps.step("lay the underlay"):
        host.ensure_mount_points(folders)
        host.ensure_underlay(spec)
        cgroup.ensure(f"{units.cgroup_root(spec)}/control-plane")
    with steps.step("make the nodes", total=len(spec.nodes)) as advance:
        for node in spec.node_specs():
            ensure_node(spec, folders, node)
            advance()
    wanted = units.of_lab(spec, folders, host.program())
    with steps.step("start the daemons", total=len(wanted)) as advance:
        ensure_keeper(spec, folders)
        forget_removed_nodes(spec, folders)
        release_held(spec, folders)
        wait_for_units(folders, wanted, advance)
    with steps.step("nodes become Ready", total=len(spec.nodes)) as advance:
        asyncio.run(_delete_nodes_of_others(spec, folders))
        wait_for_nodes(folders, {node.name for node in spec.node_specs()}, advance)


def forget_removed_nodes(spec: LabSpec, folders: Folders) -> None:
    """Remove what a `remove-node` that was cut off left of nodes that are no longer the lab's."""
    for name in removed_nodes(spec, folders):
        host.remove_node(spec, folders, name)
        shutil.rmtree(folders.node_run(name), ignore_errors=True)
        shutil.rmtree(folders.node_state(name), ignore_errors=True)


def removed_nodes(spec: LabSpec, folders: Folders) -> tuple[str, ...]:
    """Return the nodes that are not the lab's, but have left something on the machine."""
    known = {node.name for node in spec.node_specs()}
    left = {place.removeprefix(f"{spec.name}-") for place in host.namespaces(spec)} - {"client", "underlay"}
    left |= {path.name for path in (folders.state / "nodes").glob("node-*")}
    return tuple(sorted(left - known))


def ensure_node(spec: LabSpec, folders: Folders, node: NodeSpec) -> None:
    """Make one node's namespaces, and the configuration and credentials of its daemons."""
    host.ensure_node(spec, folders, node)
    if spec.runtime == "containerd":
        config = folders.node_state(node.name) / "lib" / containerd.CONFIG.name
        config.write_text(containerd.configuration(containerd.Places()))
    now = SYSTEM.now()
    material = pki.ensure_keys(folders.server / "pki", now=now)
    for who, (user, group) in USERS.items():
        target = units.kubeconfig(folders, node.name, who)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = kubeconfigs.render(
            material,
            server=f"https://{units.bracketed(spec.api_addresses[0])}:6443",
            user=user.format(node=node.name),
            groups=(group,) if group else (),
            now=now,
        )
        fresh = target.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.replace(target)


def ensure_keeper(spec: LabSpec, folders: Folders) -> None:
    """Start the keeper, or let the one that runs take the spec in."""
    socket = folders.run / "keeper.sock"
    try:
        protocol.ask(socket, "status", limit=2.0)
    except protocol.KeeperDown:
        _start_keeper(spec, folders)
    protocol.ask(socket, "sync", limit=30)


def release_held(spec: LabSpec, folders: Folders) -> None:
    """Give killed nodes their power back."""
    socket = folders.run / "keeper.sock"
    held = tuple(unit.name for unit in protocol.ask(socket, "status") if unit.state == "held")
    protocol.ask(socket, "release", units=held, limit=30)


def wait_for_units(folders: Folders, wanted: Sequence[units.Unit], advance: Callable[[], None]) -> None:
    """Wait until each of these daemons has said that it is ready; raise UserError that names one that has not."""
    names, expected = {unit.name for unit in wanted}, len(wanted)
    deadline = time.monotonic() + UNITS_LIMIT + expected
    seen = 0
    before: dict[str, int] = {}
    while True:
        shown = [unit for unit in protocol.ask(folders.run / "keeper.sock", "status") if unit.name in names]
        for unit in shown:
            before.setdefault(unit.name, unit.restarts)
        ready = sum(unit.state == "ready" for unit in shown)
        for _ in range(ready - seen):
            advance()
        seen = max(seen, ready)
        if ready >= expected:
            return
        late = [unit for unit in shown if unit.state != "ready"]
        failing = [unit for unit in late if unit.restarts - before[unit.name] > RESTARTS_LIMIT]
        if failing or time.monotonic() > deadline:
            raise UserError(_why_late(folders, failing or late))
        time.sleep(POLL)  # noqa: TID251 - a command, not an event loop


def wait_for_nodes(folders: Folders, names: set[str], advance: Callable[[], None], *, limit: float = 60.0) -> None:
    """Wait until the API says Ready of every named node."""

    async def wait() -> None:
        async with kube.Client(kube.load(str(folders.admin_kubeconfig)), user_agent="netplane-lab") as client:
            nodes = informer.Informers(client, [informer.Query(types.NODES)])
            async with asyncio.TaskGroup() as group:
                running = group.create_task(nodes.run())
                await _all_ready(nodes, names, advance)
                running.cancel()

    try:
        asyncio.run(asyncio.wait_for(wait(), limit + len(names)))
    except TimeoutError as error:
        raise UserError(f"nodes do not become Ready; see netplane lab status and {folders.run}/log") from error


async def _delete_nodes_of_others(spec: LabSpec, folders: Folders) -> None:
    """Delete the Nodes of this lab's names that it has no longer: their `remove-node` was cut off."""
    known = {node.name for node in spec.node_specs()}
    async with kube.Client(kube.load(str(folders.admin_kubeconfig)), user_agent="netplane-lab") as client:
        for node in (await client.list(types.NODES)).items:
            name = node["metadata"]["name"]
            if re.fullmatch(r"node-[0-9]+", name) and name not in known:
                with contextlib.suppress(errors.NotFound):
                    await client.delete(types.NODES, name)


async def _all_ready(nodes: informer.Informers, names: set[str], advance: Callable[[], None]) -> None:
    waiting = set(names)
    async for _ in nodes.batches():
        store = nodes.store(types.NODES)
        for name in sorted(waiting):
            node = store.get(("", name))
            if node is not None and meta.is_condition_true(node, "Ready"):
                waiting.discard(name)
                advance()
        if not waiting:
            return


def is_up(folders: Folders) -> bool:
    """Tell whether the lab's keeper answers."""
    try:
        protocol.ask(folders.run / "keeper.sock", "status", limit=2.0)
    except protocol.KeeperDown:
        return False
    return True


def _start_keeper(spec: LabSpec, folders: Folders) -> None:
    (folders.run / "log").mkdir(parents=True, exist_ok=True)
    with (folders.run / "log" / "keeper.log").open("ab") as output:
        process = subprocess.Popen(
            [host.program(), *launch.keeper_line(spec.name)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + KEEPER_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        if is_up(folders):
            return
        time.sleep(POLL)  # noqa: TID251 - a command, not an event loop
    raise UserError(f"the keeper does not start: {_last_line(folders.run / 'log' / 'keeper.log')}")


def _why_late(folders: Folders, late: Iterable[protocol.UnitStatus]) -> str:
    unit = next(iter(late), None)
    if unit is None:
        return f"the keeper does not know of every daemon; see {folders.run}/log/keeper.log"
    log = folders.run / "log" / f"{unit.name.replace('/', '.')}.log"
    return f"{unit.name} is {unit.state} ({unit.restarts} restarts): {_last_line(log)}; its log is {log}"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return lines[-1] if lines else "it said nothing"
