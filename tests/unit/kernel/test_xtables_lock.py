"""The lock of the iptables tools: who uses it is heard, wherever the file comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.kernel.xtables import lock


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return tmp_path / "xtables.lock"


def use(where: Path) -> None:
    with where.open("a"):
        pass


def test_whoever_lets_go_of_the_lock_is_heard_once(where: Path) -> None:
    use(where)
    ear = lock.Ear()
    assert not ear.heard()
    use(where)
    use(where)
    assert ear.heard()
    assert not ear.heard()
    ear.close()
    assert not ear.heard()


def test_a_lock_that_is_made_or_exchanged_later_is_heard_from_then_on(where: Path) -> None:
    ear = lock.Ear()
    assert not ear.heard()
    use(where)
    ear.heard()
    use(where)
    assert ear.heard()
    where.rename(where.with_suffix(".old"))
    use(where)
    ear.heard()
    use(where)
    assert ear.heard()
    ear.close()
