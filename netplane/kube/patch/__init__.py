"""The three kinds of patch that change a document: JSON patch, merge patch, strategic merge patch. Apply is `apply`'s.

Nothing here changes its arguments; a result may share parts with them.

PatchError: the patch cannot be used on this document. `is_malformed` tells a patch that is wrong in itself
(400 Bad Request) from one that does not fit the object (422 Unprocessable Entity).
"""

from __future__ import annotations

from netplane.kube.patch.errors import PatchError
from netplane.kube.patch.jsonpatch import apply as json
from netplane.kube.patch.merge import apply as merge
from netplane.kube.patch.merge import diff
from netplane.kube.patch.strategic import apply as strategic

__all__ = ["PatchError", "diff", "json", "merge", "strategic"]
