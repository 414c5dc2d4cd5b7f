"""Compare a text with the one that was agreed on, and write that anew when asked to."""

from __future__ import annotations

import os
from pathlib import Path


def check(path: Path, text: str) -> None:
    """Assert that the text is the file's; with NETPLANE_GOLDEN=write it becomes so first."""
    if os.environ.get("NETPLANE_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()
