"""What a command of the lab began does not outlive it unseen."""

from __future__ import annotations

import subprocess
import sys

_FORGETS = """
import subprocess, sys
from netplane.lab import launch

programs = [subprocess.Popen(["sleep", "300"]) for _ in range(3)]
kept = programs[-1].pid
launch.end_children(but=[kept])
sys.stdout.write(f"{launch.children() == [kept]} ")
launch.end_children()
sys.stdout.write(f"{launch.children()}")
"""


def test_a_command_ends_what_it_began_but_for_what_shall_stay() -> None:
    ran = subprocess.run([sys.executable, "-c", _FORGETS], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "True []", "")
