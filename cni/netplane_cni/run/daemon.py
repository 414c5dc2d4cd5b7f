"""Run the node's part of the plugin: put the pieces together, and keep them until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from netplane.kernel.errors import CommandFailed
from netplane.kernel.link import events, hearing
from netplane.kernel.nft import run as nft
from netplane.kube.api import Api
from netplane.kube.errors import ApiError
from netplane.lib import health, log, metrics, notify
from netplane.lib.cli import UserError
from netplane.lib.clock import Clock
from netplane.model import address
from netplane.model.node import Node
from netplane.reconcile.loop import Cause, Loop, Pace
from netplane.reconcile.report import Outcome
from netplane_cni import spec
from netplane_cni.plan import attach, bridge, masquerade, shortcut
from netplane_cni.plan import fabric as paths
from netplane_cni.plan.inside import Inside
from netplane_cni.plan.ipam import Pool
from netplane_cni.plan.neighbourhood import place
from netplane_cni.run import bgp as routing
from netplane_cni.run import checksum, install, legacy, loopback, nodes, probes, reach, rules, translation
from netplane_cni.run.attach import Wirer
from netplane_cni.run.encryption import Encryption
from netplane_cni.run.fabric import Fabric, prepare_node
from netplane_cni.run.server import Server
from netplane_cni.run.settings import MEANS, Means, Settings
from netplane_cni.run.shortcut import Shortcut
from netplane_cni.run.verbs import Prepared, Verbs

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STATUS_COMMAND = "NETPLANE_STATUS"
ROTATE_COMMAND = "NETPLANE_ROTATE"
RESYNC = 15.0

UNHEARD = hearing.Unheard(attach.LINK_PREFIX, but=b".", protocols=(paths.FABRIC_PROTOCOL,))
"""Pods' cables and the routes to them: paths between nodes do not depend on them, and each ADD makes many."""

SECONDS = metrics.histogram("netplane_cni_seconds", "Duration of CNI calls.", ["command"])
ERRORS = metrics.counter("netplane_cni_errors", "CNI calls that failed.", ["command", "code"])
LEASES = metrics.gauge("netplane_cni_leases", "Attachments that hold addresses.")
RESTING = metrics.gauge("netplane_cni_resting_addresses", "Addresses that rest after their last holder.")
FREE = metrics.gauge("netplane_cni_free_addresses", "Addresses that a pod could have now.", ["family"])
CAPACITY = metrics.gauge("netplane_cni_addresses", "Addresses of the node that pods may have.", ["family"])


class Daemon:
    """The plugin on one node. `api` is None where nodes come from a file."""

    def __init__(
        self,
        settings: Settings,
        *,
        api: Api | None,
        nodes_file: Path | None,
        clock: Clock,
        means: Means = MEANS,
    ) -> None:
        self._settings = settings
        self._api = api
        self._nodes_file = nodes_file
        self._clock = clock
        self._log = log.get("cni")
        self._nodes: nodes.Nodes = {}
        self._inside = Inside((*settings.cluster_cidrs, *settings.unmasqueraded))
        self._me: Node | None = None
        self._uid: str | None = None
        self._journal = means.journal(str(settings.state_dir), clock)
        self._shortcut = Shortcut(clock, is_wanted=settings.has_shortcut and not settings.has_bridge)
        self._wirer = Wirer(means.open_links, self._shortcut.note)
        self._rules = translation.Translation(self._opened_rules(means), means.open_flows(), self._facts)
        self._encryption = _encryption(settings, clock)
        self._announced: dict[str, str | None] = {}
        self._bgp = _bgp(settings)
        self._probes = probes.Paths(
            clock, self._path_changed, interval=settings.path_interval, folder=settings.state_dir
        )
        self._reach = reach.Reach(clock, self._path_changed)
        boot = BOOT_ID.read_text().strip()
        self._fabric = self._joined(lambda: checksum.is_sound(settings.state_dir, boot, means.try_checksum))
        cool_down = settings.cool_down
        self._verbs = Verbs(self._journal, self._wirer, self._rules, clock=clock, boot=boot, cool_down=cool_down)
        LEASES.set_function(lambda: len(self._journal.state.leases))
        RESTING.set_function(lambda: len(self._verbs.addresses.cooling()))
        self._loop = Loop(
            self._act, name="fabric", clock=clock, pace=Pace(resync=RESYNC), expected=(OSError, UserError, ValueError)
        )

    def _joined(self, is_sound: Callable[[], bool]) -> Fabric:
        """Return what joins this node to the others, with all that it asks about the paths."""
        return Fabric(
            self._settings.node,
            self._settings.fabric,
            self._paths_ready,
            self._encryption,
            self._probes if self._settings.path_interval else None,
            self._reach,
            is_sound,
            mtu=self._settings.mtu,
        )

    def _opened_rules(self, means: Means) -> translation.Body:
        wanted = self._settings.rules
        if wanted == "iptables" or (wanted == "auto" and legacy.is_used_here()):
            return legacy.Legacy(legacy.opened())
        return rules.Rules(means.open_rules())

    async def _end_other_rules(self) -> None:
        """Take away what a daemon before us, told otherwise, has left in the other half of the kernel."""
        if isinstance(self._rules.body, rules.Rules):
            await legacy.remove()
            return
        with contextlib.suppress(CommandFailed):  # a host without nft has none of them
            await nft.load(masquerade.removal())

    async def run(self) -> None:
        """Serve until cancelled. Pods' cables, rules and paths stay in place afterwards."""
        self._journal.open()
        try:
            await self._end_other_rules()
            await self._verbs.recover()
            await self._serve()
        finally:
            notify.stopping()
            self._wirer.close()
            self._shortcut.close()
            self._fabric.close()
            self._journal.close()

    async def _serve(self) -> None:
        settings = self._settings
        await install.install_binary(settings.bin_dir, settings.socket)
        server = Server(settings.socket, self._call)
        server.listen()
        async with contextlib.AsyncExitStack() as stack:
            if settings.metrics_port:
                where = settings.metrics_address, settings.metrics_port
                await stack.enter_async_context(health.server(*where, ready=lambda: self._verbs.prepared is not None))
            async with asyncio.TaskGroup() as group:
                group.create_task(server.run())
                group.create_task(self._verbs.sweeping())
                group.create_task(self._verbs.doubting())
                group.create_task(self._shortcut.laying())
                group.create_task(self._loop.run())
                group.create_task(self._follow_nodes())
                group.create_task(self._probes.run())
                group.create_task(self._reach.run())
                if self._bgp is not None:
                    group.create_task(self._bgp.watching(self._loop.verify, self._clock))
                else:
                    await routing.end(Path(settings.socket).parent)  # of a daemon before us, told otherwise
                if self._encryption is not None:
                    group.create_task(self._encryption.rotating(self._keys_changed))
                stack.callback(self._follow_kernel())
                notify.ready()
                self._log.info("serving", socket=settings.socket, node=settings.node, fabric=settings.fabric.mode)

    async def _follow_nodes(self) -> None:
        async with contextlib.aclosing(self._source()) as source:
            async for news in source:
                self._nodes = news.nodes
                me = news.changes.get(self._settings.node)
                if self._api is not None and me is not None and me.uid != self._uid:
                    await nodes.publish_mac(self._api, self._settings.node)
                    self._uid = me.uid
                if not self._settings.cluster_cidrs:
                    self._inside.follow(news.changes)
                self._note_what_is_missing()
                self._fabric.offer(news.nodes, news.changes, news.revision)
                self._loop.wake(news.revision)

    def _follow_kernel(self) -> Callable[[], None]:
        """Look at the paths as soon as somebody else may have changed them; return what ends it."""
        monitor, loop = events.Monitor(UNHEARD), asyncio.get_running_loop()

        def hear() -> None:
            if any(self._fabric.is_concerned(event) for event in monitor.take()):
                self._loop.verify()

        loop.add_reader(monitor.fileno(), hear)

        def end() -> None:
            loop.remove_reader(monitor.fileno())
            monitor.close()

        return end

    def _source(self) -> AsyncGenerator[nodes.News, None]:
        if self._api is not None:
            return nodes.from_api(self._api, clock=self._clock)
        if self._nodes_file is None:
            raise UserError("no nodes to learn of: give --kubeconfig or --nodes-file")
        return nodes.from_file(self._nodes_file, clock=self._clock)

    def _note_what_is_missing(self) -> None:
        name = self._settings.node
        me = self._nodes.get(name)
        if me is None:
            self._verbs.not_ready = f"Node {name} does not exist yet: does its agent run?"
        elif not me.pod_cidrs:
            self._verbs.not_ready = f"Node {name} has no spec.podCIDRs yet: does the node IPAM controller run?"
        elif not paths.is_placed(me):
            self._verbs.not_ready = f"Node {name} has no address in status.addresses yet: does its agent run?"
        else:
            self._verbs.not_ready = "its paths to the other nodes are being made"
        notify.status("ready" if self._verbs.prepared else self._verbs.not_ready)

    async def _act(self, cause: Cause) -> Outcome:
        """Bring paths, then rules, where the nodes want them; then let the runtime know of us."""
        me = self._nodes.get(self._settings.node)
        if me is None or not paths.is_placed(me):
            return Outcome(self._loop.report.wanted)
        is_look = cause != "change" or self._me is None or place(self._me) != place(me)
        try:
            if is_look:
                prepare_node([cidr.family for cidr in me.pod_cidrs])
            self._me, was_exceeded = me, self._fabric.is_exceeded
            outcome = await self._fabric.act(cause)
            await self._announce(must_look=cause != "change")
            await self._route()
            if is_look or was_exceeded != self._fabric.is_exceeded:
                changes = await self._rules.bring_up_to_date(must_look=cause != "change")
                await self._shortcut.follow(self._link_of_pods())
            else:
                changes = await self._rules.follow_networks(self._inside.take)
        except (OSError, UserError, ValueError) as error:
            self._verbs.not_ready = str(error)
            raise
        if install.write_conflist(self._settings.conf_dir):
            self._warn_of_earlier()
        return Outcome(outcome.revision, outcome.operations + changes, outcome.is_verified)

    async def _route(self) -> None:
        settled = self._fabric.settled
        if self._bgp is not None and settled is not None:
            found, underlay = settled
            await self._bgp.bring(found[self._settings.node], underlay)

    def _link_of_pods(self) -> int:
        """Return the link to the other nodes where pods' packets leave by it as they are, else 0."""
        settled = self._fabric.settled if self._settings.fabric.mode in shortcut.MODES_BY_LINK else None
        return settled[1].index if settled is not None else 0

    def _path_changed(self) -> None:
        self._loop.wake(self._loop.report.wanted)

    async def _keys_changed(self) -> None:
        self._loop.verify()

    async def _announce(self, *, must_look: bool) -> None:
        """Publish our WireGuard key once the kernel has it: who hears of a key may answer with it at once."""
        if self._encryption is None or self._api is None:
            return
        said = self._encryption.annotations
        if said == self._announced and not must_look:
            return
        try:
            await nodes.publish(self._api, self._settings.node, said)
        except ApiError as error:
            raise UserError(f"the WireGuard key was not announced: {error}") from error
        self._announced = said

    def _paths_ready(self, me: Node, mtu: int) -> None:
        pools = tuple(Pool(cidr, self._settings.excluded) for cidr in me.pod_cidrs)
        gateways = bridge.gateways(pools) if self._settings.has_bridge else ()
        prepared = Prepared(pools, self._settings.mtu or mtu, gateways)
        if prepared != self._verbs.prepared:
            self._verbs.prepared = prepared
            cidrs = ",".join(str(cidr) for cidr in me.pod_cidrs)
            self._log.info("ready for pods", pods=cidrs, mtu=prepared.mtu)
            notify.status(f"ready: {cidrs}")
            for family in (pool.prefix.family for pool in pools):
                # Counted when somebody asks, not at every call.
                FREE.labels(str(family)).set_function(functools.partial(self._free, family))
            for pool in pools:
                CAPACITY.labels(str(pool.prefix.family)).set(pool.size)

    def _free(self, family: address.Family) -> int:
        return self._verbs.free().get(family, 0)

    def _warn_of_earlier(self) -> None:
        others = install.earlier(self._settings.conf_dir)
        if others:
            self._log.warning("runtimes will prefer another network", files=",".join(others), ours=install.CONFLIST)

    def _facts(self) -> masquerade.Facts:
        me, inside, masquerades = self._me, self._inside.networks, self._settings.masquerades
        with_ports = tuple(lease for lease in self._verbs.leases if lease.ports)
        if me is None:
            return masquerade.Facts((), inside, with_ports, masquerades)
        addresses = (*me.internal_ips, *me.external_ips)
        exceeds, port = self._fabric.is_exceeded, self._settings.untracked
        return masquerade.Facts(me.pod_cidrs, inside, with_ports, masquerades, addresses, exceeds, port)

    async def _call(self, environment: dict[str, str], stdin: bytes, namespace: int | None) -> tuple[int, bytes]:
        """Answer one call of the shim: (exit code, standard output)."""
        command = environment.get("CNI_COMMAND", "")
        if command == STATUS_COMMAND:
            return 0, json.dumps(self.status()).encode()
        if command == ROTATE_COMMAND:
            if self._encryption is not None:
                self._encryption.rotate()
            return 0, json.dumps({"rotates": self._encryption is not None}).encode()
        began = self._clock.monotonic()
        try:
            request = spec.decode(environment, stdin)
            answer = loopback if request.plugin == loopback.NAME else self._verbs
            return 0, await answer.call(request, namespace)
        except spec.CniError as error:
            failure = error
        except Exception as error:
            # A fault of ours must not look like a dead daemon; the runtime shows it, the log has the place.
            self._log.exception("internal error", command=command, container=environment.get("CNI_CONTAINERID", ""))
            failure = spec.CniError(spec.INTERNAL, f"internal error: {type(error).__name__}: {error}")
        finally:
            known = command if command in spec.COMMANDS else "other"
            SECONDS.labels(known).observe(self._clock.monotonic() - began)
        ERRORS.labels(known, str(failure.code)).inc()
        self._log.warning(
            "refused", command=command, container=environment.get("CNI_CONTAINERID", ""), why=str(failure)
        )
        return 1, spec.encode_error(failure, spec.version_of(stdin))

    def status(self) -> dict[str, object]:
        """Return what `netplane cni status` shows."""
        prepared, report = self._verbs.prepared, self._loop.report
        leases = sorted(self._verbs.leases, key=lambda lease: (lease.pod, lease.key))
        return {
            "node": self._settings.node,
            "ready": prepared is not None,
            "waiting_for": "" if prepared else self._verbs.not_ready,
            "fabric": {
                "mode": self._settings.fabric.mode,
                **({"key": self._encryption.public} if self._encryption else {}),
                **dict(report.lines()),
                "problems": dict(self._fabric.problems),
                "narrow": {address.text(ip): mtu for ip, mtu in sorted(self._probes.limits.items())},
            },
            "mtu": prepared.mtu if prepared else 0,
            "fast_path": self._shortcut.state,
            "pools": [{"cidr": str(p.prefix), "size": p.size} for p in prepared.pools] if prepared else [],
            "resting": len(self._verbs.addresses.cooling()),
            "leases": [
                {
                    "pod": lease.pod,
                    "container": lease.container,
                    "interface": lease.ifname,
                    "link": lease.link,
                    "addresses": [address.text(ip) for ip in lease.addresses],
                    "host_ports": [f"{p.host_port}/{p.protocol}" for p in lease.ports],
                    "state": "leaving" if lease.is_leaving else "attached",
                }
                for lease in leases
            ],
        }


def _encryption(settings: Settings, clock: Clock) -> Encryption | None:
    if settings.fabric.mode != "wireguard":
        return None
    return Encryption(settings.state_dir, settings.fabric.wireguard_port, clock, interval=settings.rotation)


def _bgp(settings: Settings) -> routing.Bgp | None:
    if settings.fabric.mode != "bgp":
        return None
    return routing.Bgp(Path(settings.socket).parent, settings.bgp, settings.cluster_cidrs)
