"""The first word of a monitor, read on the event loop that the agent runs on."""

from __future__ import annotations

import asyncio
import os
import tempfile

import pytest
import uvloop

from netplane.agent.runtime.embedded import crun

SAYS = 'import os; os.write(int(os.environ["_OCI_SYNCPIPE"]), b"{\\"data\\": 7}\\n")'
MUTE = "pass"


@pytest.mark.parametrize(("program", "answer"), [(SAYS, {"data": 7}), (MUTE, {})])
def test_a_monitors_word_is_read_and_no_descriptor_of_others_is_closed(program: str, answer: dict[str, int]) -> None:
    """uvloop's connect_read_pipe closes its descriptor twice: the second time it is somebody else's."""

    async def main() -> None:
        assert await crun.supervised(["/usr/bin/python3", "-ISc", program]) == answer
        with tempfile.TemporaryFile() as somebodys:
            await asyncio.sleep(0.01)
            os.fstat(somebodys.fileno())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
