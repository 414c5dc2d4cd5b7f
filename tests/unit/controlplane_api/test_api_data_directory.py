"""What the server keeps on disk is the server's alone."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from netplane.controlplane.api import pki, server, storage
from netplane.lib import clock
from netplane.lib.cli import UserError
from tests.support import stores


async def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    material = pki.ensure_keys(tmp_path / "pki", now=clock.SYSTEM.now())
    store = await storage.started(tmp_path, None, material, stores.index)
    await store.stop()
    assert (tmp_path / storage.DATABASE).stat().st_mode & 0o777 == 0o600


def test_keys_that_servers_share_sign_each_servers_own_certificate(tmp_path: Path) -> None:
    now, shared = clock.SYSTEM.now(), tmp_path / "shared"
    made = [pki.ensure(tmp_path / name, alternatives=[name], now=now, shared=shared) for name in ("a", "b")]
    assert made[0].token_key_id == made[1].token_key_id
    assert made[0].server_certificate.read_bytes() != made[1].server_certificate.read_bytes()
    assert (tmp_path / "a" / "ca.crt").read_bytes() == (shared / "ca.crt").read_bytes()
    assert sorted(path.name for path in shared.iterdir()) == ["ca.crt", "ca.key", "token.key"]


def test_a_certificate_of_other_keys_is_made_anew(tmp_path: Path) -> None:
    now = clock.SYSTEM.now()
    before = pki.ensure(tmp_path / "own", alternatives=["a"], now=now).server_certificate.read_bytes()
    after = pki.ensure(tmp_path / "own", alternatives=["a"], now=now, shared=tmp_path / "shared")
    assert after.server_certificate.read_bytes() != before


def test_a_second_server_is_refused_by_name(tmp_path: Path) -> None:
    with server.locked(tmp_path), pytest.raises(UserError, match="another server uses"), server.locked(tmp_path):
        pass


def _shown(context: ssl.SSLContext, authority: Path) -> bytes | None:
    """Return the certificate (DER) that a server with this context shows to a client that trusts the authority."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=str(authority))
    client = trusting.wrap_bio(back, there, server_hostname="here")
    serving = context.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (client, serving):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.getpeercert(binary_form=True)


async def test_a_certificate_that_is_about_to_end_is_renewed_while_the_server_works(tmp_path: Path) -> None:
    time = clock.Fake(clock.SYSTEM.now())
    long_ago = time.now() - timedelta(days=310)
    material = pki.ensure(tmp_path, alternatives=["here"], now=long_ago)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(material.server_certificate, material.server_key)
    before = _shown(context, material.authority_certificate)
    renewing = asyncio.ensure_future(server.certified(context, material, ["here"], time))
    await time.advance(3601)
    renewed = _shown(context, material.authority_certificate)
    await time.advance(3601)
    assert before is not None
    assert renewed not in (None, before)
    assert _shown(context, material.authority_certificate) == renewed, "made anew although it is good"
    renewing.cancel()
