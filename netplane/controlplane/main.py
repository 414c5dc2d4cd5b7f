"""The commands `server` and `kubeconfig`: options in, parts wired together."""

from __future__ import annotations

import functools
import ipaddress
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click
import yaml

from netplane.controlplane.api import access, auditrules, cluster, pki, storage
from netplane.controlplane.api import kubeconfig as kubeconfigs
from netplane.controlplane.api import server as servers
from netplane.kube import client, election
from netplane.kube import kubeconfig as kubeconfig_of
from netplane.lib import cli, clock, config
from netplane.model.address import is_address

_MINIMUM_SERVICE_ADDRESSES = 8
_OWN_TOKEN = timedelta(days=3650)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the controllers wait for a node, in seconds, and how many ended pods they keep (0: all)."""

    node_monitor_grace: float
    node_startup_grace: float
    terminated_pods: int


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; durations are in seconds."""

    data_dir: Path
    listen: tuple[tuple[str, int], ...]
    advertise_address: str | None
    service_cidr: tuple[cluster.Cidr, ...]
    cluster_cidr: tuple[cluster.Cidr, ...]
    node_cidr_mask_size: int
    node_cidr_mask_size_ipv6: int
    node_monitor_grace_period: float
    node_startup_grace_period: float
    terminated_pod_gc_threshold: int
    etcd_servers: tuple[str, ...]
    etcd_prefix: str
    etcd_cafile: Path | None
    etcd_certfile: Path | None
    etcd_keyfile: Path | None
    pki_dir: Path | None
    audit_log_path: Path | None
    audit_policy_file: Path | None
    audit_level: str | None
    max_requests_inflight: int
    max_mutating_requests_inflight: int
    no_controllers: bool


def _addresses(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple(_address(value) for value in values)


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_address(host) or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not ADDRESS:PORT (IPv6 addresses in brackets)")
    return host, int(port)


def _cidrs(_: click.Context, parameter: click.Parameter, value: str) -> tuple[cluster.Cidr, ...]:
    found: list[cluster.Cidr] = []
    for text in value.split(","):
        try:
            found.append(ipaddress.ip_network(text.strip()))
        except ValueError as error:
            raise click.BadParameter(f"{text.strip()!r} is not an address range: {error}") from error
    if len(found) > 2 or len({each.version for each in found}) != len(found):
        raise click.BadParameter(f"{value!r}: one range, or one for each IP family")
    return tuple(found)


def _duration(_: click.Context, __: click.Parameter, value: str) -> float:
    """Read a duration as Kubernetes writes it (`40s`, `1m30s`), or plain seconds."""
    if value.isascii() and value.isdigit():
        seconds = float(value)
    elif _DURATION.fullmatch(value):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in re.findall(r"([\d.]+)(h|ms|m|s)", value))
    else:
        raise click.BadParameter(f"{value!r} is not a duration, as 40s or 1m30s")
    if not seconds:
        raise click.BadParameter("must be more than nothing: every node would be lost at once")
    return seconds


def _members(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Read etcd's members as kube-apiserver does: URLs, or HOST:PORT, with commas between."""
    return tuple(text.strip().rstrip("/") for text in (value or "").split(",") if text.strip())


def _etcd(options: Options) -> storage.EtcdAccess | None:
    members, certificate, key = options.etcd_servers, options.etcd_certfile, options.etcd_keyfile
    files = (options.etcd_cafile, certificate, key)
    if not members:
        if any(files):
            raise click.UsageError("--etcd-cafile, --etcd-certfile and --etcd-keyfile need --etcd-servers")
        return None
    if bool(certificate) != bool(key):
        raise click.UsageError("--etcd-certfile and --etcd-keyfile go together")
    schemes = {text.partition("://")[0] for text in members if "://" in text}
    if len(schemes) > 1 or not schemes <= {"http", "https"}:
        raise click.UsageError("--etcd-servers: all members are https://HOST:PORT or all are http://HOST:PORT")
    if schemes == {"http"} and any(files):
        raise click.UsageError("--etcd-servers: members at http:// have no use for certificates")
    places = tuple(text.rpartition("://")[2] for text in members)
    for place in places:
        if not place.rpartition(":")[2].isdigit() or not place.rpartition(":")[0]:
            raise click.UsageError(f"--etcd-servers: {place!r} is not HOST:PORT")
    uses_tls = schemes == {"https"} or any(files)
    prefix = "/" + options.etcd_prefix.strip("/")
    return storage.EtcdAccess(places, prefix, options.etcd_cafile, certificate, key, uses_tls=uses_tls)


def _mask(cidrs: Sequence[cluster.Cidr], size: int, size_ipv6: int) -> tuple[int, ...]:
    sizes = tuple(size_ipv6 if cidr.version == 6 else size for cidr in cidrs)
    for cidr, each in zip(cidrs, sizes, strict=True):
        if not cidr.prefixlen <= each <= cidr.max_prefixlen:
            raise click.UsageError(f"node ranges of /{each} do not fit in the cluster range {cidr}")
    return sizes


def _check_ranges(services: Sequence[cluster.Cidr], pods: Sequence[cluster.Cidr]) -> None:
    for service in services:
        if service.num_addresses < _MINIMUM_SERVICE_ADDRESSES:
            raise click.UsageError(f"service range {service} is too small: at least 8 addresses")
        for pod in pods:
            if service.version == pod.version and service.overlaps(pod):
                raise click.UsageError(
                    f"service range {service} and cluster range {pod} overlap: choose disjoint ranges"
                )


def _advertised(given: str | None, listening: Sequence[tuple[str, int]]) -> cluster.Address:
    if given:
        try:
            return ipaddress.ip_address(given)
        except ValueError as error:
            raise click.UsageError(f"--advertise-address: {given!r} is not an IP address") from error
    known = [ipaddress.ip_address(address) for address, _ in listening]
    outside = [address for address in known if not address.is_loopback and not address.is_unspecified]
    return outside[0] if outside else ipaddress.ip_address("127.0.0.1")


@click.command(context_settings=config.SETTINGS)
@config.command_options
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("/var/lib/netplane/server"),
              help="Where state, keys and the admin's kubeconfig are kept.")  # fmt: skip
@click.option("--listen", multiple=True, callback=_addresses, metavar="ADDRESS:PORT",
              help="Where to serve; repeatable. Sockets passed by systemd are served too.")  # fmt: skip
@click.option("--advertise-address", help="The address under which nodes reach the server.")
@click.option("--service-cidr", callback=_cidrs, default="10.96.0.0/16", help="Range of Services; two for dual stack.")
@click.option("--cluster-cidr", callback=_cidrs, default="10.244.0.0/16", help="Range of pods; two for dual stack.")
@click.option("--node-cidr-mask-size", type=click.IntRange(8, 30), default=24, help="Size of a node's IPv4 range.")
@click.option(
    "--node-cidr-mask-size-ipv6", type=click.IntRange(16, 124), default=64, help="Size of a node's IPv6 range."
)
@click.option("--node-monitor-grace-period", callback=_duration, default="40s", metavar="DURATION",
              help="How long a node may be silent before it counts as lost.")  # fmt: skip
@click.option("--node-startup-grace-period", callback=_duration, default="1m", metavar="DURATION",
              help="The same for a node that has just started.")  # fmt: skip
@click.option("--terminated-pod-gc-threshold", type=click.IntRange(0), default=12_500,
              help="How many ended pods are kept before the oldest are deleted; 0 keeps all.")  # fmt: skip
@click.option("--etcd-servers", callback=_members, metavar="URL,URL...",
              help="Keep the objects in this etcd, shared by several servers, not in a file.")  # fmt: skip
@click.option("--etcd-prefix", default="/registry", help="Where in etcd.")
@click.option("--etcd-cafile", type=_FILE, help="Whom to trust as etcd's members.")
@click.option("--etcd-certfile", type=_FILE, help="Our certificate as etcd's client.")
@click.option("--etcd-keyfile", type=_FILE, help="Its key.")
@click.option("--pki-dir", type=click.Path(file_okay=False, path_type=Path),
              help="The cluster's keys, the same for all its servers: ca.crt, ca.key, token.key."
              " Made by the first one; [default: DATA_DIR/pki]")  # fmt: skip
@click.option("--audit-log-path", type=click.Path(dir_okay=False, path_type=Path),
              help="Append who asked for what to this file, as audit.k8s.io/v1 Events, one in a line.")  # fmt: skip
@click.option("--audit-policy-file", type=_FILE,
              help="How much of which requests (a Policy of audit.k8s.io/v1); what is in Secrets never.")  # fmt: skip
@click.option("--audit-level", type=click.Choice(auditrules.LEVELS),
              help="How much of all requests, where no policy says it.  [default: Metadata]")  # fmt: skip
@click.option("--max-requests-inflight", type=click.IntRange(0), default=800,
              help="How many reads are answered at once before more get 429; 0 is no bound.")  # fmt: skip
@click.option("--max-mutating-requests-inflight", type=click.IntRange(0), default=400, help="The same for writes.")
@click.option("--no-controllers", is_flag=True, help="Serve the API alone, without controllers and scheduler.")
def server(**values: object) -> None:
    """Run the control plane: the Kubernetes API, its store, the controllers and the scheduler."""
    options = Options(**values)  # type: ignore[arg-type]  # click gives what the options declare
    settings = _settings(options)
    patience = Patience(
        options.node_monitor_grace_period, options.node_startup_grace_period, options.terminated_pod_gc_threshold
    )
    controllers = functools.partial(_run_controllers, patience=patience)
    parts = () if options.no_controllers else (("controllers", controllers), ("scheduler", _run_scheduler))
    cli.run_async(servers.serve(settings, parts))


def _settings(options: Options) -> cluster.Settings:
    _check_ranges(options.service_cidr, options.cluster_cidr)
    return cluster.Settings(
        data_dir=options.data_dir,
        listen=options.listen,
        advertise=_advertised(options.advertise_address, options.listen),
        service_cidrs=options.service_cidr,
        cluster_cidrs=options.cluster_cidr,
        node_mask_sizes=_mask(options.cluster_cidr, options.node_cidr_mask_size, options.node_cidr_mask_size_ipv6),
        runs_controllers=not options.no_controllers,
        etcd=_etcd(options),
        pki_dir=options.pki_dir,
        max_inflight=options.max_requests_inflight,
        max_mutating_inflight=options.max_mutating_requests_inflight,
        audit_path=options.audit_log_path,
        audit_policy=_audit_policy(options),
    )


def _audit_policy(options: Options) -> auditrules.Policy | None:
    path = options.audit_policy_file
    if options.audit_log_path is None:
        if path is not None:
            raise click.UsageError("--audit-policy-file needs --audit-log-path")
        return None
    if path is None:
        return None if options.audit_level == "None" else auditrules.of_level(options.audit_level or "Metadata")
    if options.audit_level is not None:
        raise click.UsageError("--audit-level and --audit-policy-file: choose one of them")
    try:
        return auditrules.policy(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, yaml.YAMLError, auditrules.PolicyError) as error:
        told = " ".join(str(error).split())
        raise click.UsageError(f"--audit-policy-file {path}: {told}") from error


def _client(at: cluster.Cluster, user: str) -> client.Client:
    token = at.keys.user_token(user, [access.MASTERS], now=at.clock.now(), lifetime=_OWN_TOKEN)
    to = kubeconfig_of.Config(server=at.own_address, ca_data=at.authority.pem().decode(), token=token)
    return client.Client(to, user_agent=user.removeprefix("system:"))


async def _run_controllers(at: cluster.Cluster, *, patience: Patience) -> None:
    """Run the controllers against the server they live in."""
    from netplane.controlplane import controllers  # what --no-controllers need not load
    from netplane.controlplane.controllers.config import ControllerConfig

    masks = {
        cidr.version: size for cidr, size in zip(at.settings.cluster_cidrs, at.settings.node_mask_sizes, strict=True)
    }
    told = ControllerConfig(
        cluster_cidrs=tuple(str(cidr) for cidr in at.settings.cluster_cidrs),
        node_mask_v4=masks.get(4, 24),
        node_mask_v6=masks.get(6, 64),
        ca_pem=at.authority.pem().decode(),
        node_monitor_grace=patience.node_monitor_grace,
        node_startup_grace=patience.node_startup_grace,
        terminated_pods=patience.terminated_pods or sys.maxsize,
    )
    async with _client(at, "system:kube-controller-manager") as api:
        await _as_leader(at, api, "kube-controller-manager", lambda: controllers.run(api, told))


async def _run_scheduler(at: cluster.Cluster) -> None:
    """Run the scheduler against the server it lives in."""
    from netplane.controlplane import scheduler

    async with _client(at, "system:kube-scheduler") as api:
        await _as_leader(at, api, "kube-scheduler", lambda: scheduler.run(api))


async def _as_leader(
    at: cluster.Cluster, api: client.Client, name: str, run: Callable[[], Coroutine[object, object, object]]
) -> None:
    """Run a part on one of the servers at a time. A server with a store of its own is alone: it need not ask."""
    if at.settings.etcd is None:
        await run()
        return
    await election.lead(api, name, identity=f"{at.settings.advertise}_{cluster.new_uid()}", run=run, clock=at.clock)


@click.command(context_settings=config.SETTINGS)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="The server's data directory.")  # fmt: skip
@click.option("--pki-dir", type=click.Path(file_okay=False, path_type=Path),
              help="The cluster's keys, if they are not in DATA_DIR/pki.")  # fmt: skip
@click.option("--server", "url", required=True, metavar="URL", help="Where the client reaches the server.")
@click.option("--user", required=True, help="Who the bearer is, as system:node:node-1.")
@click.option("--group", "groups", multiple=True, help="A group of the user; repeatable.")
def kubeconfig(*, data_dir: Path, pki_dir: Path | None, url: str, user: str, groups: tuple[str, ...]) -> None:
    """Print a kubeconfig with a signed token for a user; the server need not run."""
    if not url.startswith("https://"):
        raise click.BadParameter(f"{url!r} is not an https:// address", param_hint="--server")
    now, keys = clock.SYSTEM.now(), pki_dir or data_dir / "pki"
    try:
        material = pki.ensure_keys(keys, now=now)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot read the keys in {keys}: {error}") from error
    click.echo(kubeconfigs.render(material, server=url, user=user, groups=groups, now=now), nl=False)
