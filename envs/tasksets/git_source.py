"""Source trees from git: a clone at one revision, and what git counts to a work tree. No hook of one is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from swegym.core.cache import cache_folder, locked
from swegym.core.errors import ConfigError

__all__ = ["Checkout", "clone", "is_repository", "tracked_files"]

CLONE_TIMEOUT_S = 600.0
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Checkout:
    """Files of one commit, without `.git`."""

    name: str
    folder: Path
    origin: str
    """`git:URL@COMMIT`, without a password."""
    version: str
    """From the nearest tag; "0.0.0" without one."""


def is_repository(source: str) -> bool:
    """Whether it is written as a repository: `git+...`, or a URL or path that ends in `.git`, with @REVISION or not."""
    return source.startswith("git+") or _split(source)[0].endswith(".git")


def _split(source: str) -> tuple[str, str]:
    """URL and revision ("": the default branch). An @ before the last slash belongs to the URL."""
    text = source.removeprefix("git+")
    head, slash, tail = text.rpartition("/")
    name, at, revision = tail.partition("@")
    return (head + slash + name, revision) if at else (text, "")


def clone(source: str) -> Checkout:
    """Fetch a repository and unpack one revision, once for every commit.

    Raises:
        ConfigError: no such repository or revision, or git is not installed.
    """
    url, revision = _split(source)
    if Path(url).is_dir():
        url = str(Path(url).resolve())
    name = re.sub(r"\.git$", "", url.rstrip("/").rpartition("/")[2]) or "repository"
    parent = cache_folder("sources")
    with tempfile.TemporaryDirectory(dir=parent, prefix=".cloning-") as temporary:
        work = Path(temporary, name)
        _git(None, "clone", "--quiet", "--no-checkout", "--", url, str(work), what=f"clone {_public(url)}")
        wanted = revision or "HEAD"
        found = ""
        for candidate in (f"origin/{wanted}", wanted):
            found = found or _answer(work, "rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}")
        if not found:
            raise ConfigError(f"{_public(url)} has no revision {wanted!r}")
        described = _answer(work, "describe", "--tags", "--abbrev=0", found)
        folder = parent / f"git-{name}-{found}"
        with locked(folder):
            if not folder.is_dir():
                # `git archive` would leave out what `export-ignore` names, and that is often the tests.
                _git(work, "checkout", "--quiet", "--detach", "--force", found, what=f"check out {wanted}")
                shutil.rmtree(work / ".git")
                work.rename(folder)
    return Checkout(name, folder, f"git:{_public(url)}@{found}", _version(described))


def tracked_files(folder: Path) -> frozenset[str] | None:
    """Files of a work tree that git tracks or would track, and their folders; None: it is none."""
    if not (folder / ".git").exists():
        return None
    listed = _answer(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = [name for name in listed.split("\0") if name]
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    return frozenset({*files, *folders}) if files else None


def _version(tag: str) -> str:
    match = re.search(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)?", tag)
    return match.group() if match else "0.0.0"


def _public(url: str) -> str:
    """Without the user's name and password; a path by its last part, as others have another one."""
    parts = urlsplit(url)
    if not parts.scheme or parts.scheme == "file":
        return url if parts.hostname else url.rstrip("/").rpartition("/")[2]
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def _run(folder: Path | None, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "safe.directory=*"]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    try:
        return subprocess.run(
            [*command, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"git {arguments[0]} took longer than {timeout_s:.0f} s") from None


def _git(folder: Path | None, *arguments: str, what: str) -> None:
    result = _run(folder, *arguments, timeout_s=CLONE_TIMEOUT_S)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise ConfigError(f"git could not {what}: {lines[-1] if lines else 'no message'}")


def _answer(folder: Path, *arguments: str) -> str:
    """What git prints; "" when it fails."""
    result = _run(folder, *arguments, timeout_s=COMMAND_TIMEOUT_S)
    return result.stdout.strip("\n") if result.returncode == 0 else ""
