"""Change a lab that runs: nodes come and go, daemons and nodes die."""

from __future__ import annotations

import asyncio
import contextlib

from netplane.kube import client as kube
from netplane.kube import errors, types
from netplane.lab import host, protocol, state, units
from netplane.lab import spec as specs
from netplane.lab import up as ups
from netplane.lab.progress import Steps
from netplane.lab.spec import Folders, LabSpec
from netplane.lib.cli import UserError


def add_node(spec: LabSpec, folders: Folders, steps: Steps) -> str:
    """Add one node and wait until it is Ready; return its name."""
    require_up(spec, folders)
    grown = specs.with_node(spec)
    node = grown.node(max(grown.nodes))
    with steps.step(f"make {node.name}"):
        ups.ensure_node(grown, folders, node)
        state.save(grown, folders)
    wanted = units.of_node(grown, folders, host.program(), node)
    with steps.step("start its daemons", total=len(wanted)) as advance:
        ups.ensure_keeper(grown, folders)
        ups.wait_for_units(folders, wanted, advance)
    with steps.step("it becomes Ready") as advance:
        ups.wait_for_nodes(folders, {node.name}, advance)
    return node.name


def remove_node(spec: LabSpec, folders: Folders, name: str, steps: Steps) -> None:
    """Remove a node: its daemons first, then its Node object, then its files, which tell that it was not done before.

    A removal that was cut off is gone on with.
    """
    was_cut_off = name in ups.removed_nodes(spec, folders)
    if len(spec.nodes) == 1 and not was_cut_off:
        raise UserError(f"{name} is the last node: netplane lab down removes the lab")
    shrunk = spec if was_cut_off else specs.without_node(spec, name)
    require_up(spec, folders)
    with steps.step(f"stop {name}"):
        state.save(shrunk, folders)
        ups.ensure_keeper(shrunk, folders)
        host.remove_node(shrunk, folders, name)
    with steps.step("delete its Node"):
        asyncio.run(_delete_node(folders, name))
    with steps.step("remove its files"):
        ups.forget_removed_nodes(shrunk, folders)


def kill(spec: LabSpec, folders: Folders, what: str) -> None:
    """Kill -9 one daemon, or everything on a node and its cable with it."""
    require_up(spec, folders)
    known = [unit.name for unit in units.of_lab(spec, folders, host.program())]
    nodes = [node.name for node in spec.node_specs()]
    socket = folders.run / "keeper.sock"
    if what in known:
        running = {unit.name for unit in protocol.ask(socket, "status") if unit.pid}
        if what not in running:
            raise UserError(f"{what} does not run: netplane lab status shows what does")
        protocol.ask(socket, "kill", units=(what,))
    elif what in nodes:
        host.set_node_link(spec, what, is_up=False)
        # The keeper lets go first, so that nothing restarts; killing the cgroup takes the pods along.
        names = tuple(name for name in known if name.startswith(f"{what}/"))
        protocol.ask(socket, "kill", units=names)
        protocol.ask(socket, "hold", units=names, limit=30)
        host.empty_node(spec, what)
    else:
        raise UserError(f"{what}: neither a daemon nor a node; there are {', '.join([*nodes, *known])}")


def require_up(spec: LabSpec, folders: Folders) -> None:
    """Raise UserError unless the lab is there and its keeper answers."""
    if not (host.namespaces(spec) and ups.is_up(folders)):
        raise UserError(f"the lab {spec.name!r} is down: netplane lab up starts it")


async def _delete_node(folders: Folders, name: str) -> None:
    async with kube.Client(kube.load(str(folders.admin_kubeconfig)), user_agent="netplane-lab") as client:
        with contextlib.suppress(errors.NotFound):
            await client.delete(types.NODES, name)
