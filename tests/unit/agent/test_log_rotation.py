"""Logs are rotated, whatever the runtime says, and what was not begun anew keeps its name."""

import asyncio
from pathlib import Path

import pytest

from netplane.agent.lifecycle import rotation
from netplane.agent.runtime.protocol import ContainerConfig, RuntimeFailure, SandboxConfig
from netplane.lib import clock
from tests.support.agent_pods import FakeRuntime


class Logging(FakeRuntime):
    """A runtime whose containers log into a folder, and that may be away."""

    folder: Path
    attempts: asyncio.Queue[str]
    away: Exception | None = None

    def log_file(self, container_id: str) -> Path:
        if container_id.startswith("gone"):
            raise KeyError(container_id)
        return self.folder / container_id

    async def reopen_log(self, container_id: str) -> None:
        self.attempts.put_nowait(container_id)
        if self.away is not None:
            raise self.away
        (self.folder / container_id).touch()


async def running(folder: Path, fake: clock.Fake, *names: str) -> Logging:
    runtime = Logging(fake)
    runtime.folder, runtime.attempts = folder, asyncio.Queue()
    sandbox = await runtime.run_sandbox(SandboxConfig("u1", "default", "web", 0, "web", "", folder))
    for name in names:
        id_ = await runtime.create_container(sandbox, ContainerConfig(name, 0, "image", log_path=name))
        await runtime.start_container(id_)
        if name != "gone":
            (folder / id_).write_text("x" * 200)
    return runtime


@pytest.mark.parametrize("error", [RuntimeFailure("containerd is away"), OSError("no such pipe")])
async def test_a_log_that_cannot_be_begun_anew_keeps_its_name_and_is_rotated_later(
    tmp_path: Path, error: Exception
) -> None:
    fake = clock.Fake()
    runtime = await running(tmp_path, fake, "gone", "app")
    runtime.away = error
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rotation.run(runtime, fake, largest=100, kept=2))
        for _ in range(2):
            await asyncio.sleep(0)
            await fake.advance(rotation.EVERY)
            await asyncio.wait_for(runtime.attempts.get(), 20)
            assert [one.name for one in tmp_path.iterdir()] == ["app-0"]
        runtime.away = None
        await fake.advance(rotation.EVERY)
        await asyncio.wait_for(runtime.attempts.get(), 20)
        task.cancel()
    kept = sorted(one.name for one in tmp_path.iterdir())
    assert len(kept) == 2
    assert kept[0] == "app-0"
    assert (tmp_path / kept[1]).read_text() == "x" * 200
