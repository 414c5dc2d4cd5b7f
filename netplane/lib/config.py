"""Give every command the same configuration: flag, else environment NETPLANE_<FLAG>, else YAML file, else default."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from netplane.lib import log

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS: dict[str, Any] = {
    "auto_envvar_prefix": "NETPLANE",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    "show_default": True,
}
"""The `context_settings` of each daemon's command."""


def command_options(function: F) -> F:
    """Add --config, --log-level and --log-format to a click command, and set logging up before it runs.

    Use it below the command, whose `context_settings` must be `SETTINGS`:
    `@click.command(context_settings=config.SETTINGS)`, `@config.command_options`, then the command's own options.
    """

    @functools.wraps(function)
    def run(*args: Any, log_level: str, log_format: log.Format, **options: Any) -> Any:
        log.setup(log_level, fmt=log_format)
        return function(*args, **options)

    for option in getattr(function, "__click_params__", ()):
        # click names the variable after the parameter; users know the flag.
        if option.envvar is None and option.name not in (flags := _flags(option)):
            option.envvar = [f"NETPLANE_{flag.upper()}" for flag in flags]
    levels = click.Choice(["debug", "info", "warning", "error"])
    decorated = click.option("--log-format", type=click.Choice(["text", "json"]), default="text")(run)
    decorated = click.option("--log-level", type=levels, default="info")(decorated)
    return file_option(decorated)  # type: ignore[return-value]  # click's decorators return the same function


def file_option(function: F) -> F:
    """Add --config FILE to a click command: YAML whose keys are the command's flags (`nodeport-addresses: [...]`)."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="YAML file with the same options; flags and environment win over it.",
    )(function)


def _read(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.UsageError(f"cannot read configuration {path}: {reason}") from error
    if not isinstance(content, dict):
        raise click.UsageError(f"configuration {path} must be a mapping of option names to values")
    known = {option.name: option for option in context.command.params if option.name and option.expose_value}
    spelled = {spelling: name for name, option in known.items() for spelling in (name, *_flags(option))}
    values = {spelled[_spelling(str(key), set(spelled), path)]: value for key, value in content.items()}
    for name, value in values.items():
        if getattr(known[name], "multiple", False) and not isinstance(value, list):
            values[name] = [value]
    context.default_map = {**(context.default_map or {}), **values}


def _flags(option: click.Parameter) -> list[str]:
    """Return an option's long flags, spelled as parameters are."""
    return [flag.removeprefix("--").replace("-", "_") for flag in option.opts if flag.startswith("--")]


def _spelling(key: str, known: set[str], path: Path) -> str:
    name = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).replace("-", "_").lower()
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
    raise click.UsageError(f"configuration {path}: unknown option {key!r}{hint}")
