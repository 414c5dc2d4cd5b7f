"""Facts become one line each, whatever is in them."""

import json
import logging
from collections.abc import Iterator

import pytest

from netplane.lib import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.getLogger("netplane").setLevel(logging.NOTSET)


def test_text_names_level_part_message_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info")
    log.get("agent").bind(node="n1").info("pod started", pod="default/web", ms=12)
    line = capsys.readouterr().err
    assert line.endswith("INFO agent pod started node=n1 pod=default/web ms=12\n")
    assert line[:2] == "20"


@pytest.mark.parametrize("value", ["two words", 'a "quote"', "line\nbreak", "", "a=b", "\x1b[31m"])
def test_text_keeps_each_fact_on_one_line(capsys: pytest.CaptureFixture[str], value: str) -> None:
    log.setup("info")
    log.get("x").info("fact", value=value)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert json.loads(line.split("value=", 1)[1]) == value


def test_json_is_one_object_a_line_with_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", fmt="json")
    try:
        raise ValueError("broken")
    except ValueError:
        log.get("proxy").exception("it failed", rule=7)
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["part"], line["message"], line["rule"]) == ("error", "proxy", "it failed", 7)
    assert "ValueError: broken" in line["traceback"]


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("warning")
    log.get("x").info("hidden")
    log.get("x").warning("shown")
    logging.getLogger("somebody.else").info("hidden too")
    assert "hidden" not in capsys.readouterr().err
