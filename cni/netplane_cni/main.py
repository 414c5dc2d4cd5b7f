"""The `netplane cni` commands."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from netplane.kube.errors import ApiError
from netplane.lib import cli, clock, config
from netplane.lib.cli import UserError
from netplane.model import address
from netplane_cni.plan import bgp, fabric

if TYPE_CHECKING:
    from netplane_cni.run.settings import Settings

RUN_DIR = click.option("--run-dir", type=click.Path(path_type=Path), default="/run/netplane", help="Where cni.sock is.")
CONF_DIR = click.option("--conf-dir", type=click.Path(path_type=Path), default="/etc/cni/net.d", help="Of the runtime.")
FABRICS = ["vxlan", "direct", "auto", "wireguard", "bgp"]
BIN_DIR = click.option("--bin-dir", type=click.Path(path_type=Path), default="/opt/cni/bin", help="Of the runtime.")


class Prefixes(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer versions only
    """A comma-separated list of networks."""

    name = "CIDR,.."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[address.Prefix, ...]:
        """Read it; a list from a configuration file will do, too."""
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(one if isinstance(one, address.Prefix) else address.prefix(str(one)) for one in parts if one)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class BgpPeer(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer versions only
    """A router and its AS number."""

    name = "ADDRESS:AS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bgp.Peer:
        """Read it."""
        try:
            return value if isinstance(value, bgp.Peer) else bgp.peer(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(context_settings=config.SETTINGS)
def cni() -> None:
    """Run and install the CNI plugin: pod addresses, cables, and the paths between nodes."""


@cni.command(context_settings=config.SETTINGS)
@config.command_options
@click.option("--kubeconfig", type=click.Path(), default=None, help="How to reach the API server.")
@click.option("--nodes-file", type=click.Path(path_type=Path), help="Nodes as JSON, in place of an API server.")
@click.option("--node-name", default=lambda: socket.gethostname().lower(), show_default="host name")
@click.option("--fabric", type=click.Choice(FABRICS), default="vxlan", help="How nodes are joined.")
@click.option("--vxlan-id", type=click.IntRange(0, (1 << 24) - 1), default=1)
@click.option("--vxlan-port", type=click.IntRange(1, 65535), default=4789)
@click.option(
    "--tunnel-checksum",
    type=click.Choice(["auto", "offload", "software"]),
    default="auto",
    help="Who computes the checksums inside tunnels; auto: the hardware, where a packet shows that this works.",
)
@click.option("--encryption", type=click.Choice(["all", "zones"]), default="all", help="Of which ways, by WireGuard.")
@click.option("--wireguard-port", type=click.IntRange(1, 65535), default=51820)
@click.option(
    "--key-rotation",
    type=click.FloatRange(0),
    default=0.0,
    help="Seconds that a WireGuard key is used; 0: until asked.",
)
@click.option("--mtu", type=click.IntRange(0, 65535), default=0, help="Of pods' links; 0: as the nodes' link allows.")
@click.option("--bgp-as", type=click.IntRange(1, (1 << 32) - 1), default=bgp.PRIVATE_AS, help="Of all nodes.")
@click.option("--bgp-peer", type=BgpPeer(), multiple=True, help="A router to speak BGP to; as often as there are.")
@click.option("--bgp-mesh/--no-bgp-mesh", default=True, help="Reach nodes on the same link without a router.")
@click.option("--bgp-bfd", is_flag=True, help="Notice a dead peer within 0.3 s (BFD); the peers must do so, too.")
@click.option(
    "--path-interval",
    type=click.FloatRange(0),
    default=300.0,
    help="Seconds between two looks at what the path to a node takes; 0: none.",
)
@click.option("--cluster-cidr", type=Prefixes(), default=(), help="Not masqueraded; default: the nodes' pod networks.")
@click.option("--no-masquerade-cidr", type=Prefixes(), default=(), help="Destinations that see pods' own addresses.")
@click.option("--masquerade/--no-masquerade", default=True, help="Give pods the node's address towards the outside.")
@click.option(
    "--wiring",
    type=click.Choice(["routed", "bridge"]),
    default="routed",
    help="A route of its own to each pod, or one bridge for the node's pods, which then share an Ethernet.",
)
@click.option(
    "--rules",
    type=click.Choice(["auto", "nftables", "iptables"]),
    default="auto",
    help="Who translates host ports and masquerades; auto: iptables where the host uses its legacy variant.",
)
@click.option(
    "--fast-path",
    type=click.Choice(["auto", "off"]),
    default="off",
    help="Let packets between pods take the way of their flow's last one, past rules; auto: where the kernel can.",
)
@click.option("--exclude", type=Prefixes(), default=(), help="Addresses that no pod gets.")
@click.option(
    "--cool-down",
    type=click.FloatRange(0),
    default=None,
    show_default="as long as the node tracks a silent UDP flow or a closed TCP connection, mostly 120",
    help="Seconds before an address is used again.",
)
@click.option("--state-dir", type=click.Path(path_type=Path), default="/var/lib/netplane/cni", help="Leases.")
@RUN_DIR
@CONF_DIR
@BIN_DIR
@click.option("--metrics-address", default="127.0.0.1")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=9910, help="0 serves no metrics.")
def daemon(**options: Any) -> None:
    """Serve the plugin on this node until stopped. Pods' networks stay in place then."""
    _must_be_root()
    cli.run_async(_daemon(**options), expected=(ApiError,))


@cni.command(context_settings=config.SETTINGS)
@RUN_DIR
@BIN_DIR
def install(run_dir: Path, bin_dir: Path) -> None:
    """Put the plugin where the runtime looks. Its configuration follows when the daemon is ready."""
    from netplane_cni.run import install as installing

    is_new = asyncio.run(installing.install_binary(bin_dir, str(run_dir / "cni.sock")))
    click.echo(f"{bin_dir / installing.BINARY}: {'installed' if is_new else 'is there already'}")
    click.echo("Start `netplane cni daemon`: it writes the configuration once the node's pod network is known.")


@cni.command(context_settings=config.SETTINGS)
@RUN_DIR
@CONF_DIR
@BIN_DIR
@click.option("--purge", is_flag=True, help="Also remove pods' cables, paths and rules from the kernel.")
def uninstall(run_dir: Path, conf_dir: Path, bin_dir: Path, purge: bool) -> None:
    """Take the plugin and its configuration away. Other plugins' files are left alone."""
    from netplane_cni.run import install as installing

    for path in installing.uninstall(bin_dir, conf_dir):
        click.echo(f"removed {path}")
    if purge:
        _must_be_root()
        asyncio.run(_purge(run_dir))
        click.echo(
            "removed pods' cables, paths to other nodes, nftables' tables netplane_cni, and iptables' chains NP-CNI-"
        )


@cni.command(context_settings=config.SETTINGS)
@RUN_DIR
@click.option("-o", "--output", type=click.Choice(["wide", "json"]), default="wide")
def status(run_dir: Path, output: Literal["wide", "json"]) -> None:
    """Show what the daemon of this node has given to whom, and how the paths to other nodes are."""
    found = _ask(run_dir / "cni.sock")
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(_lines(found)))


@cni.command(name="rotate-key", context_settings=config.SETTINGS)
@RUN_DIR
def rotate_key(run_dir: Path) -> None:
    """Give this node a new WireGuard key. The other nodes hear of it first, and traffic goes on meanwhile."""
    if not _ask(run_dir / "cni.sock", "NETPLANE_ROTATE")["rotates"]:
        raise UserError("this node's daemon has no WireGuard key: it runs without --fabric wireguard")
    click.echo("a new key is announced, and will be used when every node had the time to learn of it")


async def _daemon(**options: Any) -> None:
    import contextlib

    from netplane.kube import client
    from netplane_cni.run.daemon import Daemon

    settings = _settings(options)
    async with contextlib.AsyncExitStack() as stack:
        api = None
        if options["nodes_file"] is None:
            loaded = client.load(options["kubeconfig"])
            api = await stack.enter_async_context(client.Client(loaded, user_agent="netplane-cni"))
        # What is here stays: collections that walk over it would cost single ADDs some milliseconds.
        gc.freeze()
        await Daemon(settings, api=api, nodes_file=options["nodes_file"], clock=clock.SYSTEM).run()


def _settings(options: Mapping[str, Any]) -> Settings:
    from netplane_cni.run.settings import Settings

    return Settings(
        node=options["node_name"],
        fabric=_fabric(options),
        rotation=options["key_rotation"],
        path_interval=options["path_interval"],
        bgp=bgp.Settings(options["bgp_as"], options["bgp_peer"], options["bgp_bfd"]),
        socket=str(options["run_dir"] / "cni.sock"),
        state_dir=options["state_dir"],
        conf_dir=options["conf_dir"],
        bin_dir=options["bin_dir"],
        cluster_cidrs=options["cluster_cidr"],
        excluded=options["exclude"],
        unmasqueraded=options["no_masquerade_cidr"],
        masquerades=options["masquerade"],
        cool_down=_remembered() if options["cool_down"] is None else options["cool_down"],
        has_bridge=options["wiring"] == "bridge",
        rules=options["rules"],
        has_shortcut=options["fast_path"] == "auto",
        mtu=options["mtu"],
        metrics_address=options["metrics_address"],
        metrics_port=options["metrics_port"],
    )


def _fabric(options: Mapping[str, Any]) -> fabric.Settings:
    return fabric.Settings(
        options["fabric"],
        options["vxlan_id"],
        options["vxlan_port"],
        options["tunnel_checksum"],
        options["encryption"],
        options["wireguard_port"],
        options["bgp_mesh"],
    )


async def _purge(run_dir: Path) -> None:
    from netplane.kernel.link import run as link
    from netplane.kernel.link.objects import LinkGroup, LinkName, remove
    from netplane.kernel.nft import run as nft
    from netplane_cni.plan import attach, bridge, masquerade
    from netplane_cni.run import bgp as routing
    from netplane_cni.run import fabric as paths
    from netplane_cni.run import legacy, shortcut

    await routing.end(run_dir)
    paths.remove_all()
    with link.Socket() as links:
        links.commit([remove(LinkGroup(attach.GROUP)), remove(LinkGroup(attach.LEAVING_GROUP))])
        links.commit([remove(LinkName(bridge.BRIDGE))])
        shortcut.remove_all(links)
    await legacy.remove()
    await nft.load(masquerade.removal())


def _ask(path: Path, command: str = "NETPLANE_STATUS") -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon_socket:
        daemon_socket.settimeout(10.0)
        try:
            daemon_socket.connect(str(path))
            daemon_socket.sendall(f"CNI_COMMAND={command}\0\0".encode())
            daemon_socket.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: daemon_socket.recv(65536), b""))
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(f"cannot ask the CNI daemon at {path}: {why}; is `netplane cni daemon` running?") from error
    if not answer:
        raise UserError(f"the CNI daemon at {path} went away without an answer")
    content: dict[str, Any] = json.loads(answer[1:])
    return content


def _lines(found: dict[str, Any]) -> list[str]:
    state = "ready" if found["ready"] else f"not ready: {found['waiting_for']}"
    pools = ", ".join(f"{pool['cidr']} ({pool['size']} addresses)" for pool in found["pools"]) or "none yet"
    paths = found["fabric"]
    lines = [f"node     {found['node']}: {state}", f"pods     {pools}, MTU {found['mtu']}, {found['resting']} resting"]
    lines.append(f"fabric   {paths['mode']}: {paths['state']}, revision {paths['committed']} of {paths['wanted']}")
    lines.append(f"         fast path {found.get('fast_path', 'off')}")
    lines += [f"key      {paths['key']}"] if "key" in paths else []
    lines += [f"         no path to {node}: {why}" for node, why in paths["problems"].items()]
    lines += [f"         at most {mtu} bytes in a packet to {node}" for node, mtu in paths.get("narrow", {}).items()]
    rows = [("POD", "ADDRESSES", "INTERFACE", "LINK", "HOST PORTS", "STATE", "CONTAINER")]
    for lease in found["leases"]:
        addresses, ports = ",".join(lease["addresses"]), ",".join(lease["host_ports"]) or "-"
        where = lease["interface"], lease["link"]
        rows.append((lease["pod"] or "-", addresses, *where, ports, lease["state"], lease["container"][:13]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [*lines, *("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)]


def _remembered() -> float:
    """Return for how many seconds connection tracking knows who spoke last, so that no answer reaches a newcomer."""
    from netplane.kernel import sysctl
    from netplane.kernel.errors import KernelError

    found = []
    for name in ("udp_timeout_stream", "tcp_timeout_time_wait"):
        try:
            found.append(float(sysctl.read(f"net/netfilter/nf_conntrack_{name}")))
        except KernelError:  # not loaded yet: what the kernel sets out with
            found.append(120.0)
    return max(found)


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise UserError("the CNI daemon changes links and routes: run it as root")
