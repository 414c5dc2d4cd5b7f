"""The `netplane` command: every part is a subcommand, loaded when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from netplane import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "agent": ("netplane.agent.main:agent", "Run the node agent: the pods bound to this node."),
    "backup": ("netplane.controlplane.backup:backup", "Write the cluster's objects and keys into one file."),
    "cni": ("netplane_cni.main:cni", "Run and install the CNI plugin: pod addresses and links."),
    "image": ("netplane.agent.image_cli:image", "Build, import and list container images."),
    "join": ("netplane.controlplane.joining:join", "Make this machine a node: get its credentials with a token."),
    "ingress": ("netplane.edge.ingress.main:command", "Serve Ingresses and Gateways: HAProxy as the cluster says."),
    "kubeconfig": ("netplane.controlplane.main:kubeconfig", "Print a kubeconfig for a user of this cluster."),
    "lab": ("netplane.lab.main:lab", "A whole cluster on this machine, each node a network namespace."),
    "proxy": ("netplane_proxy.main:proxy", "Run the Service proxy of this node."),
    "restore": ("netplane.controlplane.backup:restore", "Bring back a cluster from a backup."),
    "server": ("netplane.controlplane.main:server", "Run the control plane: the Kubernetes API and its controllers."),
    "token": ("netplane.controlplane.joining:token", "Make, list and delete the tokens with which nodes join."),
}
"""Subcommand to (where it is, its line in --help): the line is here so that --help imports no part."""


class Parts(click.Group):
    """A group whose subcommands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = {name: text for name, (_, text) in COMMANDS.items()}
        for name in super().list_commands(ctx):
            command = super().get_command(ctx, name)
            rows[name] = command.get_short_help_str(80) if command else ""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


@click.group(cls=Parts, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "NETPLANE"})
@click.version_option(__version__, prog_name="netplane")
def netplane() -> None:
    """A Kubernetes networking data plane, and the compact control plane it stands on."""


@netplane.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the shell's completion script: eval "$(netplane completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(netplane, {}, "netplane", "_NETPLANE_COMPLETE").source())


def main() -> Any:
    """Run the command; what the user can mend is one line on stderr and exit code 1, a usage error exit code 2."""
    from netplane.lib.cli import UserError

    try:
        code = netplane.main(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        click.echo(f"netplane: {error.format_message()}{hint}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except UserError as error:
        click.echo(f"netplane: {error}", err=True)
        sys.exit(getattr(error, "code", 1))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except Exception as error:
        from netplane.kube.errors import ApiError
        from netplane.lib import cli

        cli.fail(error, expected=(ApiError,))
