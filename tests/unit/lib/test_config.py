"""Flag wins over environment, environment over file, file over default; mistakes are named."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from netplane.lib import config


@click.command(context_settings=config.SETTINGS)
@config.command_options
@click.option("--node-name", default="default")
@click.option("--nodeport-addresses", multiple=True)
def command(node_name: str, nodeport_addresses: tuple[str, ...]) -> None:
    click.echo(f"{node_name} {','.join(nodeport_addresses)}")


def run(tmp_path: Path, text: str, *flags: str, **environ: str) -> Result:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return CliRunner().invoke(command, ["--config", str(path), *flags], env=environ)


def test_the_file_is_read(tmp_path: Path) -> None:
    result = run(tmp_path, "node-name: from-file\nnodeportAddresses: [10.0.0.0/8, '::/0']")
    assert result.output == "from-file 10.0.0.0/8,::/0\n"


def test_one_value_may_stand_for_a_list_of_one(tmp_path: Path) -> None:
    assert run(tmp_path, "nodeport-addresses: 10.0.0.0/8").output == "default 10.0.0.0/8\n"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    assert run(tmp_path, "node-name: file", NETPLANE_NODE_NAME="env").output == "env \n"


def test_the_flag_wins_over_all(tmp_path: Path) -> None:
    result = run(tmp_path, "node-name: file", "--node-name", "flag", NETPLANE_NODE_NAME="env")
    assert result.output == "flag \n"


def test_an_unknown_option_is_named_with_the_nearest(tmp_path: Path) -> None:
    result = run(tmp_path, "node-nam: x")
    assert result.exit_code == 2
    assert "unknown option 'node-nam'; did you mean node-name?" in result.output


def test_a_flag_names_its_option_in_file_and_environment_also_where_the_code_calls_it_otherwise(tmp_path: Path) -> None:
    @click.command(context_settings=config.SETTINGS)
    @config.command_options
    @click.option("--node-ip", "addresses", default="none")
    def other(addresses: str) -> None:
        click.echo(addresses)

    path = tmp_path / "config.yaml"
    path.write_text("node-ip: 10.0.0.1")
    assert CliRunner().invoke(other, ["--config", str(path)]).output == "10.0.0.1\n"
    assert CliRunner().invoke(other, [], env={"NETPLANE_NODE_IP": "10.0.0.2"}).output == "10.0.0.2\n"


@pytest.mark.parametrize("text", ["- a list", "a: [unclosed", "just text"])
def test_a_broken_file_is_a_usage_error(tmp_path: Path, text: str) -> None:
    result = run(tmp_path, text)
    assert result.exit_code == 2
    assert "config.yaml" in result.output
