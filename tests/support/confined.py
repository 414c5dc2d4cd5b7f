"""Run a program with the rights that the systemd unit or the DaemonSet gives the proxy, and no more.

Both files are read, so that what is tested is what is shipped. Mounts are as ProtectSystem=strict makes them: all is
read-only, but for what ReadWritePaths, the state directory and private /tmp leave open.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from tests.support import proxy_process
from tests.support.proxy_process import Nursery

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "proxy/netplane-proxy.service"
DAEMON_SET = ROOT / "proxy/manifests/daemonset.yaml"


def service() -> dict[str, list[str]]:
    """Return the settings of the unit's [Service] section, each with all its lines."""

    found: dict[str, list[str]] = {}
    _, _, section = UNIT.read_text().partition("[Service]\n")
    for line in section.partition("\n[")[0].splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def unit_capabilities() -> list[str]:
    """Return the unit's CapabilityBoundingSet as setpriv spells it: net_admin."""
    return sorted(one.removeprefix("CAP_").lower() for one in service()["CapabilityBoundingSet"][0].split())


def daemon_set_capabilities() -> list[str]:
    """Return what the DaemonSet adds after it has dropped all."""
    (daemon_set,) = (one for one in yaml.safe_load_all(DAEMON_SET.read_text()) if one["kind"] == "DaemonSet")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    rights = container["securityContext"]
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    return sorted(one.lower() for one in rights["capabilities"]["add"])


def writable_paths() -> list[str]:
    """Return the unit's ReadWritePaths."""
    return [path.removeprefix("-") for line in service().get("ReadWritePaths", []) for path in line.split()]


def argv(command: Sequence[str], *, capabilities: Sequence[str], state: Path) -> list[str]:
    """Return the command line that runs a command so, with a state directory that it may write."""
    kept = ",".join(["-all", *(f"+{one}" for one in capabilities)])
    confine = shlex.join(
        ["setpriv", "--bounding-set", kept, "--inh-caps", kept, "--ambient-caps", "-all", "--no-new-privs", *command]
    )
    script = "\n".join([
        "set -e",
        "mount --make-rprivate /",
        f"mount --bind {shlex.quote(str(state))} {shlex.quote(str(state))}",
        *(f"test ! -e {path} || mount --bind {path} {path}" for path in map(shlex.quote, writable_paths())),
        "mount -o remount,bind,ro /",
        "! mountpoint -q /run || mount -o remount,bind,ro /run",
        f"exec {confine}",
    ])  # fmt: skip
    return ["unshare", "--mount", "sh", "-c", script]


@contextlib.contextmanager
def nursery(place: str, capabilities: Sequence[str], state: Path) -> Iterator[Nursery]:
    """Run what starts proxies in this namespace: so confined itself, as are those it forks."""
    with proxy_process.nursery(
        argv(proxy_process.NURSERY, capabilities=capabilities, state=state), place=place
    ) as made:
        yield made
