"""Clear away what a power cut leaves of libcni's cache, which the runtime never gets past by itself.

libcni keeps the result of each ADD in a file that it does not sync. After a power cut the file may be there and empty,
and with it every DEL of that sandbox fails, for ever ("decoding version from network config: unexpected end of JSON
input"). Without the file DEL is done with no previous result, which plugins must bear (CNI spec, section 2, DEL).
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

CACHE = Path("/var/lib/cni/results")
"""Where libcni keeps them; runtimes leave it at that (CacheDir of libcni/api.go)."""
SETTLED = 10.0
"""Seconds after which nobody is still writing such a file."""


def sweep(folder: Path, now: float) -> list[str]:
    """Remove the files that are no JSON, and return their names. `now` is in seconds since 1970, as mtimes are."""
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and now - path.stat().st_mtime > SETTLED and not _is_json(path):
                path.unlink()
                removed.append(path.name)
    return removed


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
