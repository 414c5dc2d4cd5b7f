"""CertificateSigningRequests: what they must fulfil, who may change what of them, and their columns."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime, timedelta
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cluster import columns
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.types import Column
from netplane.kube.types import Object

APPROVED, DENIED, FAILED = "Approved", "Denied", "Failed"
_USAGES = frozenset(
    {"signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
     "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
     "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
     "microsoft sgc", "netscape sgc"}
)  # fmt: skip
_SHORTEST = 600
COLUMNS = (
    columns.NAME,
    columns.AGE,
    Column("SignerName"),
    Column("Requestor"),
    Column("RequestedDuration"),
    Column("Condition"),
)


def cells(obj: Object, now: datetime) -> list[Any]:
    """The row of a request."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    seconds = spec.get("expirationSeconds")
    age = times.age(metadata.get("creationTimestamp"), now)
    lasts = times.human(timedelta(seconds=seconds)) if seconds else "<none>"
    return [metadata["name"], age, spec.get("signerName", ""), spec.get("username", ""), lasts, _state(obj)]


def _state(obj: Object) -> str:
    status = obj.get("status") or {}
    kinds = [each.get("type") for each in status.get("conditions") or ()]
    shown = DENIED if DENIED in kinds else APPROVED if APPROVED in kinds else ""
    parts = [shown or "Pending"] if not (FAILED in kinds and not shown) else []
    if FAILED in kinds:
        parts.append(FAILED)
    if status.get("certificate"):
        parts.append("Issued")
    return ",".join(parts)


def conditions(obj: Object) -> dict[str, Object]:
    """Return a request's conditions by type."""
    return {each.get("type", ""): each for each in (obj.get("status") or {}).get("conditions") or ()}


def prepare_update(new: Object, old: Object) -> None:
    """A request stays what it was: who asked for what."""
    new["spec"] = old.get("spec") or {}


def validate(obj: Object) -> list[Fault]:
    """Return every fault of a CertificateSigningRequest."""
    spec = obj.get("spec") or {}
    found: list[Fault] = []
    try:
        is_pem = b"BEGIN CERTIFICATE REQUEST" in base64.b64decode(spec.get("request") or "", validate=True)
    except (binascii.Error, ValueError):
        is_pem = False
    if not is_pem:
        detail = "PEM block type must be CERTIFICATE REQUEST"
        found.append(faults.invalid("spec.request", spec.get("request", ""), detail))
    usages = spec.get("usages") or ()
    if not usages:
        found.append(faults.required("spec.usages", "usages is required"))
    for index, each in enumerate(usages):
        if each not in _USAGES:
            found.append(faults.not_supported(f"spec.usages[{index}]", each, sorted(_USAGES)))
    signer = spec.get("signerName", "")
    if "/" not in signer or "." not in signer.partition("/")[0]:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        found.append(faults.invalid("spec.signerName", signer, detail))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _SHORTEST:
        found.append(
            faults.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 600 seconds")
        )
    return found


def validate_status(new: Object, old: Object) -> list[Fault]:
    """Return every fault of a change of status or approval: what was decided stays decided."""
    now, before = conditions(new), conditions(old)
    found: list[Fault] = []
    if APPROVED in now and DENIED in now:
        detail = "Approved and Denied conditions are mutually exclusive"
        found.append(faults.invalid("status.conditions", DENIED, detail))
    for kind in (APPROVED, DENIED, FAILED):
        if kind in before and kind not in now:
            detail = f"updates may not remove a condition of type {kind!r}"
            found.append(faults.forbidden("status.conditions", detail.replace("'", '"')))
    issued = (old.get("status") or {}).get("certificate")
    if issued and (new.get("status") or {}).get("certificate") != issued:
        found.append(faults.forbidden("status.certificate", "updates may not change a certificate that is set"))
    return found


def approve(new: Object, old: Object, now: str) -> None:
    """Keep of a change of `approval` what may change there: conditions, with their times."""
    status = {**(old.get("status") or {}), "conditions": (new.get("status") or {}).get("conditions") or []}
    for each in status["conditions"]:
        each.setdefault("status", "True")
        each.setdefault("lastUpdateTime", now)
        each.setdefault("lastTransitionTime", now)
    new["status"] = status
    new["spec"] = old["spec"]


def keep_decision(new: Object, old: Object) -> None:
    """Keep of a change of `status` everything but what approval alone may change."""
    decided = [each for kind, each in conditions(old).items() if kind in (APPROVED, DENIED)]
    others = [each for kind, each in conditions(new).items() if kind not in (APPROVED, DENIED)]
    status = new.setdefault("status", {})
    status["conditions"] = decided + others
