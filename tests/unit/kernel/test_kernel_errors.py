"""What a kernel error tells its reader."""

from __future__ import annotations

import errno
import pickle

from netplane.kernel.errors import CommandFailed, KernelError, from_os


def test_an_error_says_what_was_tried_and_what_the_kernel_answered() -> None:
    error = KernelError(errno.EEXIST, "add route 10.1.0.0/24 via 172.30.0.11")
    assert str(error) == "add route 10.1.0.0/24 via 172.30.0.11: EEXIST (File exists)"
    assert error.errno == errno.EEXIST
    assert isinstance(error, OSError)


def test_detail_follows_the_answer() -> None:
    assert str(KernelError(errno.EINVAL, "add link x", "Invalid MTU")) == (
        "add link x: EINVAL (Invalid argument): Invalid MTU"
    )


def test_without_a_number_the_detail_alone_answers() -> None:
    assert str(CommandFailed(0, "run nft -f -", "exit 1: syntax error", returncode=1)) == (
        "run nft -f -: exit 1: syntax error"
    )


def test_an_unknown_number_is_printed() -> None:
    assert str(KernelError(4095, "x")) == "x: errno 4095"


def test_an_error_survives_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(KernelError(errno.EPERM, "enter", "no")))
    assert (error.errno, error.tried, error.detail) == (errno.EPERM, "enter", "no")


def test_an_operating_system_error_keeps_its_number() -> None:
    assert from_os(FileNotFoundError(errno.ENOENT, "x"), "open y").errno == errno.ENOENT
