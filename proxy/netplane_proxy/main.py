"""The command `netplane proxy`: wire the parts of the Service proxy and run them, show how it is, or clean up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from netplane.kernel.errors import KernelError
from netplane.kube import client, errors
from netplane.lib import cli, clock, config, health, notify
from netplane_proxy import kube_proxy, settings
from netplane_proxy.plan.host import LOCAL_MODES
from netplane_proxy.plan.ipvs.rows import SCHEDULERS
from netplane_proxy.run import backends, iptables, ipvs, marks
from netplane_proxy.run import kube_proxy as leftovers
from netplane_proxy.run.addresses import Addresses
from netplane_proxy.run.daemon import Daemon, Parts
from netplane_proxy.run.flows import Conntrack, Sweeper
from netplane_proxy.run.health import patient
from netplane_proxy.run.memory import Memory
from netplane_proxy.run.target import Target

_CAP_NET_ADMIN = 12
_MODES = click.Choice(["nftables", "ipvs", "iptables"])
_LOCAL_MODES = click.Choice(LOCAL_MODES)
_GARBAGE_AT_START = 5_000_000
"""New objects between two collections until all is forwarded: a cold start makes a million and throws few away."""
_GARBAGE_LATER = 100_000
_TURN_SECONDS = 0.0005
"""How long a thread that writes the record or reads connection tracking may keep a change waiting."""
_METRICS = "127.0.0.1:10249"


def _joined(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> str:
    """Append what further flags of one name list, as kube-proxy does."""
    return ",".join(values)


@click.group(cls=kube_proxy.Command, context_settings=config.SETTINGS, invoke_without_command=True)
@config.command_options
@click.option("--kubeconfig", default=None, help="How to reach the API server; else $KUBECONFIG, else in-cluster.")
@click.option("--node-name", "--hostname-override", default=socket.gethostname().lower(), help="This node's name.")
@click.option("--mode", "--proxy-mode", type=_MODES, default="nftables", help="Which kernel backend forwards.")
@click.option("--ipvs-scheduler", type=click.Choice(SCHEDULERS), default="rr", help="How IPVS chooses.")
@click.option(
    "--nodeport-addresses",
    default=["primary"],
    multiple=True,
    callback=_joined,
    help='Networks of the addresses NodePorts listen on, by commas; "primary": the Node\'s own addresses.',
)
@click.option(
    "--localhost-nodeports/--no-localhost-nodeports",
    "--iptables-localhost-nodeports/--no-iptables-localhost-nodeports",
    default=True,
    help="Let the node reach NodePorts at 127.0.0.1 and ::1, without route_localnet.",
)
@click.option("--cluster-cidr", default="", help="Networks of all pods; tells pods' packets from others'.")
@click.option("--service-cidr", default="", help="Networks of cluster IPs: packets to unknown ones are rejected.")
@click.option("--detect-local-mode", type=_LOCAL_MODES, default="ClusterCIDR", help="Whose packets count as a pod's.")
@click.option("--pod-bridge-interface", default="", help="The pods' bridge, in local mode BridgeInterface.")
@click.option("--pod-interface-name-prefix", default="", help="What names of pods' interfaces begin with, in local "
              "mode InterfaceNamePrefix.")  # fmt: skip
@click.option("--masquerade-all/--no-masquerade-all", default=False, help="Masquerade all traffic to cluster IPs.")
@click.option(
    "--masquerade-bit",
    "--iptables-masquerade-bit",
    type=click.IntRange(0, 31),
    default=14,
    help="Bit of the packet mark that asks for masquerading.",
)
@click.option(
    "--on-mark-clash",
    type=click.Choice(["warn", "refuse", "ignore"]),
    default="warn",
    help="What to do when others' rules on this host use the masquerade bit.",
)
@click.option("--healthz-bind-address", default="0.0.0.0:10256", help="Where /healthz answers; empty: nowhere.")
@click.option("--metrics-bind-address", default=_METRICS, help="Where /metrics and /status answer; empty: nowhere.")
@click.option(
    "--bind-address-hard-fail/--no-bind-address-hard-fail",
    default=False,
    help="End when one of these two addresses cannot be had, instead of trying again.",
)
@click.option("--state-dir", default="/var/lib/netplane/proxy", type=click.Path(path_type=Path), help="For start-up "
              "without an API server.")  # fmt: skip
@click.option("--resync-seconds", default=600.0, type=click.FloatRange(1), help="How often to compare with the kernel.")
@click.option("--cleanup", "is_cleanup", is_flag=True, help="Remove every trace and exit (as `proxy cleanup`).")
@click.pass_context
def proxy(context: click.Context, /, is_cleanup: bool, **options: Any) -> None:
    """Forward Services on this node: watch the API server and keep the kernel's rules as its Services say."""
    context.obj = options
    if context.invoked_subcommand is not None:
        return
    cli.run_async(_cleanup(options) if is_cleanup else _run(options), expected=(errors.ApiError,))


@proxy.command()
@click.option("--kube-proxy", "is_kube_proxys", is_flag=True, help="Remove what kube-proxy left, and nothing of ours.")
@click.pass_obj
def cleanup(options: Mapping[str, Any], is_kube_proxys: bool) -> None:
    """Remove every rule, table and file of the proxy from this node."""
    if is_kube_proxys:
        cli.run_async(_cleanup_kube_proxy())
        return
    cli.run_async(_cleanup(options))


@proxy.command()
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="For people or programs.")
@click.pass_obj
def status(options: Mapping[str, Any], output: str) -> None:
    """Show which revision of the cluster the kernel holds, and how many Service ports it forwards."""
    try:
        report = read_status(options["metrics_bind_address"])
    except cli.UserError as error:
        cli.fail(error)
    if output == "json":
        click.echo(json.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        click.echo(f"{name:<{width}}  {json.dumps(value) if isinstance(value, dict | bool) else value}")


def read_status(where: str) -> dict[str, Any]:
    """Ask the proxy of this node how it is."""
    address = settings.bind("metrics-bind-address", where)
    if address is None:
        raise cli.UserError("--metrics-bind-address is empty, so the proxy cannot be asked; give it an address")
    host, port = address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/status"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            report: dict[str, Any] = json.load(answer)
            return report
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise cli.UserError(f"no proxy answers at {url}: {error}; is `netplane proxy` running here?") from error


async def _run(options: Mapping[str, Any]) -> None:
    need_net_admin()
    wanted = settings.of_options(options)
    marks.check(wanted.masquerade_bit, on_clash=options["on_mark_clash"])
    memory = Memory(options["state_dir"] / "forwarding.json")
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(_client(options["kubeconfig"]))
        target = stack.enter_context(contextlib.closing(open_target(options["mode"], options["ipvs_scheduler"])))
        links = stack.enter_context(contextlib.closing(Addresses(are_followed=wanted.nodeport_prefixes is not None)))
        conntrack = stack.enter_context(contextlib.closing(Conntrack()))
        sweeper = Sweeper(conntrack, clock=clock.SYSTEM)
        parts = Parts(api, target, sweeper, memory, links.read, links.changed, options["mode"])
        gc.set_threshold(_GARBAGE_AT_START)
        is_forwarding = asyncio.Event()
        daemon = Daemon(wanted, parts, resync_seconds=options["resync_seconds"], on_ready=is_forwarding.set)
        await _serve(stack, daemon, target, options)
        async with asyncio.TaskGroup() as group:
            group.create_task(daemon.run())
            await is_forwarding.wait()
            _settle_down()
            await backends.retire_others(options["mode"])


async def _serve(stack: contextlib.AsyncExitStack, daemon: Daemon, target: Target, options: Mapping[str, Any]) -> None:
    healthz = settings.bind("healthz-bind-address", options["healthz_bind_address"])
    metrics = settings.bind("metrics-bind-address", options["metrics_bind_address"])

    def is_ready() -> bool:
        return daemon.is_ready

    pulse: dict[str, health.Route] = {"/healthz": daemon.pulse.healthz, "/livez": daemon.pulse.livez}
    must = options["bind_address_hard_fail"]
    if healthz is not None:
        await stack.enter_async_context(
            patient(lambda: health.server(*healthz, ready=is_ready, routes=pulse), must=must)
        )
    if metrics is not None:
        routes: dict[str, health.Route] = {
            **pulse,
            "/proxyMode": lambda _: web.Response(text=options["mode"]),
            "/status": lambda _: web.json_response({"mode": options["mode"], **daemon.report(), **_account(target)}),
        }
        look = target.look if isinstance(target, iptables.IptablesTarget) else None
        await stack.enter_async_context(
            patient(lambda: health.server(*metrics, ready=is_ready, routes=routes, refresh=look), must=must)
        )


def _account(target: Target) -> dict[str, object]:
    """Return what a backend has to add to the report."""
    return target.account() if isinstance(target, iptables.IptablesTarget) else {}


async def _cleanup_kube_proxy() -> None:
    need_net_admin()
    for what in await leftovers.remove() or ["nothing of kube-proxy was there"]:
        click.echo(what)


async def _cleanup(options: Mapping[str, Any]) -> None:
    need_net_admin()
    await backends.cleanup()
    Memory(options["state_dir"] / "forwarding.json").forget()


def _settle_down() -> None:
    """Take all that was read at start out of the garbage collector's sight: it stays, and looking at it costs time."""
    gc.freeze()
    gc.set_threshold(_GARBAGE_LATER, 50, 100)
    sys.setswitchinterval(_TURN_SECONDS)
    notify.ready()


def _client(kubeconfig: str | None) -> client.Client:
    return client.Client(client.load(kubeconfig), user_agent="netplane-proxy")


def open_target(mode: str, scheduler: str) -> Target:
    """Open the backend of a mode. UserError when the kernel has no IPVS."""
    if mode != "ipvs":
        return backends.BUILT[mode].open()
    try:
        return ipvs.open_target(scheduler)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        reason = "the kernel module ip_vs is missing; load it (modprobe ip_vs) or use another mode"
        raise cli.UserError(f"--mode ipvs cannot forward: {reason}") from error


def need_net_admin() -> None:
    """Raise a UserError unless the process may change the kernel's rules."""
    status = Path("/proc/self/status").read_text()
    (effective,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    if not int(effective, 16) >> _CAP_NET_ADMIN & 1:
        who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
        raise cli.UserError(f"the proxy may not change the kernel's rules ({who} lacks CAP_NET_ADMIN); run it as root")
