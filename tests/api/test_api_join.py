"""How a machine becomes a node: tokens, cluster-info, certificate requests, client certificates."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from netplane.agent.node.credentials import Credentials
from netplane.controlplane import joining
from netplane.controlplane.api import pki
from netplane.kube import client as kube
from netplane.kube import kubeconfig
from netplane.lib import clock
from netplane.lib.cli import UserError
from tests.support import apiserver
from tests.support.http_client import Client

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def netplane(*arguments: str, is_refused: bool = False) -> str:
    done = subprocess.run([*apiserver.program(), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) is is_refused, done.stderr + done.stdout
    return done.stderr if is_refused else done.stdout


def token(server: apiserver.Server, *options: str) -> str:
    return netplane("token", "create", "--kubeconfig", str(server.kubeconfig), *options).strip()


def fingerprint(server: apiserver.Server) -> str:
    return pki.fingerprint((server.data_dir / "pki" / "ca.crt").read_bytes())


def as_certificate(server: apiserver.Server, kubeconfig: Path, path: str) -> tuple[int, Any]:
    """Ask with the client certificate in a kubeconfig."""
    user = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]
    pem = kubeconfig.with_suffix(".pem")
    pem.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
    context = server.context()
    context.load_cert_chain(pem)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    told = answer.status, json.loads(answer.read())
    connection.close()
    return told


def test_a_machine_with_a_token_becomes_a_node(server: apiserver.Server, api: Client, tmp_path: Path) -> None:
    made = token(server)
    told = netplane("join", server.url, "--token", made, "--discovery-token-ca-cert-hash", fingerprint(server),
                    "--node-name", "joined", "--directory", str(tmp_path))  # fmt: skip
    assert f"netplane agent --kubeconfig {tmp_path}/node.kubeconfig" in told
    assert (tmp_path / "node.kubeconfig").stat().st_mode & 0o777 == 0o600
    code, node = as_certificate(server, tmp_path / "node.kubeconfig", "/api/v1/nodes/joined")
    assert code == 404, node
    assert as_certificate(server, tmp_path / "node.kubeconfig", "/api/v1/secrets")[0] == 403
    for part, path in (("proxy", "/api/v1/services"), ("cni", "/api/v1/pods")):
        user = yaml.safe_load((tmp_path / f"{part}.kubeconfig").read_text())["users"][0]["user"]
        kept = (tmp_path / user["tokenFile"]).read_text()
        assert (tmp_path / user["tokenFile"]).stat().st_mode & 0o777 == 0o600
        assert Client(server, token=kept).ask("GET", path)[0] == 200


async def test_an_agent_renews_what_it_is_known_by_long_before_it_ends(
    server: apiserver.Server, tmp_path: Path
) -> None:
    path = tmp_path / "node.kubeconfig"
    command = ("join", server.url, "--token", token(server), "--node-name", "lasting", "--directory", str(tmp_path))
    await asyncio.to_thread(netplane, *command)
    before = kubeconfig.parse(path)
    tokens = {part: (tmp_path / f"{part}.token").read_text() for part in ("proxy", "cni")}
    later = clock.Fake(datetime.now(UTC) + timedelta(days=200))
    async with kube.Client(before, user_agent="test") as api:
        credentials = Credentials(api, path, "lasting", later)
        assert not await credentials.renew_if_due()
        await later.advance(timedelta(days=100).total_seconds())
        assert await credentials.renew_if_due()
        after = kubeconfig.parse(path)
        assert after.client_cert_data != before.client_cert_data
        assert after.client_key_data != before.client_key_data
        assert api.config == after
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path_ = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        answer = await api.request("POST", path_, body=json.dumps(review).encode())
        assert json.loads(answer.body)["status"]["userInfo"]["username"] == "system:node:lasting"
    assert (path.stat().st_mode & 0o777) == 0o600
    for part, old in tokens.items():
        new = (tmp_path / f"{part}.token").read_text()
        assert new != old
        assert Client(server, token=new).ask("GET", "/api/v1/nodes")[0] == 200


def test_the_printed_join_command_is_complete(server: apiserver.Server, tmp_path: Path) -> None:
    command = token(server, "--print-join-command", "--ttl", "5m").split()
    assert command[:2] == ["netplane", "join"]
    netplane(*command[1:], "--node-name", "second", "--directory", str(tmp_path))


def test_a_wrong_hash_or_token_is_refused_before_anything_is_sent(server: apiserver.Server, tmp_path: Path) -> None:
    made = token(server)
    more = ("--node-name", "x", "--directory", str(tmp_path))
    wrong = "sha256:" + "0" * 64
    told = netplane(
        "join", server.url, "--token", made, "--discovery-token-ca-cert-hash", wrong, *more, is_refused=True
    )
    assert "which no --discovery-token-ca-cert-hash names" in told
    forged = made[:7] + "0" * 16
    assert "not signed with this token" in netplane("join", server.url, "--token", forged, *more, is_refused=True)
    unknown = "zzzzzz" + made[6:]
    assert "does not know token zzzzzz" in netplane("join", server.url, "--token", unknown, *more, is_refused=True)
    assert "not a token of the form" in netplane("join", server.url, "--token", "x", *more, is_refused=True)
    assert not list(tmp_path.iterdir())


def test_a_token_is_listed_and_once_deleted_opens_nothing(server: apiserver.Server) -> None:
    made = token(server, "--description", "for a test")
    asked = ("--kubeconfig", str(server.kubeconfig))
    assert made in netplane("token", "list", *asked)
    bearer = Client(server, token=made)
    code, review = bearer.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert code == 201
    assert review["status"]["userInfo"]["username"] == f"system:bootstrap:{made[:6]}"
    assert "system:bootstrappers" in review["status"]["userInfo"]["groups"]
    assert bearer.ask("GET", "/api/v1/secrets")[0] == 403
    netplane("token", "delete", made[:6], *asked)
    assert bearer.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})[0] == 401


def test_an_expired_token_opens_nothing(server: apiserver.Server, api: Client) -> None:
    from datetime import UTC, datetime

    made = "expire.0123456789abcdef"
    secret = joining.secret(made, expires=datetime(2020, 1, 1, tzinfo=UTC))
    assert api.ask("POST", "/api/v1/namespaces/kube-system/secrets", secret)[0] == 201
    assert Client(server, token=made).ask("GET", CSRS)[0] == 401


def test_anybody_may_read_cluster_info_and_nothing_else(server: apiserver.Server) -> None:
    nobody = Client(server, token="")
    base = "/api/v1/namespaces/kube-public/configmaps"
    code, info = nobody.ask("GET", f"{base}/cluster-info")
    assert code == 200
    assert "certificate-authority-data" in info["data"]["kubeconfig"]
    assert nobody.ask("GET", base)[0] == 401
    with pytest.raises(UserError):
        joining.verified(info, "zzzzzz.0123456789abcdef", ())


def request(name: str, *groups: str, usages: tuple[str, ...] = ("digital signature", "client auth"),
            signer: str = "kubernetes.io/kube-apiserver-client") -> tuple[dict[str, Any], bytes]:  # fmt: skip
    key = ec.generate_private_key(ec.SECP256R1())
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in groups]
    subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    pem = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    encoded = base64.b64encode(pem.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {
        "request": encoded,
        "signerName": signer,
        "usages": list(usages),
        "username": "forged",
        "groups": ["forged"],
    }
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"metadata": {"generateName": "csr-"}, "spec": spec}, private


def settled(api: Client, name: str) -> dict[str, Any]:
    """Wait until a request has a certificate or has failed."""
    import time

    for _ in range(100):
        _, found = api.ask("GET", f"{CSRS}/{name}")
        status = found.get("status") or {}
        if status.get("certificate") or any(each["type"] == "Failed" for each in status.get("conditions") or ()):
            return dict(found)
        time.sleep(0.05)
    raise AssertionError(found)


def approve(api: Client, name: str) -> tuple[int, Any]:
    _, found = api.ask("GET", f"{CSRS}/{name}")
    found["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "ok"}]}
    return api.ask("PUT", f"{CSRS}/{name}/approval", found)


def test_an_approved_request_is_signed_and_names_its_bearer(
    server: apiserver.Server, api: Client, tmp_path: Path
) -> None:
    body, private = request("jane", "developers")
    code, made = api.ask("POST", CSRS, body)
    assert code == 201
    assert made["spec"]["username"] == "kubernetes-admin"
    name = made["metadata"]["name"]
    assert approve(api, name)[0] == 200
    certificate = settled(api, name)["status"]["certificate"]
    identity = {"client-certificate-data": certificate, "client-key-data": base64.b64encode(private).decode()}
    path = joining.write(tmp_path / "jane", joining.Discovered(server.url, ""), "jane", identity)
    code, refused = as_certificate(server, path, "/api/v1/pods")
    assert code == 403
    assert 'User "jane" cannot list' in refused["message"]
    issued = x509.load_pem_x509_certificate(base64.b64decode(certificate))
    assert issued.subject.rfc4514_string() == "CN=jane,O=developers"


@pytest.mark.parametrize(
    ("name", "groups", "more", "why"),
    [
        ("eve", (), {"usages": ("server auth",)}, "usages must include client auth"),
        ("eve", ("system:nodes",), {"signer": "kubernetes.io/kube-apiserver-client-kubelet"}, "common name"),
        ("system:node:x", ("system:nodes",), {"signer": "kubernetes.io/kubelet-serving", "usages": ("server auth",)},
         "the requestor is not the node itself"),
    ],
)  # fmt: skip
def test_a_signer_does_not_sign_what_is_not_its_own(
    api: Client, name: str, groups: tuple[str, ...], more: dict[str, Any], why: str
) -> None:
    _, made = api.ask("POST", CSRS, request(name, *groups, **more)[0])
    approve(api, made["metadata"]["name"])
    (failed,) = [e for e in settled(api, made["metadata"]["name"])["status"]["conditions"] if e["type"] == "Failed"]
    assert why in failed["message"]


def test_who_may_not_approve_for_a_signer_cannot(server: apiserver.Server, api: Client) -> None:
    made = token(server)
    _, csr = api.ask("POST", CSRS, request("jane")[0])
    assert approve(Client(server, token=made), csr["metadata"]["name"])[0] == 403


def test_a_certificate_of_another_authority_gets_no_connection(server: apiserver.Server, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-admin"),
                      x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")])  # fmt: skip
    from datetime import datetime

    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2120, 1, 1))
    path = tmp_path / "own.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    context = server.context()
    context.load_cert_chain(path)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=5)

    def ask() -> None:
        connection.request("GET", "/api/v1/pods")
        connection.getresponse()

    with pytest.raises((ssl.SSLError, OSError)):
        ask()
    connection.close()
