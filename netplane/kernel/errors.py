"""Name what the kernel, or a program that speaks for it, refused.

OSError
└── KernelError          errno: what the kernel answered
    └── CommandFailed    returncode: how a program ended
"""

from __future__ import annotations

import errno as numbers
import os


class KernelError(OSError):
    """What was tried on what, and what the kernel answered: `add route 10.1.0.0/24 via 172.30.0.11: EEXIST`.

    `errno` is positive, 0 when the refusal has none. `detail` is what it said beyond the number.
    """

    def __init__(self, errno: int, tried: str, detail: str = "") -> None:
        super().__init__(errno, tried)
        self.tried = tried
        self.detail = detail

    def __str__(self) -> str:
        """Print it on one line."""
        return ": ".join(part for part in (self.tried, _answer(self.errno or 0), self.detail) if part)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: OSError's own way knows two arguments only."""
        return type(self), (self.errno or 0, self.tried, self.detail)


class CommandFailed(KernelError):
    """A program that was to change the kernel ended badly, did not end, or is not there.

    `errno` is ENOENT without the program, ETIMEDOUT when it did not end, else 0; then `returncode` tells (-9: killed).
    """

    def __init__(self, errno: int, tried: str, detail: str = "", *, returncode: int = 0) -> None:
        super().__init__(errno, tried, detail)
        self.returncode = returncode

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, without the return code."""
        return type(self), (self.errno or 0, self.tried, self.detail)


def from_os(error: OSError, tried: str) -> KernelError:
    """Return the KernelError for what an operating-system call answered."""
    return KernelError(error.errno or 0, tried)


def _answer(number: int) -> str:
    if not number:
        return ""
    name = numbers.errorcode.get(number)
    return f"{name} ({os.strerror(number)})" if name else f"errno {number}"
