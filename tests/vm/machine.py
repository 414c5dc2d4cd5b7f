"""Run a command on Debian's own kernel: `python -m tests.vm.machine [--timeout 600] -- pytest tests/vm -q`.

A virtual machine (emulated: it needs no rights but to read) boots that kernel with this host's root as its own, under
an overlay in memory: what the command writes is gone afterwards. It has no network beside its own loopback. The output
and the exit code are the command's; 124 when it took too long, 125 when the machine died before it ended.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.vm import kernel

TIMED_OUT, DIED = 124, 125
MEMORY_MIB = 1024


def run(command: Sequence[str], *, timeout: float, cache: Path, folder: Path) -> int:
    """Boot, run the command in `folder`, print what it prints, and return its exit code. The machine is gone then."""
    found = kernel.ensure(cache)
    with tempfile.TemporaryDirectory(prefix="netplane-vm-") as name:
        job = Path(name)
        (job / "command").write_text(f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)}\n")
        (job / "modules").write_text(str(found.modules))
        (job / "output").touch()
        machine = subprocess.Popen(_arguments(found, job), stdin=subprocess.DEVNULL)
        try:
            return _follow(machine, job, timeout)
        finally:
            machine.kill()
            machine.wait()


def _arguments(found: kernel.Kernel, job: Path) -> list[str]:
    share = "local,security_model=none,multidevs=remap"
    guest = Path(__file__).resolve().with_name("guest.sh")
    return [
        *("qemu-system-x86_64", "-accel", "tcg,tb-size=256", "-smp", "1", "-m", str(MEMORY_MIB)),
        *("-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial", f"file:{job / 'console'}"),
        *("-kernel", str(found.image), "-initrd", str(found.initrd)),
        *("-virtfs", f"{share},path=/,mount_tag=host,readonly=on"),
        *("-virtfs", f"{share},path={job},mount_tag=job"),
        # On a busy host the emulated timer is late, and the kernel would give up: "IO-APIC + timer doesn't work".
        *("-append", f"console=ttyS0 panic=-1 quiet mitigations=off no_timer_check netplane.guest={guest}"),
    ]


def _follow(machine: subprocess.Popen[bytes], job: Path, timeout: float) -> int:
    """Print the output as it grows until there is an exit code."""
    end = time.monotonic() + timeout
    with (job / "output").open("rb") as output:
        while True:
            is_over = (job / "code").exists() and bool((job / "code").read_text().strip())
            is_dead = machine.poll() is not None
            _copy(output.read())
            if is_over:
                return int((job / "code").read_text())
            if is_dead or time.monotonic() > end:
                what = "the machine died" if is_dead else f"not done within {timeout:g} s"
                console = (job / "console").read_text(errors="replace") if (job / "console").exists() else ""
                print(f"netplane: {what}; the end of its console:\n{console[-3000:]}", file=sys.stderr)
                return DIED if is_dead else TIMED_OUT
            time.sleep(0.2)


def _copy(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for boot and command together")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netplane/vm"
    parser.add_argument("--cache", type=Path, default=cache, help="where the unpacked kernel is kept")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    missing = kernel.missing_programs()
    if missing:
        print(f"netplane: {', '.join(missing)} not found; `make vm` installs what it takes", file=sys.stderr)
        return 2
    return run(given.command, timeout=given.timeout, cache=given.cache, folder=Path.cwd())


if __name__ == "__main__":
    sys.exit(main())
