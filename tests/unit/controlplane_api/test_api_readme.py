"""The README's commands are those of the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from netplane import cli, controlplane

_README = (Path(controlplane.__file__).parent / "README.md").read_text()
_BLOCKS = re.findall(r"^```\n(.*?)^```", _README, re.DOTALL | re.MULTILINE)
_LINES = [line for block in _BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line for line in _LINES if line.startswith("netplane ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_has_the_options_it_names(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)
    command: click.Command | None = cli.netplane
    arguments = words[1:]
    while isinstance(command, click.Group):
        _, command, arguments = command.resolve_command(click.Context(command), arguments)
    assert command is not None
    command.make_parser(click.Context(command)).parse_args(list(arguments))


def test_the_readme_shows_commands() -> None:
    assert {line.split()[1] for line in COMMANDS} >= {"server", "kubeconfig", "backup", "restore", "token", "join"}
