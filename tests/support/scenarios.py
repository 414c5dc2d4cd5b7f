"""Run the testbed's scenarios in a place, one at a time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "vagrant" / "scenarios"
RESULTS = "NETPLANE_SCENARIO_RESULTS"
"""The variable that names the file in which several runs gather their results."""
NAMES = tuple(path.stem[3:] for path in sorted(FOLDER.glob("[0-9]*.sh")))


@dataclass(frozen=True)
class Place:
    """A cluster to judge: how kubectl reaches it, what may be done to its machines (PLACE), and what these say then."""

    name: str
    kubeconfig: Path
    results: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    enter: tuple[str, ...] = ()
    journals: Callable[[], str] = str

    def judge(self, scenario: str, *, limit: float) -> str:
        """Run a scenario; return `passed` or `absent` (it has no object here). Raises AssertionError with its words."""
        environment = {
            **os.environ,
            **self.environment,
            "KUBECONFIG": str(self.kubeconfig),
            "PLACE_NAME": self.name,
            "RESULTS": str(self.results),
        }
        done = subprocess.run(
            [*self.enter, "sh", str(FOLDER / "run.sh"), scenario],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{scenario} on {self.name}:\n{done.stdout}\n{done.stderr}\n{self.journals()}")
        return done.stdout.split()[1]


def table(results: Path) -> str:
    """Return the results of all places as one table."""
    argv = ["sh", str(FOLDER / "table.sh"), str(results)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
