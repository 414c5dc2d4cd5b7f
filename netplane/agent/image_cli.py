"""`netplane image`: build, import, list and remove the images of this node's store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
import yaml

from netplane.agent.builtin import build as builtin
from netplane.agent.images import Image, Store, recipe
from netplane.lib import config

Output = Literal["table", "wide", "json", "yaml"]

_OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table", help="How to print it."
)


@click.group(context_settings=config.SETTINGS)
@click.option(
    "--image-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="/var/lib/netplane/images",
    help="Where the image store is.",
)
@click.pass_context
def image(context: click.Context, image_dir: Path) -> None:
    """Build, import, list and remove container images. Nothing is fetched from anywhere."""
    context.obj = Store(image_dir)


@image.command("build")
@click.argument("what", metavar="builtin|FOLDER")
@click.option("-t", "--tag", default="", help="Name the image so, in place of what image.yaml says.")
@_OUTPUT
@click.pass_obj
def build_image(store: Store, what: str, tag: str, output: Output) -> None:
    """Build the built-in images, or the image that FOLDER/image.yaml describes."""
    if what == "builtin":
        if tag:
            raise click.UsageError("the built-in images have names of their own: leave --tag out")
        images = builtin.build(store.root)
    else:
        if not Path(what).is_dir():
            raise click.UsageError(f"{what!r} is neither `builtin` nor a folder with an {recipe.RECIPE_FILE}")
        images = (recipe.build(store, recipe.from_folder(Path(what), name=tag))[0],)
    _print(images, output)


@image.command("import")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", help="The image's name, when the archive tells none.")
@_OUTPUT
@click.pass_obj
def import_image(store: Store, archive: Path, name: str, output: Output) -> None:
    """Import an OCI archive or what `docker save` or `podman save` wrote."""
    names = store.import_archive(archive, name=name)
    _print(tuple(found for full in names if (found := store.find(full))), output)


@image.command("list")
@_OUTPUT
@click.pass_obj
def list_images(store: Store, output: Output) -> None:
    """List the images of this node."""
    _print(store.list(), output)


@image.command("remove")
@click.argument("references", nargs=-1, required=True)
@click.pass_obj
def remove_images(store: Store, references: tuple[str, ...]) -> None:
    """Remove images. Layers that running containers use stay until a later removal."""
    for name in references:
        click.echo(f"{name} {'removed' if store.remove(name) else 'was not there'}")


def _print(images: tuple[Image, ...], output: Output) -> None:
    if output == "json":
        click.echo(json.dumps([_facts(found) for found in images], indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump([_facts(found) for found in images], sort_keys=False), nl=False)
    else:
        heads = ("REFERENCE", "DIGEST", "SIZE") + (("LAYERS", "RUNS") if output == "wide" else ())
        _table([heads, *(_row(found, is_wide=output == "wide") for found in images)])


def _facts(found: Image) -> dict[str, Any]:
    layers = [f"sha256:{folder.name}" for folder in found.layers]
    return {
        "reference": found.reference,
        "digest": found.digest,
        "size": found.size,
        "layers": layers,
        "config": found.config,
    }


def _row(found: Image, *, is_wide: bool) -> tuple[str, ...]:
    short = (found.reference, found.digest.removeprefix("sha256:")[:12], f"{found.size / 1e6:.1f}MB")
    words = [*_words(found.config.get("Entrypoint")), *_words(found.config.get("Cmd"))]
    return (*short, str(len(found.layers)), " ".join(words)) if is_wide else short


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else []


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
