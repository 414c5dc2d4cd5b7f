"""Have a lab run the bundles that machines install, so that it can be upgraded in place as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import vms

# Read at each start: a process goes on with the version with which it began, where the link led then.
START = "import os, sys; sys.path.insert(0, os.path.realpath({now!r}))\n"
PROGRAM = """#!{python}
import sys
from netplane.cli import main
sys.exit(main())
"""


def install(folder: Path) -> Path:
    """Unpack this version as `first` and another as `next`; return the program, which runs what `now` leads to."""
    for name, local_version in (("first", ""), ("next", "next")):
        archive = vms.bundle(sys.executable, local_version=local_version)
        subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True, timeout=120)
        (folder / "lib").rename(folder / name)
    (folder / "now").symlink_to("first")
    home = folder / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", home], check=True, timeout=60)
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "now.pth").write_text(START.format(now=str(folder / "now")))
    program = home / "bin" / "netplane"
    program.write_text(PROGRAM.format(python=home / "bin" / "python"))
    program.chmod(0o755)
    return program
