"""Lists the images that swegym made and removes those that nobody has used for long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from swegym.core.cache import cache_folder
from swegym.core.errors import SandboxError, boundary
from swegym.envs.sandboxes.image_build import LABEL, SOURCE_LABEL
from swegym.envs.sandboxes.image_store import ImageStore, read_json

__all__ = ["ImageRecord", "list_images", "prune_images"]

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that swegym made."""

    names: tuple[str, ...]
    """Its tag by content first, then other names."""
    image_id: str
    size_bytes: int
    """Layers that other images share are counted."""
    created: float
    """Seconds since the epoch, as `last_used`."""
    last_used: float
    source: str
    in_use: bool
    """A container or another image is built on it."""


def list_images(store: ImageStore) -> list[ImageRecord]:
    """Every image of ours, the one used last first. Images merely built on one of ours are not ours."""
    with boundary(SandboxError, "listing images"):
        ours = store.client.images(filters={"label": LABEL})
        needed = {_plain_id(image.get("ParentId", "")) for image in store.client.images(all=True)}
        needed |= {_plain_id(container["ImageID"]) for container in store.client.containers(all=True)}
    records = []
    for image in ours:
        names = sorted({_plain_name(name) for name in image.get("RepoTags") or []})
        tag = (image.get("Labels") or {}).get(LABEL, "")
        if tag in names:
            names.remove(tag)
            records.append(_record(store, image, (tag, *names), needed))
    return sorted(records, key=lambda record: -record.last_used)


def _plain_id(image_id: str) -> str:
    return image_id.removeprefix("sha256:")  # which Podman leaves out here and there


def _plain_name(name: str) -> str:
    """A name without the registry that Podman puts before every name that has none."""
    for prefix in ("docker.io/library/", "docker.io/", "localhost/"):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _record(store: ImageStore, image: dict[str, Any], names: tuple[str, ...], needed: set[str]) -> ImageRecord:
    created = float(image["Created"])
    try:
        last_used = max(created, store.used_file(names[0]).stat().st_mtime)
    except FileNotFoundError:
        last_used = created
    source = image["Labels"].get(SOURCE_LABEL, "")
    return ImageRecord(
        names, image["Id"], int(image["Size"]), created, last_used, source, _plain_id(image["Id"]) in needed
    )


def prune_images(
    store: ImageStore, min_unused_days: float, pattern: str = "*", *, dry_run: bool = False
) -> list[ImageRecord]:
    """Remove images of ours that were not used for so many days; those in use stay.

    Layers that failed builds left, logs and other records of that age go too.

    Args:
        store: the engine's images.
        min_unused_days: 0 removes all that nothing uses.
        pattern: only images with such a name, with wildcards as in a shell: `swegym/boltons:*`.
        dry_run: only say which.

    Returns:
        What was (or would be) removed.
    """
    oldest = time.time() - min_unused_days * _DAY_S
    removed = []
    while True:  # an image is free once those built on it are gone
        due = [item for item in list_images(store) if item.last_used <= oldest and not item.in_use]
        due = [item for item in due if any(fnmatchcase(name, pattern) for name in item.names)]
        done = [item for item in due if item not in removed and (dry_run or _remove(store, item))]
        removed += done
        if dry_run or not done:
            break
    if not dry_run:
        _prune_half_built(store, oldest)
        _prune_records(store, oldest)
    return removed


def _remove(store: ImageStore, record: ImageRecord) -> bool:
    """False when a container or an image was started from it in the meantime."""
    import docker

    for name in record.names:
        try:
            store.client.remove_image(name)
        except docker.errors.ImageNotFound:
            continue  # what was wanted
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise SandboxError(f"removing image {name}: {error}") from error
            return False
    store.used_file(record.names[0]).unlink(missing_ok=True)
    return True


def _prune_half_built(store: ImageStore, oldest: float) -> None:
    """Remove the layers of builds that failed; until then they are what a second try starts from."""
    import docker

    for path in store.folder("failures").glob("*.json"):
        failure = read_json(path)
        if failure.get("time_ns", 0) / 1e9 > oldest:
            continue
        if layer := failure.get("layer"):
            try:
                store.client.remove_image(layer)
            except docker.errors.ImageNotFound:
                pass  # another build's, or gone already
            except docker.errors.APIError as error:
                if error.status_code != 409:  # 409: an image was built on it since
                    raise SandboxError(f"removing layer {layer}: {error}") from error
        path.unlink()


def _prune_records(store: ImageStore, oldest: float) -> None:
    folders = [store.folder("logs"), store.folder("locks"), cache_folder("images", "digests")]
    for path in (path for folder in folders for path in folder.iterdir()):
        if path.stat().st_mtime <= oldest:
            path.unlink(missing_ok=True)  # of a lock: at worst an image is then built twice
