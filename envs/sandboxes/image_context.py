"""Build contexts: which files go to the engine, in an order that never varies, and the hash of their content."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

from swegym.core.cache import cache_folder
from swegym.core.errors import ConfigError
from swegym.core.runfolder import write_atomically

__all__ = ["cached_digest", "context_paths", "folder_digest", "write_context"]

_SETTLED_NS = 2_000_000_000
"""A file changed later than this before it was read may change again within one tick of the file system's clock."""

Entry = tuple[str, os.stat_result]


def _entries(path: Path, wanted: frozenset[str] | None = None) -> Iterator[Entry]:
    """Everything below a folder as (relative path, lstat), parents first, sorted by bytes; a file is one entry."""
    if not path.is_dir():
        yield "", path.stat()
        return
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(path / prefix) as found:
            ordered = sorted(found, key=lambda entry: os.fsencode(entry.name))
        folders = []
        for entry in ordered:
            relative = prefix + entry.name
            info = entry.stat(follow_symlinks=False)
            if wanted is None or relative in wanted:
                yield relative, info
            if stat.S_ISDIR(info.st_mode):
                folders.append(relative + "/")
        pending += reversed(folders)


def folder_digest(folder: str | Path, wanted: frozenset[str] | None = None) -> str:
    """Hash of a tree or of one file: relative paths, kinds, modes, link targets and contents.

    Args:
        folder: the tree.
        wanted: relative paths that count; None: all.
    """
    root, total = Path(folder), hashlib.blake2b(digest_size=16)
    for relative, info in _entries(root, wanted):
        mode = info.st_mode
        total.update(os.fsencode(relative) + b"\0%o\0" % mode)
        if stat.S_ISLNK(mode):
            total.update(os.fsencode((root / relative).readlink()) + b"\0")
        elif stat.S_ISREG(mode):
            with (root / relative).open("rb") as stream:
                total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()


def cached_digest(path: str | Path, wanted: frozenset[str] | None = None) -> str:
    """As `folder_digest`; remembered in the user's cache for as long as no file's inode, size or times change.

    Raises:
        ConfigError: something there cannot be read.
    """
    root, now_ns = Path(path), time.time_ns()
    try:
        sign, newest_ns = hashlib.blake2b(digest_size=16), 0
        for relative, info in _entries(root, wanted):
            numbers = (info.st_mode, info.st_ino, info.st_dev, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            sign.update(os.fsencode(relative) + b"\0" + repr(numbers).encode())
            newest_ns = max(newest_ns, info.st_ctime_ns)
        record = cache_folder("images", "digests") / hashlib.blake2b(os.fsencode(root), digest_size=16).hexdigest()
        known = _read_record(record)
        if known.get("signature") == sign.hexdigest():
            return str(known["digest"])
        digest = folder_digest(root, wanted)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename or root}: {error.strerror}") from None
    if newest_ns < now_ns - _SETTLED_NS:
        write_atomically(record, json.dumps({"signature": sign.hexdigest(), "digest": digest}))
    return digest


def _read_record(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}  # absent, or half written by a process that was killed: hash again


def context_paths(context: Path, dockerfile: str | None) -> frozenset[str]:
    """Relative paths of a build context that .dockerignore lets through.

    Args:
        context: the context folder.
        dockerfile: the Dockerfile's path in it, None when it lies elsewhere; `NAME.dockerignore` beside it wins.
    """
    from docker.utils import exclude_paths

    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    for name in [*candidates, ".dockerignore"]:
        try:
            lines = (context / name).read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {context / name}: {error}") from None
        return frozenset(
            exclude_paths(str(context), [line for line in lines if line.strip()[:1] not in ("", "#")], dockerfile)
        )
    return frozenset(relative for relative, _ in _entries(context))


def write_context(
    stream: IO[bytes],
    texts: dict[str, str],
    folders: dict[str, Path],
    wanted: Callable[[str], bool] = lambda relative: True,
) -> None:
    """A tar archive of generated files and of folders, owned by root; sockets are left out, links are kept as links.

    Args:
        stream: seekable, opened for writing.
        texts: name in the archive -> content.
        folders: name in the archive ("" is its root) -> folder on this machine.
        wanted: which relative paths of the folders go in.
    """
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, BytesIO(text.encode()))
        for prefix, folder in folders.items():
            if prefix:
                _add(tar, folder, prefix)
            for relative, _ in _entries(folder):
                if wanted(relative):
                    _add(tar, folder / relative, f"{prefix}/{relative}" if prefix else relative)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    try:
        entry: tarfile.TarInfo | None = tar.gettarinfo(path, arcname=name)
        if entry is None:  # a socket
            return
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        if entry.islnk():  # the first of two hard links may be one that is left out
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
        if entry.isreg():
            with path.open("rb") as content:
                tar.addfile(entry, content)
        else:
            tar.addfile(entry)
    except OSError as error:
        raise ConfigError(f"cannot put {path} into the build context: {error.strerror or error}") from None
