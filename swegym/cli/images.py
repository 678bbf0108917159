"""`swegym images build|base|ls|prune`: the images that sandboxes of the docker back end start from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from swegym.envs.sandboxes.image_store import ImageStore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Build, list and remove the images of Docker and Podman sandboxes.")

Alias = Annotated[str | None, typer.Option("--tag", help="Another name for the image, such as my-base:1.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show the build's output; it is in the log either way.")]


def _echo(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


@contextmanager
def _store(quiet: bool = True) -> Iterator[ImageStore]:
    from swegym.envs.sandboxes.image_store import ImageStore

    store = ImageStore(echo=None if quiet else _echo)
    try:
        yield store
    finally:
        store.close()


@app.command("build")
def build(
    context: Annotated[
        Path | None, typer.Argument(help="Folder that the Dockerfile's COPY reads from, and where it lies.")
    ] = None,
    dockerfile: Annotated[Path | None, typer.Option("--file", help="Dockerfile. Default: CONTEXT/Dockerfile.")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="Build argument NAME=VALUE; may be given again.")] = None,
    target: Annotated[str | None, typer.Option(help="Stage of the Dockerfile to build. Default: the last.")] = None,
    network: Annotated[bool, typer.Option(help="Whether the Dockerfile's RUN lines have a network.")] = True,
    rootfs: Annotated[
        Path | None, typer.Option(help="Instead of a Dockerfile: a root file system, as a tarball or a folder.")
    ] = None,
    tag: Alias = None,
    quiet: Quiet = False,
) -> None:
    """Build an image from a Dockerfile or a root file system, unless it is there; prints its name.

    The name is made of the content, so that equal content is built once.
    """
    from swegym.core.errors import ConfigError
    from swegym.envs.sandboxes.image_sources import DockerfileSource, ImageSource, RootfsSource

    source: ImageSource
    if rootfs is not None:
        if context is not None or dockerfile is not None or arg or target is not None:
            raise ConfigError("--rootfs stands alone: it takes no context folder, --file, --arg or --target")
        source = RootfsSource(rootfs)
    elif context is None and dockerfile is None:
        raise ConfigError("say what to build: a folder with a Dockerfile, --file DOCKERFILE or --rootfs TARBALL")
    else:
        file = dockerfile or (context or Path()) / "Dockerfile"
        source = DockerfileSource(context, file, _arguments(arg or []), target, network)
    with _store(quiet) as store:
        print(store.ensure(source, tag))


def _arguments(texts: list[str]) -> dict[str, str]:
    from swegym.core.errors import ConfigError

    arguments = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(f"--arg {text!r} is not of the form NAME=VALUE")
        arguments[name] = value
    return arguments


@app.command("base")
def base(
    suite: Annotated[str, typer.Option(help="Debian release.")] = "bookworm",
    mirror: Annotated[str | None, typer.Option(help="Address of a Debian mirror. Default: debootstrap's own.")] = None,
    package: Annotated[
        list[str] | None, typer.Option(help="Debian package to add to those needed; may be given again.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Its name. Default: swegym-base:SUITE.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make a base image with debootstrap, for machines that reach a Debian mirror but no image registry.

    It holds bash, coreutils, git, patch, procps, python3 (also as `python`) and pytest. Does nothing when an image of
    this name is there; needs root and takes about a minute.
    """
    from swegym.core.errors import ConfigError
    from swegym.envs.sandboxes.image_sources import DEBIAN_PACKAGES, DebianSource

    source = DebianSource(suite, mirror, (*DEBIAN_PACKAGES, *(package or ())))
    name = tag or f"swegym-base:{suite}"
    with _store(quiet) as store:
        found = store.inspect(name)
        if found is None:
            store.ensure(source, name)
        elif not store.is_made_from(found, source):
            raise ConfigError(f"image {name} is there and was made from something else; give another name with --tag")
        print(name)


@app.command("ls")
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the images that swegym made: name, size, when they were made and last used, from what."""
    from swegym.envs.sandboxes.image_records import list_images

    with _store() as store:
        found = list_images(store)
    if as_json:
        import json
        from dataclasses import asdict

        for image in found:
            print(json.dumps(asdict(image)))
        return
    from datetime import datetime

    from rich.table import Table

    from swegym.cli.compose import out

    table = Table(show_edge=False, pad_edge=False)
    for heading in ("image", "size", "made", "last used", "state", "from"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for image in found:
        made, used = (
            f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"
            for seconds in (image.created, image.last_used)
        )
        state = "in use" if image.in_use else ""
        table.add_row("\n".join(image.names), f"{image.size_bytes / 1e6:.0f} MB", made, used, state, image.source)
    out().print(table if found else "no images")


@app.command("prune")
def prune(
    pattern: Annotated[str, typer.Argument(help="Only images with such a name, for example 'swegym/boltons:*'.")] = "*",
    days: Annotated[float, typer.Option(min=0.0, help="Remove what was not used for so long.")] = 14.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove images that swegym made and nobody used lately, what failed builds left, and old build logs.

    Those that a container or another image is built on stay.
    """
    from swegym.envs.sandboxes.image_records import prune_images

    with _store() as store:
        removed = prune_images(store, days, pattern, dry_run=dry_run)
    for image in removed:
        print(image.names[0])
    print(f"{'would remove' if dry_run else 'removed'} {len(removed)} images")
