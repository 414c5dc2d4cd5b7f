"""certificates.k8s.io: CertificateSigningRequest. Signing is the API's."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import signing
from netplane.controlplane.registry.groups.shared import STATUS, read
from netplane.controlplane.registry.types import ResourceType, Subresource
from netplane.kube.types import Resource

TYPES = (
    ResourceType(
        resource=Resource(
            "certificates.k8s.io",
            "v1",
            "certificatesigningrequests",
            "CertificateSigningRequest",
            namespaced=False,
        ),
        singular="certificatesigningrequest",
        definition="io.k8s.api.certificates.v1.CertificateSigningRequest",
        short_names=("csr",),
        subresources=(STATUS, Subresource("approval", ("get", "patch", "update"))),
        columns=signing.COLUMNS,
        cells=signing.cells,
        field_labels={"spec.signerName": read("spec", "signerName")},
        prepare_update=signing.prepare_update,
        validate=signing.validate,
        validate_status=signing.validate_status,
    ),
)
