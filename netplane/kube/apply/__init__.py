"""Server-side apply: who owns which field, and what an applied configuration makes of an object.

Source: sigs.k8s.io/structured-merge-diff v4 and KEP-555. `managed` is what servers call; `fields` knows sets of
fields and their JSON form, `merge` brings a configuration into an object and takes fields out of one.
"""

from __future__ import annotations

from netplane.kube.apply.managed import Conflict, ConflictError, apply, track

__all__ = ["Conflict", "ConflictError", "apply", "track"]
