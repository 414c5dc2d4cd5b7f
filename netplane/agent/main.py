"""The command `agent`: options in, parts wired together."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import click

from netplane import __version__
from netplane.agent.images import Store
from netplane.agent.lifecycle import rotation
from netplane.agent.lifecycle.roster import Roster
from netplane.agent.lifecycle.services import Services
from netplane.agent.node.credentials import Credentials
from netplane.agent.node.objects import Identity
from netplane.agent.node.register import Registration
from netplane.agent.pods import config as pod_config
from netplane.agent.pods.config import NodeFacts
from netplane.agent.probes.checks import Checks
from netplane.agent.references import References
from netplane.agent.runtime.cni.run import Plugins
from netplane.agent.runtime.embedded import machine
from netplane.agent.runtime.embedded import runtime as embedded
from netplane.agent.runtime.embedded.layout import Layout
from netplane.agent.runtime.protocol import Runtime, RuntimeFailure
from netplane.agent.server.serve import Server
from netplane.agent.volumes.run import Volumes
from netplane.kube import client, kubeconfig
from netplane.kube.events import Recorder
from netplane.kube.informer import Informers, Query
from netplane.kube.types import NODES, PODS, SERVICES, Object
from netplane.lib import cli, clock, config, log, notify

_log = log.get("agent")


class AnyRuntime(Runtime, Protocol):
    """A runtime as the command has it: to be opened first."""

    def opened(self) -> AbstractAsyncContextManager[Runtime]:
        """Adopt what runs already; leaving lets everything run on."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    kubeconfig: str | None
    node_name: str
    node_ips: tuple[str, ...]
    state_dir: Path
    run_dir: Path
    cni_conf_dir: Path
    cni_bin_dirs: tuple[Path, ...]
    listen: str
    port: int
    cgroup_root: str
    image_dir: Path
    labels: dict[str, str]
    cluster_dns: tuple[str, ...]
    cluster_domain: str
    max_pods: int
    runtime: str
    container_runtime_endpoint: str


def _ips(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_address(word.strip())) for word in value.split(",") if word.strip())
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _labels(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for value in values for word in value.split(",") if word]
    if bad := [key for key, equals, _ in pairs if not equals or not key]:
        raise click.BadParameter(f"{bad[0]!r} is not KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _endpoint(_: click.Context, __: click.Parameter, value: str) -> str:
    path = value.removeprefix("unix://")
    if not path.startswith("/"):
        raise click.BadParameter(f"{value!r} is not unix:///PATH")
    return f"unix://{path}"


def _folders(_: click.Context, __: click.Parameter, value: str) -> tuple[Path, ...]:
    return tuple(Path(word) for word in value.split(":") if word)


FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings=config.SETTINGS)
@config.command_options
@click.option("--kubeconfig", help="How to reach the API server; default $KUBECONFIG.")
@click.option("--node-name", default=lambda: os.uname().nodename, show_default="host name", help="This node's name.")
@click.option("--node-ip", "node_ips", required=True, callback=_ips, help="This node's address, one of each IP family.")
@click.option("--state-dir", type=FOLDER, default="/var/lib/netplane/agent", help="What outlives a reboot.")
@click.option("--run-dir", type=FOLDER, default="/run/netplane", help="What does not.")
@click.option("--cni-conf-dir", type=FOLDER, default="/etc/cni/net.d", help="CNI configurations; the first is used.")
@click.option(
    "--cni-bin-dir", "cni_bin_dirs", callback=_folders, default="/opt/cni/bin", help="CNI plugins; colons separate."
)
@click.option("--listen", default="", show_default="all addresses", help="Where the API server reaches the agent.")
@click.option("--port", type=click.IntRange(1, 65535), default=10250, help="The port of that.")
@click.option("--cgroup-root", default="/netplane", help="The cgroup below which pods are put.")
@click.option("--image-dir", type=FOLDER, default="/var/lib/netplane/images", help="The node's image store.")
@click.option(
    "--runtime", type=click.Choice(["embedded", "containerd"]), default="embedded", help="What runs containers."
)
@click.option(
    "--container-runtime-endpoint",
    default="unix:///run/containerd/containerd.sock",
    callback=_endpoint,
    help="With --runtime containerd: the socket of that, or of any other runtime that speaks CRI v1.",
)
@click.option("--label", "labels", multiple=True, callback=_labels, help="A label of the node, KEY=VALUE.")
@click.option(
    "--cluster-dns", callback=_ips, default="10.96.0.10", help="Name servers of pods; empty for the node's own."
)
@click.option("--cluster-domain", default="cluster.local", help="The cluster's DNS domain.")
@click.option("--max-pods", type=click.IntRange(1), default=110, help="How many pods the node takes.")
def agent(**values: object) -> None:
    """Run the node agent: register the node and run the pods bound to it. Leaving lets the pods run on."""
    options = Options(**values)  # type: ignore[arg-type]  # click gives what the options declare
    cli.run_async(run(options), expected=(RuntimeFailure,))


async def run(options: Options) -> None:
    """Run the agent until cancelled. Raises UserError and RuntimeFailure for what the user can mend."""
    layout = Layout(state=options.state_dir / "runtime", run=options.run_dir / "agent", netns=options.run_dir / "netns")
    server, unopened = client.load(options.kubeconfig), _runtime(options, layout)
    for folder in (layout.state, layout.run, layout.netns, options.state_dir / "pods"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cli.UserError(f"cannot make folder {folder}: {error.strerror}") from error
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(unopened.opened())
        api = await stack.enter_async_context(client.Client(server))
        await _serve(options, runtime, api)


def _runtime(options: Options, layout: Layout) -> AnyRuntime:
    if options.runtime == "containerd":
        return _cri(options)
    return embedded.Embedded(
        layout,
        embedded.programs(layout),
        plugins=Plugins(options.cni_conf_dir, options.cni_bin_dirs, layout.networks),
        images=Store(options.image_dir),
        host=machine.probe(),
        clock=clock.SYSTEM,
        version=__version__,
    )


async def _serve(options: Options, runtime: Runtime, api: client.Client) -> None:
    identity, informers = _identity(options, runtime), _informers(options, api)
    registration = Registration(
        api,
        identity,
        runtime,
        disk=options.state_dir,
        clock=clock.SYSTEM,
        images=lambda: _images(runtime),
        held=lambda: informers.store(NODES).get(("", options.node_name)),
    )
    recorder = Recorder(api, "kubelet", host=options.node_name)
    references = References(api, lambda uids: roster.objects_changed(uids), clock.SYSTEM)
    services = Services(
        node=_facts(options, registration),
        api=api,
        runtime=runtime,
        volumes=Volumes(options.state_dir / "pods", references),
        references=references,
        checks=Checks(runtime),
        recorder=recorder,
        clock=clock.SYSTEM,
        service_objects=lambda: tuple(informers.store(SERVICES).values()),
    )
    roster = Roster(services, informers)
    credentials = Credentials(api, kubeconfig.chosen(options.kubeconfig), options.node_name, clock.SYSTEM)
    server = Server(api, identity, roster, runtime, options.listen, pki=options.state_dir / "pki", clock=clock.SYSTEM)
    async with references.opened(), services.checks.opened(), asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        group.create_task(registration.run())
        group.create_task(informers.run())
        group.create_task(roster.run())
        group.create_task(rotation.run(runtime, clock.SYSTEM))
        group.create_task(credentials.run())
        await registration.registered.wait()
        group.create_task(server.run())
        await server.serving.wait()
        _log.info("agent ready", node=options.node_name, port=options.port)
        notify.ready()


def _identity(options: Options, runtime: Runtime) -> Identity:
    return Identity(
        options.node_name,
        options.node_ips,
        options.port,
        options.max_pods,
        options.labels,
        f"{runtime.name}://{runtime.version}",
    )


def _informers(options: Options, api: client.Client) -> Informers:
    mine, own = f"spec.nodeName={options.node_name}", f"metadata.name={options.node_name}"
    return Informers(api, [Query(PODS, field_selector=mine), Query(SERVICES), Query(NODES, field_selector=own)])


def _cri(options: Options) -> AnyRuntime:
    try:
        from netplane.agent.runtime.cri.imports import Imports
        from netplane.agent.runtime.cri.runtime import Cri
    except ImportError as error:
        raise cli.UserError(
            f"--runtime containerd needs the package {error.name}: pip install 'netplane[containerd]'"
        ) from error
    endpoint = options.container_runtime_endpoint
    return Cri(endpoint, Imports(Store(options.image_dir), endpoint))


def _images(runtime: Runtime) -> list[Object]:
    return [{"names": [image.reference], "sizeBytes": image.size} for image in runtime.list_images()]


def _facts(options: Options, registration: Registration) -> NodeFacts:
    own = Path("/etc/resolv.conf")
    return NodeFacts(
        name=options.node_name,
        ips=options.node_ips,
        cgroup_root="/" + options.cgroup_root.strip("/"),
        pods_folder=options.state_dir / "pods",
        cluster_dns=options.cluster_dns,
        cluster_domain=options.cluster_domain,
        resolv=pod_config.resolv(own.read_text() if own.exists() else ""),
        memory=registration.memory,
        allocatable=registration.capacity,
    )
