"""The order of API versions (k8s.io/apimachinery/pkg/version: CompareKubeAwareVersionStrings)."""

from __future__ import annotations

import re

_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?").fullmatch
_STAGES = {None: 3, "beta": 2, "alpha": 1}


def priority(version: str) -> tuple[int, int, int, str]:
    """Sort key that puts v2 before v1 before v1beta1 before v1alpha1 before what is no Kubernetes version."""
    match = _VERSION(version)
    if match is None:
        return (0, 0, 0, version)
    major, stage, minor = match.groups()
    return (-_STAGES[stage], -int(major), -int(minor or 0), version)
