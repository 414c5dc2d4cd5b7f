"""schemathesis makes up requests by the server's own OpenAPI v3: nothing it sends breaks the server or holds it up."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from tests.support import apiserver
from tests.support.http_client import Client

_SEED = 20
_SECONDS = 45.0
_LEAST = 5
"""How many operations are tried however long it takes: a busy machine takes seconds to make up one request."""
_EXAMPLES = 2
_ANSWER_SECONDS = 20.0


@pytest.fixture
def target(tmp_path: Path) -> Iterator[apiserver.Server]:
    """A server of its own: what is made up may be stored, a webhook for one."""
    with apiserver.running(tmp_path / "data", options=()) as running:
        yield running


def operations(api: Client) -> list[Any]:
    """Return the operations of every group version, in an order that is the same each time."""
    found = []
    for path in api.ask("GET", "/openapi/v3")[1]["paths"]:
        schema = schemathesis.openapi.from_dict(named(api.ask("GET", f"/openapi/v3/{path}")[1]))
        found += [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    found.sort(key=lambda each: (each.path, each.method))
    random.Random(_SEED).shuffle(found)
    return found


def named(document: dict[str, Any]) -> dict[str, Any]:
    """Say in the schemas which kind an object is, or nearly all that is made up would be refused for that alone."""
    for schema in document["components"]["schemas"].values():
        kinds: list[dict[str, str]] = schema.get("x-kubernetes-group-version-kind") or []
        if len(kinds) == 1 and {"apiVersion", "kind"} <= (schema.get("properties") or {}).keys():
            group, version = kinds[0]["group"], kinds[0]["version"]
            schema["properties"]["apiVersion"]["enum"] = [f"{group}/{version}" if group else version]
            schema["properties"]["kind"]["enum"] = [kinds[0]["kind"]]
    return document


def meant(case: Any, number: int) -> Any:
    """Let most requests reach a namespace that is there, and watches end."""
    if number % 4 and "namespace" in (case.path_parameters or {}):
        case.path_parameters["namespace"] = "default"
    if case.query and "watch" in case.query:
        case.query["timeoutSeconds"] = "1"
    return case


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")
def test_no_request_made_up_by_the_schema_breaks_or_holds_up_the_server(
    target: apiserver.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(each, raising=False)
    ca, headers = str(target.data_dir / "pki" / "ca.crt"), {"Authorization": f"Bearer {target.token}"}
    broken: list[str] = []
    sent = 0

    def send(case: Any) -> None:
        nonlocal sent
        sent += 1
        made = meant(case, sent)
        try:
            answer = made.call(base_url=target.url, headers=headers, verify=ca, timeout=_ANSWER_SECONDS)
        except Exception as error:  # whatever the client's library raises: no answer is what it means
            broken.append(f"{case.method} {case.path}: {error}"[:500])
            return
        if answer.status_code >= 500:
            broken.append(f"{case.method} {case.path}: {answer.text[:300]} to {made.as_curl_command()[:2000]}")

    deadline, asked = time.monotonic() + _SECONDS, 0
    for operation in operations(Client(target)):
        if time.monotonic() > deadline and asked >= _LEAST:
            break
        asked += 1
        settings = hypothesis.settings(
            max_examples=_EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        hypothesis.seed(_SEED)(settings(hypothesis.given(case=cases)(lambda case: send(case))))()
    assert asked >= _LEAST, "the schema was hardly used"
    assert sent >= asked
    assert not broken, "\n".join(broken)
    assert target.process.poll() is None
    assert "Traceback" not in (target.data_dir / "server.log").read_text()
