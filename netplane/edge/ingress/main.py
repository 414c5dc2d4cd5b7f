"""The command `netplane ingress`: wire the parts of a front door and run them, or show how it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from netplane.edge.gateway import crds as definitions
from netplane.edge.ingress.plan import base, values
from netplane.edge.ingress.plan.view import Door
from netplane.edge.ingress.run.daemon import Daemon, Wishes
from netplane.edge.ingress.run.engine import Engine
from netplane.edge.ingress.run.passwords import Passwords
from netplane.kube import client, errors
from netplane.lib import cli, config, health, notify
from netplane.model import address

_LUA = Path(__file__).parent / "door.lua"
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]{0,90}")
_PORT = click.IntRange(0, 65535)


@click.group("ingress", context_settings=config.SETTINGS, invoke_without_command=True)
@config.command_options
@click.option("--kubeconfig", default=None, help="How to reach the API server; else $KUBECONFIG, else in-cluster.")
@click.option("--controller", default=Door().controller, help="The name IngressClasses know this door by.")
@click.option("--http-port", default=80, type=_PORT, help="Port for HTTP; 0: none.")
@click.option("--https-port", default=443, type=_PORT, help="Port for HTTPS; 0: none.")
@click.option("--address", multiple=True, help="Address to listen on (again for more); without: all of this host.")
@click.option("--publish-address", multiple=True, help="Address or name that clients reach, for statuses.")
@click.option("--publish-service", default="", help="NAMESPACE/NAME of the Service in front, for statuses.")
@click.option("--default-certificate", default="", help="NAMESPACE/NAME of the Secret for names that have none.")
@click.option("--proxy-protocol", is_flag=True, help="Expect a PROXY protocol header on every connection.")
@click.option("--tls-passthrough", is_flag=True, help="Serve the annotation ssl-passthrough; HTTPS takes one hop more.")
@click.option("--gateway/--no-gateway", default=True, help="Serve the Gateway API where its types are installed.")
@click.option("--install-gateway-crds", is_flag=True, help="Install the Gateway API's types when they are absent.")
@click.option("--access-log", default="stdout", help='Where requests are told: "stdout", "off", or a datagram socket.')
@click.option("--threads", default=0, type=click.IntRange(0, 64), help="The engine's threads; 0: one a processor.")
@click.option("--max-connections", default=0, type=click.IntRange(0), help="0: what the limit of open files allows.")
@click.option("--slots", default=base.SLOTS["h"], type=click.IntRange(8, 60000), help="Services ready to be served.")
@click.option("--haproxy", default="/usr/sbin/haproxy", type=click.Path(), help="The engine's program.")
@click.option("--state-dir", default="/var/lib/netplane/ingress", type=click.Path(path_type=Path), help="What stays.")
@click.option("--run-dir", default="/run/netplane/ingress", type=click.Path(path_type=Path), help="The engine's files.")
@click.option("--metrics-bind-address", default="127.0.0.1:10254", help="Where /metrics, /readyz, /status answer.")
@click.option("--resync-seconds", default=300.0, type=click.FloatRange(1), help="How often to compare with the engine.")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Serve Ingresses and Gateways: watch the API server and keep an HAProxy as they say."""
    context.obj = options
    if context.invoked_subcommand is None:
        cli.run_async(_run(options), expected=(errors.ApiError,))


@command.command()
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="For people or programs.")
@click.pass_obj
def status(options: Mapping[str, Any], output: str) -> None:
    """Show what the door serves, and which revision of the cluster its engine holds."""
    report = _ask(options["metrics_bind_address"])
    if output == "json":
        click.echo(json.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        click.echo(f"{name:<{width}}  {json.dumps(value) if isinstance(value, dict | bool) else value}")


@command.command()
@click.pass_obj
def stop(options: Mapping[str, Any]) -> None:
    """End the engine and all its connections. Ending the controller alone leaves the engine serving."""
    cli.run_async(Engine(_settings(options), state=options["state_dir"]).stop())


@command.command()
def crds() -> None:
    """Print the Gateway API's types: `netplane ingress crds | kubectl apply -f -`."""
    click.echo(definitions.manifest(), nl=False)


async def _run(options: Mapping[str, Any]) -> None:
    settings = _settings(options)
    for folder in (options["state_dir"], options["run_dir"]):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    wishes = _wishes(options)
    if not Path(options["haproxy"]).exists():
        raise cli.UserError(f"--haproxy {options['haproxy']}: there is no such program; install the package haproxy")
    engine = Engine(settings, state=options["state_dir"], binary=options["haproxy"])
    async with contextlib.AsyncExitStack() as stack:
        loaded = client.load(options["kubeconfig"])
        api = await stack.enter_async_context(client.Client(loaded, user_agent="netplane-ingress"))
        is_serving = asyncio.Event()
        daemon = Daemon(
            wishes,
            api,
            engine,
            Passwords(options["run_dir"]),
            resync_seconds=options["resync_seconds"],
            on_ready=is_serving.set,
        )
        await _serve(stack, daemon, options["metrics_bind_address"])
        async with asyncio.TaskGroup() as group:
            group.create_task(daemon.run())
            group.create_task(_refresh(daemon))
            await is_serving.wait()
            notify.ready()


async def _refresh(daemon: Daemon) -> None:
    while True:
        await daemon.refresh_metrics()
        await asyncio.sleep(5.0)


async def _serve(stack: contextlib.AsyncExitStack, daemon: Daemon, where: str) -> None:
    if not where:
        return
    host, port = _bind(where)
    routes: dict[str, health.Route] = {"/status": lambda _: web.json_response(daemon.report())}
    await stack.enter_async_context(health.server(host, port, ready=lambda: daemon.is_ready, routes=routes))


def _settings(options: Mapping[str, Any]) -> base.Settings:
    directory = str(Path(options["run_dir"]).absolute())
    if not _PLAIN.fullmatch(directory):
        raise cli.UserError(f"--run-dir {directory}: use at most 90 letters, digits, '.', '_', '-' and '/'")
    log = options["access_log"]
    if log not in ("stdout", "off") and not _PLAIN.fullmatch(log):
        raise cli.UserError(f"--access-log {log}: it is neither stdout, off, nor the absolute path of a socket")
    slots = {**base.SLOTS, "h": options["slots"]}
    return base.Settings(
        directory=directory,
        lua=str(_LUA),
        own_ports=frozenset({options["http_port"], options["https_port"]} - {0}),
        addresses=tuple(_listen(one) for one in options["address"]) or _everywhere(),
        threads=options["threads"],
        connections=options["max_connections"] or _connections(),
        access_log="" if log == "off" else log,
        accepts_proxy=options["proxy_protocol"],
        passthrough=options["tls_passthrough"],
        slots=slots,
    )


def _wishes(options: Mapping[str, Any]) -> Wishes:
    if not (options["http_port"] or options["https_port"]):
        raise cli.UserError("--http-port and --https-port are both 0, so there is nothing to serve")
    if options["http_port"] == options["https_port"]:
        raise cli.UserError(f"--https-port {options['https_port']}: it is the port for HTTP already")
    controller, passthrough = options["controller"], options["tls_passthrough"]
    return Wishes(
        door=Door(controller, options["http_port"], options["https_port"], passthrough),
        addresses=tuple(_published(one) for one in options["publish_address"]),
        publish_service=_key("publish-service", options["publish_service"]),
        default_certificate=_key("default-certificate", options["default_certificate"]),
        serves_gateways=options["gateway"],
        installs_definitions=options["install_gateway_crds"],
        reserved_ports=frozenset({22, 6443, 10250, 10254, 10256}),
        identity=_identity(options["state_dir"]),
    )


def _identity(state: Path) -> str:
    """Return a name that no other door has, and that this one keeps, so that a restart need not wait for its lease."""
    path = state / "identity"
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return f"{socket.gethostname()}_{path.read_text().strip()}"


def _key(option: str, text: str) -> tuple[str, str] | None:
    if not text:
        return None
    namespace, slash, name = text.partition("/")
    if not (slash and namespace and name):
        raise cli.UserError(f"--{option} {text}: write it as NAMESPACE/NAME")
    return namespace, name


def _everywhere() -> tuple[str, ...]:
    """Return all addresses of this host, of IPv6 only where the kernel has it."""
    return ("*", "[::]") if Path("/proc/net/if_inet6").exists() else ("*",)


def _listen(text: str) -> str:
    try:
        packed = address.parse(text)
    except ValueError as error:
        raise cli.UserError(f"--address {text}: {error}") from error
    return address.text(packed) if len(packed) == 4 else f"[{address.text(packed)}]"


def _published(text: str) -> str:
    """Read an address, or a name in lower case."""
    try:
        return address.text(address.parse(text)) if address.is_address(text) else values.host(text.lower())
    except ValueError as error:
        raise cli.UserError(f"--publish-address {text}: it is neither an IP address nor a DNS name") from error


def _bind(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise cli.UserError(f"--metrics-bind-address {text}: write it as ADDRESS:PORT")
    return host.strip("[]"), int(port)


def _connections() -> int:
    """Leave room for two sockets a connection, listeners and files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(100, min(100_000, (most - 500) // 2 - 100))


def _ask(where: str) -> dict[str, Any]:
    host, port = _bind(where)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/status"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            report: dict[str, Any] = json.load(answer)
            return report
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise cli.UserError(f"no door answers at {url}: {error}; is `netplane ingress` running here?") from error
