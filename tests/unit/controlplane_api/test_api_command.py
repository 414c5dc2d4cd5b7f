"""The command `netplane server`: what its options mean to the parts it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from netplane.controlplane import main
from netplane.controlplane.api import server
from netplane.lib import cli


def _run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> tuple[int, str, main.Patience | None]:
    """Run the command without serving; return its exit code, its output and what the controllers are told."""
    told: list[main.Patience] = []

    def serve(settings: Any, parts: Any) -> None:
        told.append(dict(parts)["controllers"].keywords["patience"])

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(cli, "run_async", lambda done: None)
    ran = CliRunner().invoke(main.server, ["--data-dir", str(tmp_path), "--listen", "127.0.0.1:0", *options])
    return ran.exit_code, ran.output, told[0] if told else None


def test_the_controllers_are_as_patient_as_kubernetes_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _run(monkeypatch, tmp_path) == (0, "", main.Patience(40.0, 60.0, 12_500))


def test_the_controllers_are_told_what_the_operator_chose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = ["--node-monitor-grace-period", "1m30s", "--node-startup-grace-period", "7"]
    told = _run(monkeypatch, tmp_path, *chosen, "--terminated-pod-gc-threshold", "0")
    assert told == (0, "", main.Patience(90.0, 7.0, 0))


@pytest.mark.parametrize("value", ["soon", "0s", "-1s", "1.s", "s", "1d"])
def test_what_is_no_duration_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    code, output, _ = _run(monkeypatch, tmp_path, "--node-monitor-grace-period", value)
    assert (code, "--node-monitor-grace-period" in output) == (2, True)
