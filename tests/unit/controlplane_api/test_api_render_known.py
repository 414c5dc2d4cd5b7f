"""An answer may hold parts whose JSON is known: it reads as if it did not."""

from __future__ import annotations

import yaml

from netplane.controlplane.api import negotiate, render
from netplane.kube import known


def test_known_parts_are_answered_as_yaml() -> None:
    obj = {"kind": "Pod", "spec": known.read(b'{"nodeName":"a"}')}
    assert yaml.safe_load(render.encoded(obj, negotiate.Format(is_yaml=True))) == {
        "kind": "Pod",
        "spec": {"nodeName": "a"},
    }
