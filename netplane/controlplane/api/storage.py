"""Open the store that the operator chose: one file of this server's own, or etcd, shared with other servers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from netplane.controlplane.api import addresses, pki
from netplane.controlplane.registry.services import allocate
from netplane.controlplane.store import embedded, protocol, sqlite
from netplane.kube.types import Object
from netplane.lib.cli import UserError

DATABASE = "state.db"
EVENT_SECONDS = 3600
TTLS = {"events": EVENT_SECONDS}
"""How long objects of a type are kept; they go by themselves."""


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Where etcd is and how it is spoken with. TLS without `ca` trusts what the system trusts."""

    members: tuple[str, ...]
    prefix: str = "/registry"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    uses_tls: bool = False


def claims(storage: str, obj: Object) -> frozenset[str]:
    """Return what a Service alone may hold: its addresses and node ports."""
    if storage != "services":
        return frozenset()
    held, ports = allocate.held(obj)
    return frozenset({f"address/{each}" for each in held} | {f"port/{each}" for each in ports})


async def started(
    data_dir: Path, chosen: EtcdAccess | None, material: pki.Material, index: protocol.Indexer
) -> protocol.Store:
    """Return the running store; raise UserError when it cannot be used."""
    if chosen is not None:
        return await _etcd(chosen, material, index)
    # It holds Secrets. SQLite gives its journals the rights of the database (sqlite.org/tempfiles.html).
    (data_dir / DATABASE).touch(mode=0o600)
    store = embedded.Embedded(data_dir / DATABASE, index, ttls=TTLS)
    try:
        await store.start()
    except sqlite.Broken as error:
        raise UserError(str(error)) from error
    return store


async def _etcd(chosen: EtcdAccess, material: pki.Material, index: protocol.Indexer) -> protocol.Store:
    from netplane.controlplane.store.etcd import body, client  # gRPC is what servers on SQLite need not load

    members = client.Client(chosen.members, client.Tls(*_pem(chosen)) if chosen.uses_tls else None)
    store = body.Etcd(members, index, prefix=chosen.prefix, claims=claims, grounds=addresses.grounds, ttls=TTLS)
    try:
        await store.start()
    except protocol.StoreError as error:
        await members.close()
        raise UserError(f"cannot use etcd at {', '.join(chosen.members)}: {error}") from error
    mine = hashlib.sha256(material.authority.pem() + material.token_key_id.encode()).hexdigest().encode()
    found = await store.identify(mine)
    if found != mine:
        await store.stop()
        raise UserError(
            f"etcd under {chosen.prefix} holds a cluster with other keys than {material.shared}: "
            "copy ca.crt, ca.key and token.key of its first server there, or choose another --etcd-prefix"
        )
    return store


def _pem(chosen: EtcdAccess) -> list[bytes]:
    files = (chosen.ca, chosen.certificate, chosen.key)
    try:
        return [file.read_bytes() if file else b"" for file in files]
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; see --etcd-cafile, --etcd-certfile"
        ) from error
