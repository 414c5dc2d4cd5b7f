"""Run the server: sockets, TLS, uvicorn, and the order in which parts start and stop. The only room with sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import fcntl
import gc
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import uvicorn

from netplane.controlplane.api import (
    access,
    addresses,
    app,
    audit,
    authorize,
    cluster,
    clusterinfo,
    custom,
    defaults,
    dispatch,
    kubeconfig,
    peers,
    pki,
    quotas,
    signing,
    storage,
    transport,
)
from netplane.controlplane.registry import builtin
from netplane.controlplane.registry.services import allocate
from netplane.lib import clock, log, notify
from netplane.lib.cli import UserError

_LOG = log.get("server")
_FIRST_INHERITED = 3
_TICK = 10.0
_CERTIFICATE_CHECK = 3600.0
_BACKLOG = 2048
_M_MMAP_THRESHOLD = -3
_TLS_BUFFER = 256 << 10

Part = Callable[[cluster.Cluster], Awaitable[None]]
"""A part that runs beside the API for as long as the server does: controllers, scheduler."""


def listen(wanted: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Return the inherited sockets and those bound here; raise UserError when an address cannot be taken."""
    sockets = list(_inherited())
    try:
        for address, port in wanted:
            sockets.append(_bind(address, port))
    except UserError:
        for each in sockets:
            each.close()
        raise
    if not sockets:
        raise UserError("no address to listen on: give --listen ADDRESS:PORT or sockets by systemd activation")
    return sockets


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        made.bind((address, port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {where}: {reason}; stop what uses it or choose another --listen") from error
    return made


def _inherited() -> Iterator[socket.socket]:
    """Take the sockets of sd_listen_fds(3); LISTEN_PID must be ours when it is set."""
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not count.isdigit() or (pid and pid != str(os.getpid())):
        return
    for number in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)):
        os.set_inheritable(number, False)
        try:
            yield socket.socket(fileno=number)
        except OSError as error:
            raise UserError(f"inherited descriptor {number} is no socket: {error.strerror}") from error


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process alone; raise UserError when it cannot be written or is in use."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = open(data_dir / "lock", "w")  # noqa: SIM115  # held open as long as the lock is
    except OSError as error:
        raise UserError(
            f"cannot write the data directory {data_dir}: {error.strerror}; choose another --data-dir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another server uses {data_dir}: stop it first, or choose another --data-dir") from error
        yield


def alternatives(settings: cluster.Settings, sockets: Sequence[socket.socket]) -> list[str]:
    """Return the names and addresses that the server's certificate must be good for."""
    found = {"localhost", "127.0.0.1", "::1", str(settings.advertise), socket.gethostname()}
    found |= {"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
    found |= {str(cidr[1]) for cidr in settings.service_cidrs}
    found |= {each.getsockname()[0] for each in sockets}
    return sorted(found - {"0.0.0.0", "::", ""})


@contextlib.asynccontextmanager
async def opened(settings: cluster.Settings, material: pki.Material) -> AsyncIterator[cluster.Cluster]:
    """Open the store and put the cluster's parts together; everything is closed again on the way out."""
    registry = builtin()
    store = await storage.started(settings.data_dir, settings.etcd, material, cluster.index(registry))
    try:
        first, last = settings.node_port_range
        ranges = allocate.Ranges(settings.service_cidrs, range(first, last + 1))
        at = cluster.Cluster(
            store=store,
            registry=registry,
            keys=access.Keys(material.token_key, material.token_key_id),
            authority=material.authority,
            settings=settings,
            clock=clock.SYSTEM,
            authorizer=authorize.Authorizer(store),
            addresses=addresses.Ledger(store, ranges),
        )
        custom.load(at)
        await peers.renew(at)
        await defaults.ensure(at)
        try:
            yield at
        finally:
            await peers.leave(at)
            await at.agents.close()
            await at.webhooks.close()
    finally:
        await store.stop()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: cancellation is how this process stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: cluster.Settings, parts: Sequence[tuple[str, Part]]) -> None:
    """Run the server until cancelled; leaves the data directory consistent whenever it ends."""
    sockets = listen(settings.listen)
    with contextlib.ExitStack() as held:
        for each in sockets:
            held.callback(each.close)
        settings = _with_port(settings, sockets)
        if parts:
            # Inherited sockets may belong to another network namespace: our own parts get one in ours.
            sockets.append(_bind("127.0.0.1", 0))
            held.callback(sockets[-1].close)
        held.enter_context(locked(settings.data_dir))
        try:
            material = pki.ensure(
                settings.data_dir / "pki",
                alternatives=alternatives(settings, sockets),
                now=clock.SYSTEM.now(),
                shared=settings.pki_dir,
            )
            kubeconfig.write_admin(settings.data_dir, material, port=settings.port, now=clock.SYSTEM.now())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot prepare {settings.data_dir}: {error}") from error
        log_of_requests = _audit(settings)
        if log_of_requests is not None:
            held.callback(log_of_requests.close)
        async with opened(settings, material) as at:
            _calm_collector()
            _steady_allocator()
            at.own_address = f"https://127.0.0.1:{sockets[-1].getsockname()[1]}"
            await _run(at, material, sockets, parts, log_of_requests)


def _audit(settings: cluster.Settings) -> audit.Audit | None:
    if settings.audit_path is None or settings.audit_policy is None:
        return None
    try:
        return audit.Audit(settings.audit_path, settings.audit_policy)
    except OSError as error:
        raise UserError(
            f"cannot write the audit log {settings.audit_path}: {error.strerror}; choose another --audit-log-path"
        ) from error


def _calm_collector() -> None:
    """Let the cycle collector look at what a request leaves behind, not at modules and the objects of the cache.

    Records hold no cycles; walking all of them again and again would stop the loop for tens of milliseconds, and
    walking twenty thousand new ones at once took more than ten.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 1_000)


def _steady_allocator() -> None:
    """Keep what each TLS connection reads into (uvloop's 256 KB, hardly touched) out of the heap (mallopt(3)).

    The C library would move it there after the first connections, where it lies between objects that stay: of a
    thousand watchers some 60 MB remained after they had left. Parts of lists are smaller and go on using the heap.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _TLS_BUFFER)


def _with_port(settings: cluster.Settings, sockets: Sequence[socket.socket]) -> cluster.Settings:
    """Fill in what is only known once the sockets are there: ports given as 0, and addresses inherited."""
    bound = tuple((str(s.getsockname()[0]), int(s.getsockname()[1])) for s in sockets)
    return dataclasses.replace(settings, listen=bound)


async def _run(
    at: cluster.Cluster,
    material: pki.Material,
    sockets: list[socket.socket],
    parts: Sequence[tuple[str, Part]],
    log_of_requests: audit.Audit | None,
) -> None:
    def started() -> None:
        at.is_ready = True
        where = ", ".join(f"{address}:{port}" for address, port in at.settings.listen)
        _LOG.info("serving", addresses=where, revision=at.store.revision)
        notify.ready()

    served: dispatch.Application = dispatch.Api(at, app.build(at, on_start=started))
    if log_of_requests is not None:
        served = audit.Recorder(served, log_of_requests, clock=at.clock, new_id=cluster.new_uid)
    config = _config(served, material)
    # Its warnings tell of clients' upgrade requests, which are answered; its errors are ours to see.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    async def certificate(at: cluster.Cluster) -> None:
        assert config.ssl is not None
        await certified(config.ssl, material, alternatives(at.settings, sockets), at.clock)

    beside: list[tuple[str, Part]] = [("certificate", certificate), *_BESIDE, *parts]
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=sockets))
        helpers = [group.create_task(_kept_running(at, name, part)) for name, part in beside]
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            notify.stopping()
            at.is_stopping = True
            for helper in helpers:
                helper.cancel()
            _ring_all(at)
            server.should_exit = True
            await serving
            raise


def _config(served: dispatch.Application, material: pki.Material) -> uvicorn.Config:
    config = uvicorn.Config(
        served,
        http=cast(type[asyncio.Protocol], transport.Buffered),  # uvloop takes either kind
        ws="wsproto",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,  # nobody stands before us: such headers would be a client's own
        ssl_certfile=material.server_certificate,
        ssl_keyfile=material.server_key,
        ssl_ca_certs=str(material.authority_certificate),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=1,
        backlog=_BACKLOG,
        lifespan="on",
    )
    config.load()
    return config


async def certified(context: ssl.SSLContext, material: pki.Material, names: Sequence[str], time: clock.Clock) -> None:
    """Renew the server's certificate before it ends, for ever; who connects from then on is shown the new one."""
    while True:
        await time.sleep(_CERTIFICATE_CHECK)
        if pki.certify(material, alternatives=names, now=time.now()):
            context.load_cert_chain(material.server_certificate, material.server_key)
            _LOG.info("serving certificate renewed", file=material.server_certificate)


async def _tick(at: cluster.Cluster) -> None:
    """Wake every watch now and then, so that it can send the bookmark that is due; keep our own Service."""
    while True:
        await at.clock.sleep(_TICK)
        _ring_all(at)
        await peers.renew(at)
        await defaults.ensure_service(at)
        await at.store.sweep()


def _ring_all(at: cluster.Cluster) -> None:
    for of in at.registry.stored_types():
        at.store.feed(cluster.storage(of)).ring()


async def _kept_running(at: cluster.Cluster, name: str, part: Part) -> None:
    """Run a part for ever; when it fails, say so and start it again, a little later each time."""
    wait = 0.5
    while True:
        started = at.clock.monotonic()
        try:
            await part(at)
        except Exception as error:
            _LOG.exception("part failed", part=name, why=error)
            at.problems[name] = f"{type(error).__name__}: {error}"
        wait = 0.5 if at.clock.monotonic() - started > 30 else min(wait * 2, 30.0)
        await at.clock.sleep(wait)
        at.problems.pop(name, None)


_BESIDE: tuple[tuple[str, Part], ...] = (
    ("ticker", _tick),
    ("custom resources", custom.follow),
    ("cluster-info", clusterinfo.follow),
    ("signing", signing.follow),
    ("quotas", quotas.follow),
)
"""What runs beside every server, by the name under which its failures are told."""
