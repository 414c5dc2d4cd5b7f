"""Make the program that holds a sandbox's namespaces: it sleeps, and reaps what dies below it."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

NAME = "pause"

# Machine code by hand, so that a node needs no compiler and an image no file. SIGCHLD is set to be ignored: the
# kernel then reaps orphans of a shared PID namespace by itself (sigaction(2), SA_NOCLDWAIT).
#   rt_sigaction(SIGCHLD=17, {SIG_IGN}, NULL, 8); for (;;) pause();
_X86_64 = bytes.fromhex(
    "b80d000000"  # mov eax, 13        rt_sigaction
    "bf11000000"  # mov edi, 17        SIGCHLD
    "488d3513000000"  # lea rsi, [rip+19]  the struct behind the code
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "b822000000"  # mov eax, 34        pause
    "0f05"  # syscall
    "ebf7"  # jmp -9
)
#   rt_sigaction; for (;;) ppoll(NULL, 0, NULL, NULL, 0), for this architecture has no pause()
_AARCH64 = b"".join(
    struct.pack("<I", word)
    for word in (
        0xD2800220,  # mov x0, #17
        0x10000161,  # adr x1, .+44    the struct behind the code
        0xD2800002,  # mov x2, #0
        0xD2800103,  # mov x3, #8
        0xD28010C8,  # mov x8, #134    rt_sigaction
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0
        0xD2800001,  # mov x1, #0
        0xD2800003,  # mov x3, #0
        0xD2800928,  # mov x8, #73     ppoll
        0xD4000001,  # svc #0
        0x17FFFFFB,  # b .-20
    )
)


def elf(machine: str) -> bytes:
    """Return a static executable for `x86_64` or `aarch64`."""
    if machine == "x86_64":
        number, code = 62, _X86_64
    elif machine == "aarch64":
        number, code = 183, _AARCH64
    else:
        raise ValueError(f"no pause program for machine {machine}")
    code += struct.pack("<QQQQ", 1, 0, 0, 0)  # struct kernel_sigaction {SIG_IGN}
    base, offset = 0x400000, 64 + 56
    ident = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, number, 1, base + offset, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = offset + len(code)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def install(rootfs: Path) -> None:
    """Make the root file system that all sandboxes share, if it is not there yet."""
    for name in ("proc", "dev", "sys"):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    program = rootfs / NAME
    wanted = elf(platform.machine())
    if program.exists() and program.read_bytes() == wanted:
        return
    draft = rootfs / "pause.new"
    draft.write_bytes(wanted)
    draft.chmod(0o755)
    draft.replace(program)
