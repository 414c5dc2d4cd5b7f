"""The shared store and its members: killed, without a quorum, with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from netplane.controlplane.api import pki
from netplane.controlplane.store import protocol
from netplane.controlplane.store.etcd import body, client, wire
from tests.support import etcds, stores
from tests.support.stores import PODS, pod


@pytest.fixture
def prefix() -> str:
    return f"/{uuid.uuid4().hex}"


async def test_nothing_acknowledged_is_lost_when_members_are_killed_and_come_back(tmp_path: Path, prefix: str) -> None:
    with etcds.running(tmp_path / "three", count=3) as cluster:
        async with stores.etcd(cluster.addresses, prefix) as store:
            acknowledged: dict[str, int] = {}
            stop = asyncio.Event()

            async def write(worker: int) -> None:
                number = 0
                while not stop.is_set():
                    name, number = f"w{worker}-{number}", number + 1
                    acknowledged[name] = (await store.create(PODS, pod(name))).revision

            async with asyncio.TaskGroup() as group:
                for worker in range(4):
                    group.create_task(write(worker))
                for member in cluster.members:
                    before = len(acknowledged)
                    await asyncio.to_thread(cluster.kill, member)
                    async with asyncio.timeout(30):
                        while len(acknowledged) < before + 50:
                            await store.feed(PODS).wait()
                    cluster.start(member)
                    await asyncio.to_thread(cluster.wait)
                stop.set()
            await store.fresh()
            assert {r.key[1]: r.revision for r in store.cache(PODS).range()} == acknowledged
            revisions = [event.revision for event in store.cache(PODS).window.since(0, limit=100_000)]
            assert revisions == sorted(acknowledged.values())


async def test_without_a_quorum_reads_and_writes_are_refused_and_go_on_afterwards(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(body, "_FRESH_SECONDS", 1.0)
    with etcds.running(tmp_path / "three", count=3) as cluster:
        async with stores.etcd(cluster.addresses, prefix) as store:
            await store.create(PODS, pod("a"))
            for member in cluster.members[:2]:
                cluster.kill(member)
            with pytest.raises(protocol.Unavailable):
                await store.fresh()
            assert ("default", "a") in store.cache(PODS).records
            cluster.start(cluster.members[0])
            await asyncio.to_thread(cluster.wait)
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(protocol.Unavailable):
                        await store.create(PODS, pod("b"))
                        break
            await store.fresh()
            assert store.problem == ""


def certificates(directory: Path, name: str) -> etcds.Certificates:
    """A CA's file, and a certificate of it for client and server."""
    directory.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    authority = pki.ensure_keys(directory, now=now).authority
    key = ec.generate_private_key(ec.SECP256R1())
    pem = authority.sign(
        key.public_key(), name=name, organization="t", alternatives=["127.0.0.1"], now=now, is_client=True
    )
    made = etcds.Certificates(directory / "ca.crt", directory / f"{name}.crt", directory / f"{name}.key")
    made.certificate.write_bytes(pem)
    private = serialization.PrivateFormat.PKCS8
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return made


async def test_members_with_tls_are_spoken_with_and_others_are_not_believed(tmp_path: Path, prefix: str) -> None:
    own, foreign = certificates(tmp_path / "ca", "member"), certificates(tmp_path / "other", "member")
    with etcds.running(tmp_path / "tls", certificates=own) as cluster:
        tls = client.Tls(own.ca.read_bytes(), own.certificate.read_bytes(), own.key.read_bytes())
        store = body.Etcd(client.Client(cluster.addresses, tls), stores.index, prefix=prefix)
        await store.start()
        await store.create(PODS, pod("a"))
        await store.stop()
        for wrong in (
            client.Tls(foreign.ca.read_bytes(), own.certificate.read_bytes(), own.key.read_bytes()),
            client.Tls(own.ca.read_bytes(), foreign.certificate.read_bytes(), foreign.key.read_bytes()),
            client.Tls(own.ca.read_bytes()),
        ):
            members = client.Client(cluster.addresses, wrong)
            with pytest.raises(protocol.Unavailable):
                await members.range(wire.range_(b"a"), patience=0.5)
            await members.close()
