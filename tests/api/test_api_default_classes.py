"""What the cluster adds to new objects that say nothing of it, and what it never lets them say."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import apiserver
from tests.support.http_client import Client

NETWORKING, STORAGE = "/apis/networking.k8s.io/v1", "/apis/storage.k8s.io/v1"
DEFAULT = "{}.kubernetes.io/is-default-class"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.Server]:
    """A server without controllers: what is written stays as it is written."""
    data = tmp_path_factory.mktemp("classes") / "data"
    with apiserver.running(data, options=("--no-controllers",)) as running:
        yield running


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def named(name: str, **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": annotations}}


def test_what_names_no_class_gets_the_default_one(api: Client, namespace: str) -> None:
    mark = {DEFAULT.format("storageclass"): "true"}
    for each in (named("plain"), named("first", **mark)):
        assert api.ask("POST", f"{STORAGE}/storageclasses", {**each, "provisioner": "a.b/c"})[0] == 201
    mark = {DEFAULT.format("ingressclass"): "true"}
    for each in (named("plain"), named("first", **mark)):
        code, told = api.ask("POST", f"{NETWORKING}/ingressclasses", {**each, "spec": {"controller": "a.b/c"}})
        assert code == 201, told
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    assert api.ask("POST", claims, {**named("a"), "spec": spec})[1]["spec"]["storageClassName"] == "first"
    none = {**named("b"), "spec": {**spec, "storageClassName": ""}}
    assert api.ask("POST", claims, none)[1]["spec"]["storageClassName"] == ""
    ingresses = f"{NETWORKING}/namespaces/{namespace}/ingresses"
    spec = {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}
    assert api.ask("POST", ingresses, {**named("a"), "spec": spec})[1]["spec"]["ingressClassName"] == "first"
    older = {**named("b", **{"kubernetes.io/ingress.class": "plain"}), "spec": spec}
    assert "ingressClassName" not in api.ask("POST", ingresses, older)[1]["spec"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"priority": 5}, "the integer value of priority (5) must not be provided"),
        ({"priority": 5, "priorityClassName": "system-node-critical"}, "computed 2000001000 from the given"),
        ({"preemptionPolicy": "Never"}, "the string value of PreemptionPolicy (Never) must not be provided"),
        ({"overhead": {"cpu": "1"}}, "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
    ],
)
def test_what_the_cluster_says_of_a_pod_is_not_for_the_pod_to_say(
    api: Client, namespace: str, spec: dict[str, Any], why: str
) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}
    code, told = api.ask("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    assert (code, told.get("reason")) == (403, "Forbidden"), told
    assert why in told["message"]


def test_nobody_asks_for_a_certificate_of_the_masters(api: Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for group, expected in (("system:masters", 403), ("others", 201)):
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, "x"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)]
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts)).sign(key, hashes.SHA256())
        pem = base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()
        signer = "kubernetes.io/kube-apiserver-client"
        spec = {"request": pem, "signerName": signer, "usages": ["client auth"]}
        body = {"metadata": {"name": f"{expected}"}, "spec": spec}
        code, told = api.ask("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", body)
        assert code == expected, told
