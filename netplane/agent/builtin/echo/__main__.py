"""Run the echo server until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from . import server


async def serve() -> None:
    """Serve as the environment says."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.Server(server.settings(os.environ, socket.gethostname())).run(stop)


def main() -> None:
    """Serve; a port that is taken or a setting that is no number is one line on standard error."""
    # As the container's first process it inherits orphans: let the kernel bury them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        asyncio.run(serve())
    except (OSError, ValueError) as error:
        sys.exit(f"echo: {error}")


if __name__ == "__main__":
    main()
