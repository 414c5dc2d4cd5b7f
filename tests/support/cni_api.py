"""An API server in a namespace of its own, for machines of `cni_nodes` to follow."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from netplane.kernel import netns
from netplane.kube.fake import FakeApi
from tests.support.http_api import HttpApi

T = TypeVar("T")


class ApiInside:
    """An API server that listens in a machine's namespace: on its loopback, or where others reach it."""

    def __init__(self, place: str, host: str = "127.0.0.1") -> None:
        self.fake = FakeApi()
        self._host = host
        self._http = HttpApi(self.fake, host=host)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(place,))

    def _run(self, place: str) -> None:
        with netns.inside(place):
            asyncio.set_event_loop(self._loop)
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)  # answers to those who watch
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        found: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return found.result(30)

    def __enter__(self) -> ApiInside:
        self._thread.start()
        self.do(self._http.start())
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(Exception):
            self.do(self._http.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def stop(self) -> None:
        self.do(self._http.stop())

    def start(self) -> None:
        self.do(self._http.start())

    def kubeconfig(self, path: Path) -> Path:
        server = f"http://{self._host}:{self._http.port}"
        entry = {"clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}]}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        path.write_text(json.dumps({**entry, "contexts": [context], "current-context": "x"}))
        return path
