"""Start proxies quickly: a process that has loaded all of `netplane proxy` already, and forks one on request.

Run as `python -m tests.support.proxy_nursery`. Each line of its input is a JSON object: `place` is the network
namespace ("" for its own), `log` the file for what is said, `options` the words after `netplane proxy`. It answers
with the process id. When the proxy ends by itself, its exit code is in the log's neighbour `.code`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from netplane.kernel import netns
from netplane_proxy.main import proxy


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them, so none shall stay as a zombie
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            _live(asked["place"], Path(asked["log"]), asked["options"])
        print(pid, flush=True)


def _live(place: str, log: Path, options: list[str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(said, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        with netns.inside(place) if place else contextlib.nullcontext():
            code = proxy.main(options, prog_name="netplane proxy", standalone_mode=False) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        log.with_suffix(".code").write_text(str(code))
        os._exit(code)


if __name__ == "__main__":
    main()
