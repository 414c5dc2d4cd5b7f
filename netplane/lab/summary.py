"""Print what a lab is and how it is."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from netplane.lab import host, launch, protocol, units
from netplane.lab.spec import Folders, LabSpec

OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)


def print_welcome(spec: LabSpec) -> None:
    """Say what stands and what to type next."""
    suffix = "" if spec.name == "lab" else f" --name {spec.name}"
    activate = "" if shutil.which("netplane") else f"  source {Path(sys.executable).with_name('activate')}\n"
    hints = (
        (f'eval "$(netplane lab env{suffix})"', "kubectl now speaks to the lab"),
        ("kubectl get nodes,pods -A -o wide", "what is there"),
        (f"netplane lab demo{suffix}", "an application, and packets to it from everywhere"),
        (f"netplane lab exec{suffix} node-1 -- nft list ruleset", "look into a node"),
        (f"netplane lab down{suffix}", "remove every trace"),
    )
    OUT.print(
        f"\n[bold]{len(spec.nodes)} nodes are Ready[/bold]: "
        f"{spec.proxy_mode} proxy, {spec.fabric} fabric, {spec.ip_family}\n\n"
        + activate
        + "".join(f"  {command:<50} [dim]{why}[/dim]\n" for command, why in hints)
    )


def print_status(spec: LabSpec, folders: Folders, output: str) -> bool:
    """Print the nodes and daemons; return whether all of them run and are ready."""
    try:
        shown = protocol.ask(folders.run / "keeper.sock", "status")
        is_kept = True
    except protocol.KeeperDown:
        shown, is_kept = _survivors(spec, folders), False
    wanted = {unit.name for unit in units.of_lab(spec, folders, "netplane")}
    healthy = {unit.name for unit in shown if unit.state == "ready"} >= wanted
    if output in ("json", "yaml"):
        _print_data(spec, shown, healthy, output)
    else:
        _print_tables(spec, folders, shown, is_kept=is_kept, wide=output == "wide")
    return healthy


def _survivors(spec: LabSpec, folders: Folders) -> list[protocol.UnitStatus]:
    found = ((unit.name, launch.survivor(folders.run, unit)) for unit in units.of_lab(spec, folders, "netplane"))
    return [protocol.UnitStatus(name, "unkept", pid, 0, 0.0, "") for name, pid in found if pid]


def _print_data(spec: LabSpec, shown: list[protocol.UnitStatus], healthy: bool, output: str) -> None:
    data = {
        "name": spec.name,
        "healthy": healthy,
        "nodes": [asdict(node) for node in spec.node_specs()],
        "daemons": [asdict(unit) for unit in shown],
    }
    text = json.dumps(data, indent=2) if output == "json" else yaml.safe_dump(data, sort_keys=False).rstrip()
    OUT.print(text, markup=False)


def _print_tables(
    spec: LabSpec, folders: Folders, shown: list[protocol.UnitStatus], *, is_kept: bool, wide: bool
) -> None:
    present = host.namespaces(spec)
    state = {unit.name: unit for unit in shown}
    OUT.print(f"lab [bold]{spec.name}[/bold]: {spec.proxy_mode} proxy, {spec.fabric} fabric, {spec.ip_family}")
    if not is_kept:
        OUT.print("[yellow]its keeper does not run: netplane lab up starts it")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PLACE", "ADDRESS", "DAEMON", "STATE", "PID", "UP", "RESTARTS", *(("SAYS", "LOG") if wide else ())):
        table.add_column(column, no_wrap=True)
    table.add_row("client", ",".join(spec.client_addresses), "", _mark("client", spec, present))
    _add_unit(table, "underlay", ",".join(spec.api_addresses), state.get("server"), "server", folders, wide=wide)
    for node in spec.node_specs():
        place, address = node.name, ",".join(node.addresses)
        for unit in units.of_node(spec, folders, "netplane", node):
            what = unit.name.rpartition("/")[2]
            _add_unit(table, place, address, state.get(unit.name), what, folders, wide=wide)
            place = address = ""
    OUT.print(table)


def _mark(place: str, spec: LabSpec, present: frozenset[str]) -> str:
    return "" if spec.netns(place) in present else "[red]gone"


def _add_unit(
    table: Table, place: str, address: str, unit: protocol.UnitStatus | None, what: str, folders: Folders, *, wide: bool
) -> None:
    if unit is None:
        table.add_row(place, address, what, "[red]down")
        return
    colour = "green" if unit.state == "ready" else "yellow"
    extra = (unit.status, str(folders.run / "log" / f"{unit.name.replace('/', '.')}.log")) if wide else ()
    table.add_row(
        place,
        address,
        what,
        f"[{colour}]{unit.state}",
        str(unit.pid or ""),
        f"{unit.since:.0f}s",
        str(unit.restarts),
        *extra,
    )
