"""What the machine lacks is said in one line before anything is made."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import NETPLANE

NAME = "lacking"


def path_with(folder: Path, program: str, text: str) -> str:
    """A PATH on which the program is the given script."""
    script = folder / program
    script.write_text(text)
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def up(path: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
    return subprocess.run(
        [NETPLANE, "lab", "up", f"--name={NAME}", "--api-port=17555"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failed `up`, which has made nothing."""
    assert done.returncode == 1
    assert not Path(f"/var/lib/netplane-lab/{NAME}").exists()
    assert not list(Path("/run/netns").glob(f"{NAME}-*"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("netplane: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("kind", "feature"),
    [("vxlan", "vxlan (CONFIG_VXLAN); --fabric direct works without"), ("veth", "veth (CONFIG_VETH)")],
)
def test_a_kernel_without_a_kind_of_link_is_told_by_its_option(tmp_path: Path, kind: str, feature: str) -> None:
    # Stands for a kernel that does not know the link: iproute2 answers so in the kernel's name.
    stub = f"""#!/bin/sh
case "$*" in *"type {kind}"*) echo "Error: Unknown device type." >&2; exit 2;; esac
exec {shutil.which("ip")} "$@"
"""
    assert f"this kernel lacks {feature}" in refusal(up(path_with(tmp_path, "ip", stub)))


def test_a_kernel_without_nat_in_nftables_is_told(tmp_path: Path) -> None:
    stub = "#!/bin/sh\necho 'Error: Could not process rule: No such file or directory' >&2\nexit 1\n"
    assert "CONFIG_NFT_NAT" in refusal(up(path_with(tmp_path, "nft", stub)))


def test_a_missing_program_is_named_with_its_package(tmp_path: Path) -> None:
    for program in ("ip", "nft", "nsenter", "unshare", "mount", "sysctl", "conmon"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    assert refusal(up(str(tmp_path))).endswith("crun is not installed: apt-get install crun")
