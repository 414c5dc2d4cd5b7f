"""Find the kubectl programs of this machine."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path


def programs() -> dict[tuple[int, int], str]:
    """Return version to program, the oldest first: those beside the one on the PATH, named kubectl.1.NN.

    Without such siblings the one on the PATH is alone, as version (0, 0): it is what the user has.
    """
    plain = shutil.which("kubectl")
    if plain is None:
        return {}
    beside = Path(os.path.realpath(plain)).parent.glob("kubectl.1.*")
    named = {(1, int(found[1])): str(path) for path in beside if (found := re.search(r"\.1\.(\d+)$", path.name))}
    return dict(sorted(named.items())) or {(0, 0): plain}


def newest() -> str:
    """Return the newest of them; an AssertionError says that there is none."""
    found = list(programs().values())
    assert found, "no kubectl on this machine: the tests need one, of 1.30 or newer"
    return found[-1]


def since(minor: int) -> list[str]:
    """Return those of at least 1.minor, or the only one there is."""
    return [path for version, path in programs().items() if version >= (1, minor) or version == (0, 0)]
