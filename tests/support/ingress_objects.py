"""Objects of the front door as JSON: Services with slices, Ingresses, classes, TLS Secrets. What of them is served is
the door's."""

from __future__ import annotations

import base64
import datetime
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from netplane.kube.types import Object

MANAGEMENT_PORT = 10254
CLASS = "netplane"
_BEGIN, _END = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)


def options(folder: Path, address: str) -> list[str]:
    """Return the options of `netplane ingress` in a test."""
    return [
        f"--state-dir={folder / 'state'}",
        f"--run-dir={folder / 'run'}",
        f"--publish-address={address}",
        f"--metrics-bind-address=127.0.0.1:{MANAGEMENT_PORT}",
    ]


def service(name: str, *, namespace: str = "default", ports: Sequence[Mapping[str, Any]], **spec: Any) -> Object:
    """A ClusterIP Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [dict(each) for each in ports], "selector": {"app": name}, **spec},
    }


def endpoint_slice(
    of: str,
    addresses: Sequence[str],
    *,
    namespace: str = "default",
    ports: Sequence[Mapping[str, Any]],
    not_ready: Sequence[str] = (),
    terminating: Sequence[str] = (),
    name: str = "",
) -> Object:
    """A slice of a Service; `ports` are the Service's, with their target ports as numbers."""
    endpoints = [
        {
            "addresses": [address],
            "conditions": {
                "ready": address not in not_ready and address not in terminating,
                "serving": address not in not_ready,
                "terminating": address in terminating,
            },
            "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"{of}-{address.replace('.', '-')}"},
        }
        for address in addresses
    ]
    own = [{"name": p.get("name", ""), "port": p["targetPort"], "protocol": "TCP"} for p in ports]
    labels = {"kubernetes.io/service-name": of}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name or f"{of}-1", "labels": labels},
        "addressType": "IPv4",
        "ports": own,
        "endpoints": endpoints,
    }


def backend(service: str, port: int | str = 8080) -> Object:
    """A backend of an Ingress, by the Service's port number or name."""
    key = "number" if isinstance(port, int) else "name"
    return {"service": {"name": service, "port": {key: port}}}


def path(of: str, service: str, *, kind: str = "Prefix", port: int | str = 8080) -> Object:
    """One path of a rule."""
    return {"path": of, "pathType": kind, "backend": backend(service, port)}


def rule(host: str, *paths: Object) -> Object:
    """A rule of an Ingress; no host when it is empty."""
    made: Object = {"http": {"paths": list(paths)}}
    return {"host": host, **made} if host else made


def ingress(
    name: str,
    *rules: Object,
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
    class_name: str | None = CLASS,
    tls: Sequence[tuple[str, Sequence[str]]] = (),
    default: Object | None = None,
) -> Object:
    """An Ingress; `tls` pairs Secrets with their hosts."""
    spec: Object = {}
    if class_name is not None:
        spec["ingressClassName"] = class_name
    if rules:
        spec["rules"] = list(rules)
    if default:
        spec["defaultBackend"] = default
    if tls:
        spec["tls"] = [{"secretName": secret, "hosts": list(hosts)} for secret, hosts in tls]
    metadata = {"namespace": namespace, "name": name, "annotations": dict(annotations or {})}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def ingress_class(name: str = CLASS, *, controller: str = "netplane.io/ingress", is_default: bool = False) -> Object:
    """A class, by default ours."""
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if is_default else {}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"controller": controller},
    }


def namespace(name: str, **labels: str) -> Object:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def key_pair(*hosts: str, serial: int = 1) -> tuple[str, str]:
    """Return a self-signed certificate for the hosts and its key, as PEM; another `serial` makes another pair."""
    return _key_pair(hosts, serial)


@functools.cache
def _key_pair(hosts: tuple[str, ...], serial: int) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64] if hosts else "nobody")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(serial).not_valid_before(_BEGIN).not_valid_after(_END)
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


def serial_of(certificate: bytes) -> int:
    """Return the serial number of a certificate in DER: which of several `key_pair`s it is."""
    return x509.load_der_x509_certificate(certificate).serial_number


def secret(name: str, data: Mapping[str, str | bytes], *, namespace: str = "default", kind: str = "Opaque") -> Object:
    """A Secret."""
    raw = {key: value.encode() if isinstance(value, str) else value for key, value in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": namespace, "name": name},
        "type": kind,
        "data": {key: base64.b64encode(value).decode() for key, value in raw.items()},
    }


def tls_secret(name: str, *hosts: str, namespace: str = "default", serial: int = 1) -> Object:
    """A TLS Secret with a self-signed certificate for the hosts."""
    certificate, key = key_pair(*hosts, serial=serial)
    data = {"tls.crt": certificate, "tls.key": key}
    return secret(name, data, namespace=namespace, kind="kubernetes.io/tls")
