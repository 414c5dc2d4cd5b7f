"""The filter of system calls that containers of the embedded runtime get."""

import json
from pathlib import Path

import pytest

from netplane.agent.runtime.embedded import bundle, seccomp
from netplane.agent.runtime.protocol import SECCOMP_DEFAULT, RuntimeFailure, Security


def denied(*capabilities: str) -> set[str]:
    rules = seccomp.default(capabilities, "x86_64")["syscalls"]
    return {name for rule in rules if "args" not in rule for name in rule["names"]}


def test_what_a_capability_is_for_it_brings_back() -> None:
    usual = denied(*bundle.DEFAULT_CAPABILITIES)
    assert {"mount", "unshare", "bpf", "keyctl", "init_module", "reboot", "clone3", "settimeofday"} <= usual
    times = {"clock_settime", "clock_settime64", "settimeofday", "stime"}
    assert usual - denied(*bundle.DEFAULT_CAPABILITIES, "SYS_TIME") == times
    administrators = denied(*bundle.DEFAULT_CAPABILITIES, "SYS_ADMIN")
    assert not administrators & {"mount", "unshare", "setns", "bpf", "clone3"}
    assert {"keyctl", "init_module"} <= administrators


def test_new_namespaces_are_denied_one_by_one_and_threads_are_not() -> None:
    rules = [rule["args"][0] for rule in seccomp.default((), "x86_64")["syscalls"] if "args" in rule]
    new_user, threads = 0x10000000, 0x3D0F00
    assert any(new_user & rule["value"] == rule["valueTwo"] for rule in rules)
    assert not any(threads & rule["value"] == rule["valueTwo"] for rule in rules)


def test_who_asks_for_none_or_is_privileged_gets_none() -> None:
    assert seccomp.wanted(Security(), (), "x86_64") is None
    assert seccomp.wanted(Security(seccomp=SECCOMP_DEFAULT, privileged=True), (), "x86_64") is None


def test_a_profile_of_the_node_is_taken_as_it_is_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    for said, word in ((None, "No such file"), ("{", "own.json"), ("[]", "no defaultAction")):
        if said is not None:
            path.write_text(said)
        with pytest.raises(RuntimeFailure, match=word):
            seccomp.wanted(Security(seccomp=str(path)), (), "x86_64")
    profile = {"defaultAction": "SCMP_ACT_ALLOW"}
    path.write_text(json.dumps(profile))
    assert seccomp.wanted(Security(seccomp=str(path)), (), "x86_64") == profile
