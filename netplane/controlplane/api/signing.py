"""Sign what CertificateSigningRequests ask for, once they are approved; approve what nodes ask for themselves.

The signers are kube-controller-manager's: kubernetes.io/kube-apiserver-client, kubernetes.io/kube-apiserver-client-
kubelet and kubernetes.io/kubelet-serving. Source: pkg/controller/certificates, pkg/apis/certificates/helpers.go.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import timedelta

import orjson
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netplane.controlplane.api import access, cluster, rbac, status
from netplane.controlplane.registry.cluster import signing as rules
from netplane.controlplane.store import history, protocol
from netplane.kube.types import Object
from netplane.lib import log

_LOG = log.get("signing")
STORAGE = "certificatesigningrequests.certificates.k8s.io"
GROUP = "certificates.k8s.io"
CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
_NODES, _NODE = "system:nodes", "system:node:"
_LONGEST = timedelta(days=365)
_CLIENT_USAGES = frozenset({"digital signature", "key encipherment", "client auth"})
_SERVING_USAGES = frozenset({"digital signature", "key encipherment", "server auth"})


class Refused(Exception):
    """A request that its signer does not sign; the message says why."""


def parsed(csr: Object) -> x509.CertificateSigningRequest:
    """Return the PKCS #10 request in an object; raise Refused."""
    try:
        found = x509.load_pem_x509_csr(base64.b64decode(csr["spec"]["request"]))
    except (ValueError, TypeError) as error:
        raise Refused(f"the request cannot be read: {error}") from error
    if not found.is_signature_valid:
        raise Refused("the request is not signed by its own key")
    return found


def note_requestor(csr: Object, user: access.User) -> None:
    """Write down who asks, whatever the request itself says; raise 403 for what may never be asked for."""
    spec = csr.setdefault("spec", {})
    for name in ("username", "uid", "groups", "extra"):
        spec.pop(name, None)
    told = access.info(user)
    spec |= {name: told[name] for name in ("username", "uid", "groups", "extra") if name in told}
    csr.pop("status", None)
    if spec.get("signerName") == CLIENT:
        _restrict_subject(csr)


def _restrict_subject(csr: Object) -> None:
    """Refuse to take a request for what its signer never signs; raise 403. One that cannot be read is judged later."""
    try:
        request = x509.load_pem_x509_csr(base64.b64decode(csr["spec"].get("request") or ""))
    except (ValueError, TypeError):
        return
    if access.MASTERS in _subject(request)[1]:
        name = str(csr["metadata"].get("name", ""))
        message = f"use of {CLIENT} signer with {access.MASTERS} group is not allowed"
        raise status.forbidden(
            f'certificatesigningrequests.{GROUP} "{name}" is forbidden: {message}',
            group=GROUP, plural="certificatesigningrequests", name=name,
        )  # fmt: skip


def check_update(at: cluster.Cluster, user: access.User, new: Object, old: Object, part: str) -> None:
    """Let only those decide and sign who may for this signer; keep what each part leaves alone. Raises 403."""
    signer = str(old["spec"].get("signerName", ""))
    if part == "approval":
        _may(at, user, "approve", signer, str(old["metadata"]["name"]))
        rules.approve(new, old, at.now())
    elif part == "status":
        _may(at, user, "sign", signer, str(old["metadata"]["name"]))
        rules.keep_decision(new, old)


def _may(at: cluster.Cluster, user: access.User, verb: str, signer: str, name: str) -> None:
    for each in (signer, f"{signer.partition('/')[0]}/*"):
        if at.authorizer.why_allowed(user, rbac.Attributes(verb, GROUP, "signers", name=each)) is not None:
            return
    message = f'certificatesigningrequests.{GROUP} "{name}" is forbidden: user not permitted to {verb} requests'
    raise status.forbidden(
        f'{message} with signerName "{signer}"', group=GROUP, plural="certificatesigningrequests", name=name
    )


def _subject(request: x509.CertificateSigningRequest) -> tuple[str, list[str]]:
    names = [str(each.value) for each in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(each.value) for each in request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return (names[0] if names else ""), groups


def _alternatives(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _check_client(csr: Object, request: x509.CertificateSigningRequest) -> None:
    usages = set(csr["spec"]["usages"])
    if "client auth" not in usages or not usages <= _CLIENT_USAGES:
        raise Refused(f"usages must include client auth, and none but {sorted(_CLIENT_USAGES)}")
    if access.MASTERS in _subject(request)[1]:
        raise Refused(f"subject organization {access.MASTERS} is not allowed")


def _check_kubelet_client(csr: Object, request: x509.CertificateSigningRequest) -> None:
    name, groups = _subject(request)
    if groups != [_NODES]:
        raise Refused(f"subject organization is not {_NODES}")
    if not name.startswith(_NODE) or name == _NODE:
        raise Refused(f"subject common name does not begin with {_NODE}")
    if _alternatives(request):
        raise Refused("subject alternative names are not allowed")
    _check_client(csr, request)


def _check_kubelet_serving(csr: Object, request: x509.CertificateSigningRequest) -> None:
    name, groups = _subject(request)
    if groups != [_NODES] or not name.startswith(_NODE) or name == _NODE:
        raise Refused(f"subject is not a node of {_NODES}")
    if csr["spec"].get("username") != name:
        raise Refused("the requestor is not the node itself")
    usages = set(csr["spec"]["usages"])
    if "server auth" not in usages or not usages <= _SERVING_USAGES:
        raise Refused(f"usages must include server auth, and none but {sorted(_SERVING_USAGES)}")
    alternatives = _alternatives(request)
    if not alternatives or not all(isinstance(each, x509.DNSName | x509.IPAddress) for each in alternatives):
        raise Refused("DNS names or IP addresses are required, and nothing else is allowed")


_SIGNERS: dict[str, Callable[[Object, x509.CertificateSigningRequest], None]] = {
    CLIENT: _check_client,
    KUBELET_CLIENT: _check_kubelet_client,
    KUBELET_SERVING: _check_kubelet_serving,
}
_PURPOSES = {"client auth": ExtendedKeyUsageOID.CLIENT_AUTH, "server auth": ExtendedKeyUsageOID.SERVER_AUTH}


async def follow(at: cluster.Cluster) -> None:
    """Approve and sign as requests come and change, until cancelled."""
    feed = at.store.feed(STORAGE)
    while True:
        for record in list(at.store.cache(STORAGE).range()):
            await _settle(at, record)
        await feed.wait()


async def _settle(at: cluster.Cluster, record: history.Record) -> None:
    csr: Object = orjson.loads(record.value)
    known = rules.conditions(csr)
    signer = csr["spec"].get("signerName")
    check = _SIGNERS.get(signer)
    if check is None or rules.DENIED in known or rules.FAILED in known or (csr.get("status") or {}).get("certificate"):
        return
    try:
        request = parsed(csr)
        if rules.APPROVED not in known:
            if not _approves(at, csr, request):
                return
            _add(at, csr, rules.APPROVED, "AutoApproved", "Auto approving kubelet client certificate")
        check(csr, request)
        pem = _signed(at, csr, request)
        csr["status"]["certificate"] = base64.b64encode(pem).decode()
        _LOG.info("certificate signed", request=record.key[1], signer=signer, subject=_subject(request)[0])
    except Refused as error:
        if rules.APPROVED not in known:
            return
        _add(at, csr, rules.FAILED, "SignerValidationFailure", str(error))
    try:
        await at.store.update(STORAGE, csr, expected=record.revision)
    except protocol.StoreError:
        return  # it changed meanwhile: that rings us again


def _add(at: cluster.Cluster, csr: Object, kind: str, reason: str, message: str) -> None:
    now = at.now()
    made = {"type": kind, "status": "True", "reason": reason, "message": message}
    made |= {"lastUpdateTime": now, "lastTransitionTime": now}
    csr.setdefault("status", {}).setdefault("conditions", []).append(made)


def _approves(at: cluster.Cluster, csr: Object, request: x509.CertificateSigningRequest) -> bool:
    """Whether a node's client certificate is approved without anybody looking: by who asks for whom."""
    spec = csr["spec"]
    if spec.get("signerName") != KUBELET_CLIENT:
        return False
    try:
        _check_kubelet_client(csr, request)
    except Refused:
        return False
    extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
    user = access.User(spec.get("username", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra)
    wanted: Sequence[str] = ("nodeclient",)
    if user.name == _subject(request)[0]:
        wanted = ("selfnodeclient", "nodeclient")
    return any(
        at.authorizer.why_allowed(user, rbac.Attributes("create", GROUP, "certificatesigningrequests", part))
        is not None
        for part in wanted
    )


def _signed(at: cluster.Cluster, csr: Object, request: x509.CertificateSigningRequest) -> bytes:
    asked = csr["spec"].get("expirationSeconds")
    life = min(timedelta(seconds=asked), _LONGEST) if asked else _LONGEST
    purposes = [_PURPOSES[each] for each in csr["spec"]["usages"] if each in _PURPOSES]
    return at.authority.endorse(
        request, alternatives=_alternatives(request), purposes=purposes, now=at.clock.now(), life=life
    )
