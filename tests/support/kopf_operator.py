"""An operator of the kind Shelf, run by kopf in a process of its own: status, a child, a finalizer and a timer."""

from __future__ import annotations

from typing import Any

import kopf

GROUP = "shelves.example.com"
DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"shelves.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "shelves", "singular": "shelf", "kind": "Shelf"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Books", "type": "integer", "jsonPath": ".spec.books"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"books": {"type": "integer", "minimum": 0}}},
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Keep the progress in the status, and tell Events."""
    settings.persistence.progress_storage = kopf.StatusProgressStorage()
    settings.posting.enabled = True


@kopf.on.create(GROUP, "v1", "shelves")
def made(spec: kopf.Spec, patch: kopf.Patch, body: kopf.Body, **_: Any) -> dict[str, int]:
    """Count the books in the status."""
    kopf.info(body, reason="Filled", message=f"{spec['books']} books")
    patch.status["books"] = spec["books"]
    return {"books": spec["books"]}


@kopf.on.update(GROUP, "v1", "shelves", field="spec.books")
def changed(old: Any, new: Any, patch: kopf.Patch, **_: Any) -> None:
    """Count again."""
    patch.status["books"] = new
    patch.status["before"] = old


@kopf.on.delete(GROUP, "v1", "shelves")
def emptied(body: kopf.Body, **_: Any) -> None:
    """kopf's finalizer holds the shelf until this has been called."""
    kopf.info(body, reason="Emptied", message="no books left")


@kopf.timer(GROUP, "v1", "shelves", interval=0.5)
def dusted(patch: kopf.Patch, status: kopf.Status, **_: Any) -> None:
    """Count how often the shelf was dusted, three times at most."""
    if status.get("dusted", 0) < 3:
        patch.status["dusted"] = status.get("dusted", 0) + 1
