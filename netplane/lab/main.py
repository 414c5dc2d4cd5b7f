"""The `netplane lab` command."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click

from netplane.lab import spec as specs
from netplane.lab.spec import LabSpec, Ranges
from netplane.lib.cli import UserError


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not specs.NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r}: lower-case letters, digits and '-', at most 15 characters")
    return value


NAME = click.option(
    "--name", default="lab", show_default=True, callback=_name, help="Which lab; several can be up at once."
)


@click.group()
def lab() -> None:
    """A whole cluster on this machine: each node a network namespace."""


@lab.command()
@NAME
@click.option("--nodes", type=click.IntRange(1, specs.MAX_NODES), help="How many nodes.  [default: 3]")
@click.option("--proxy-mode", type=click.Choice(["nftables", "ipvs", "iptables"]), help="[default: nftables]")
@click.option(
    "--fabric",
    type=click.Choice(["vxlan", "direct", "auto", "wireguard", "bgp"]),
    help="How nodes carry pod traffic.  [default: vxlan]",
)
@click.option("--ip-family", type=click.Choice(["ipv4", "ipv6", "dual"]), help="[default: ipv4]")
@click.option(
    "--runtime", type=click.Choice(["embedded", "containerd"]), help="What runs containers.  [default: embedded]"
)
@click.option(
    "--api-port", type=click.IntRange(1, 65535), help="Where kubectl finds the API on 127.0.0.1.  [default: 6443]"
)
@click.option("--pods-cidr", help="Pod ranges, one a family, comma-separated.")
@click.option("--services-cidr", help="Service ranges, one a family, comma-separated.")
@click.option("--underlay-cidr", help="The nodes' own network, one range a family, comma-separated.")
def up(name: str, **options: Any) -> None:
    """Start the lab, or mend and continue the one that is there."""
    from netplane.lab import down as downs
    from netplane.lab import state, summary
    from netplane.lab import up as ups
    from netplane.lab.progress import Steps

    folders = specs.folders(name)
    _require_root()
    with _signals_unwind(name), state.locked(folders), _spec_errors():
        known = state.load(folders)
        wanted = specs.check(_wanted(name, known, options))
        with Steps() as steps:
            if known is None and downs.is_anything_left(wanted, folders):
                downs.down(wanted, folders, steps)
            try:
                ups.up(wanted, folders, steps)
            except BaseException:
                if known is None and downs.is_anything_left(wanted, folders):
                    downs.down(wanted, folders, steps)
                raise
    summary.print_welcome(wanted)


@lab.command()
@NAME
@click.option("--keep", is_flag=True, help="Keep the cluster's state: the next up continues from it.")
def down(name: str, keep: bool) -> None:
    """Stop the lab and remove every trace of it."""
    from netplane.lab import down as downs
    from netplane.lab import state
    from netplane.lab.progress import CONSOLE, Steps

    _require_root()
    folders = specs.folders(name)
    with _signals_unwind(name), state.locked(folders):
        # What is there goes, also when the spec is damaged or was the first to go.
        spec = LabSpec(name=name)
        if not downs.is_anything_left(spec, folders):
            downs.remove_empty_parents(folders)  # a `down` that was cut off at its end left them
            CONSOLE.print(f"there is no lab {name!r}: nothing to do")
            return
        with Steps() as steps:
            downs.down(spec, folders, steps, keep=keep)


@lab.command()
@NAME
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table")
def status(name: str, output: str) -> None:
    """Show the lab's nodes and daemons. Exits 1 when one of them is not ready."""
    from netplane.lab import state, summary

    _require_root()
    spec, folders = state.required(name)
    sys.exit(0 if summary.print_status(spec, folders, output) else 1)


@lab.command(context_settings={"ignore_unknown_options": True})
@NAME
@click.argument("place")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec(name: str, place: str, command: tuple[str, ...]) -> None:
    """Run a command in a node, in the `client` outside or on the `underlay`: lab exec node-1 -- curl 10.96.0.10."""
    from netplane.lab import host, state

    _require_root()
    spec, folders = state.required(name)
    places = [*(node.name for node in spec.node_specs()), "client", "underlay"]
    if place not in places:
        raise UserError(f"{place}: no such place; there are {', '.join(places)}")
    if spec.netns(place) not in host.namespaces(spec):
        raise UserError(f"the lab {name!r} is down: netplane lab up starts it")
    argv = host.entered(spec, folders, place, command or (os.environ.get("SHELL", "/bin/bash"),))
    os.execvp(argv[0], argv)


@lab.command(context_settings={"ignore_unknown_options": True})
@NAME
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl against the lab."""
    from netplane.lab import state

    _require_root()
    _, folders = state.required(name)
    if shutil.which("kubectl") is None:
        raise UserError("kubectl is not installed: any kubectl from 1.27 on will do")
    os.environ["KUBECONFIG"] = str(folders.admin_kubeconfig)
    os.execvp("kubectl", ["kubectl", *arguments])


@lab.command()
@NAME
def env(name: str) -> None:
    """Print what makes kubectl speak to the lab: eval "$(netplane lab env)"."""
    from netplane.lab import state

    _require_root()
    _, folders = state.required(name)
    click.echo(f"export KUBECONFIG={folders.admin_kubeconfig}")
    click.echo(f"export NETPLANE_IMAGE_DIR={folders.images}")


@lab.command()
@NAME
def demo(name: str) -> None:
    """Apply the guestbook and follow a packet to it from a pod, a node and the outside."""
    from netplane.lab import demo as demos
    from netplane.lab import state

    _require_root()
    spec, folders = state.required(name)
    demos.run(spec, folders)


@lab.command("add-node")
@NAME
def add_node(name: str) -> None:
    """Add a node to the running lab."""
    from netplane.lab import change, state
    from netplane.lab.progress import Steps

    _require_root()
    state.required(name)
    with _signals_unwind(name), state.locked(specs.folders(name)), _spec_errors(), Steps() as steps:
        spec, folders = state.required(name)
        click.echo(change.add_node(spec, folders, steps))


@lab.command("remove-node")
@NAME
@click.argument("node")
def remove_node(name: str, node: str) -> None:
    """Remove a node with all that runs on it: its Node object goes, its pods move."""
    from netplane.lab import change, state
    from netplane.lab.progress import Steps

    _require_root()
    state.required(name)
    with _signals_unwind(name), state.locked(specs.folders(name)), _spec_errors(), Steps() as steps:
        spec, folders = state.required(name)
        change.remove_node(spec, folders, node, steps)


@lab.command()
@NAME
@click.argument("what")
def kill(name: str, what: str) -> None:
    """Kill -9 a daemon (node-1/proxy, server), or cut a whole node's power (node-2).

    A daemon comes back by itself; a node comes back with the next `netplane lab up`.
    """
    from netplane.lab import change, state

    _require_root()
    spec, folders = state.required(name)
    change.kill(spec, folders, what)


@lab.command()
@NAME
@click.argument("unit")
@click.option("-f", "--follow", is_flag=True)
def logs(name: str, unit: str, follow: bool) -> None:
    """Print a daemon's log: server, node-1/agent, node-1/cni, node-1/proxy, keeper."""
    from netplane.lab import state

    _require_root()
    _, folders = state.required(name)
    path = folders.run / "log" / f"{unit.replace('/', '.')}.log"
    if not path.exists():
        known = ", ".join(sorted(p.stem.replace(".", "/") for p in path.parent.glob("*.log")))
        raise UserError(f"{unit}: no such log; there are {known or 'none'}")
    os.execvp("tail", ["tail", "-n", "+1" if not follow else "50", *(["-F"] if follow else []), str(path)])


@lab.command(hidden=True)
@NAME
def keeper(name: str) -> None:
    """Keep the lab's daemons running (started by `up`)."""
    from netplane.lab import host, launch, state, units
    from netplane.lab import keeper as keepers
    from netplane.lib import log
    from netplane.lib.cli import run_async

    spec, folders = state.required(name)
    launch.reserve_listen_fd(units.server(spec, folders, host.program()))
    log.setup("info")
    launch.join_cgroup(units.keeper_cgroup(spec))

    def wanted() -> tuple[units.Unit, ...]:
        current = state.load(folders)
        return units.of_lab(current, folders, host.program()) if current else ()

    run_async(keepers.Keeper(folders.run, wanted).run())


def _wanted(name: str, known: LabSpec | None, options: dict[str, Any]) -> LabSpec:
    """Return the spec that the options ask for; a lab that exists only takes the options it was made with."""
    base = known or LabSpec(name=name)
    given = {k: v for k, v in options.items() if v is not None}
    changes: dict[str, Any] = {
        k: v for k, v in given.items() if k in ("proxy_mode", "fabric", "ip_family", "runtime", "api_port")
    }
    if "nodes" in given and len(base.nodes) != given["nodes"]:
        changes["nodes"] = tuple(range(1, given["nodes"] + 1))
    for option, part in (("pods_cidr", "pods"), ("services_cidr", "services"), ("underlay_cidr", "underlay")):
        for family, text in specs.by_family(option.replace("_", "-"), given.get(option)).items():
            ranges: Ranges = changes.get(family, getattr(base, family))
            changes[family] = specs.with_range(ranges, part, text)
            if changes.get("ip_family", base.ip_family) not in (family, "dual"):
                flag = option.replace("_", "-")
                raise UserError(
                    f"--{flag} {text}: not of the lab's IP family; --ip-family {family} or dual would use it"
                )
    wanted = replace(base, **changes)
    if known is not None and wanted != known:
        raise UserError(
            f"the lab {name!r} exists with other settings: netplane lab down removes it"
            " (add-node and remove-node change the number of nodes)"
        )
    return wanted


def _require_root() -> None:
    if os.geteuid() != 0:
        raise UserError("a lab and its keys belong to root: run this as root")


@contextmanager
def _signals_unwind(name: str) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: what was begun is put in order first.

    Of a command that is cut off nothing goes on but the lab's keeper.
    """
    from netplane.lab import launch

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        yield
    except BaseException:
        launch.end_children(but=launch.keepers(name))
        raise


@contextmanager
def _spec_errors() -> Iterator[None]:
    try:
        yield
    except specs.SpecError as error:
        raise UserError(str(error)) from error
