"""What is given to users to apply is what our own API server takes, without a word that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from netplane import edge
from netplane.controlplane.registry import builtin
from netplane.kube.types import Object
from tests.support import registry_objects

_OBJECTS: list[Object] = list(
    yaml.safe_load_all((Path(edge.__file__).parent / "manifests" / "ingress.yaml").read_text())
)


@pytest.mark.parametrize("obj", _OBJECTS, ids=lambda obj: str(obj["kind"]))
def test_every_object_of_the_manifest_is_accepted(obj: Object) -> None:
    group, _, version = obj["apiVersion"].rpartition("/")
    (found,) = [
        each.resource
        for each in builtin().all()
        if (each.resource.group, each.resource.version, each.resource.kind) == (group, version, obj["kind"])
    ]
    made = registry_objects.created(found.group_resource, obj)
    assert made["metadata"]["name"] == obj["metadata"]["name"]
