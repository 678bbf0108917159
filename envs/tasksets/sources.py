"""Source trees to make tasks of: a folder, a git repository, or a package's sdist fetched by pip."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from swegym.core.cache import cache_folder, locked
from swegym.core.errors import ConfigError
from swegym.core.records import digest
from swegym.envs.tasksets.dependencies import parse_requirement, run_pip
from swegym.envs.tasksets.discover.declarations import read_pyproject
from swegym.envs.tasksets.git_source import clone, is_repository, tracked_files

__all__ = ["SourceTree", "fetch_sdist", "find_source", "root_test_files", "test_folders", "tree_digest"]

TEST_FOLDER_NAMES = ("tests", "test", "testing")


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A package's files, untouched."""

    name: str
    version: str
    folder: Path
    origin: str
    """For provenance: `pypi:boltons==26.2.0`, `git:URL@COMMIT` or `folder:NAME`."""
    license: str
    requires: tuple[str, ...] = ()
    """The package's own run-time requirements."""
    metadata: str = ""
    """Text of PKG-INFO or of a wheel's METADATA, "" if there is none."""
    files: frozenset[str] | None = None
    """Files and folders that belong to it; None: all."""
    generated: dict[str, bytes] = field(default_factory=dict)
    """Files that building made, such as `_version.py`, by path."""


def find_source(source: str) -> SourceTree:
    """A folder's path, a repository (`git+URL@REVISION`), or a requirement such as `boltons` or `boltons==26.2.0`.

    Of a folder that is a work tree of git, what git ignores is left out; what is not committed is part of it.

    Raises:
        ConfigError: none of these; or the tree has no tests.
    """
    if is_repository(source):
        checkout = clone(source)
        tree = _describe(checkout.folder, origin=checkout.origin, name=checkout.name, version=checkout.version)
    elif Path(source).is_dir():
        folder = Path(source).resolve()
        tree = replace(_describe(folder, origin=f"folder:{folder.name}"), files=tracked_files(folder))
    elif "/" in source:
        raise ConfigError(f"no folder {source}")
    else:
        tree = fetch_sdist(source)
    if not test_folders(tree.folder) and not root_test_files(tree.folder):
        raise ConfigError(f"{source}: the source holds no tests (no folder named {' or '.join(TEST_FOLDER_NAMES)})")
    return tree


def fetch_sdist(requirement: str, sha256: str = "") -> SourceTree:
    """Download and unpack a source distribution, once; nothing of it is installed.

    Args:
        requirement: such as `boltons==26.2.0`.
        sha256: hex digest that the archive must have; "" takes any.

    Raises:
        ConfigError: malformed, no such package or version, no sdist, another archive, or no network.
    """
    parsed: Requirement = parse_requirement(requirement)
    parts = (str(parsed), sha256) if sha256 else (str(parsed),)
    target = cache_folder("sources") / f"{parsed.name}-{digest(*parts)}"
    with locked(target):
        if not target.is_dir():
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetching-"))
            try:
                archive = _download(str(parsed), temporary / "archive")
                found = hashlib.sha256(archive.read_bytes()).hexdigest()
                if sha256 and found != sha256:
                    raise ConfigError(f"{requirement}: the sdist's sha256 is {found}, not {sha256}")
                _unpack(archive, temporary / "tree")
                (temporary / "tree").rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return _describe(_only_folder(target), origin="")


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += [
        "--retries",
        "1",
        "--timeout",
        "15",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        str(folder),
        requirement,
    ]
    run_pip(command, f"download the source of {requirement} (is the name right, and is there a network?)")
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise ConfigError(f"pip downloaded {len(archives)} files for {requirement}, not one source archive")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)  # zipfile drops `..` and leading slashes by itself
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise ConfigError(f"cannot unpack {archive.name}: {error}") from None


def _only_folder(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if entry.is_dir()]
    return entries[0] if len(entries) == 1 else folder


def _describe(folder: Path, *, origin: str, name: str = "", version: str = "") -> SourceTree:
    """What PKG-INFO says, else the static part of pyproject.toml. origin "": from an index."""
    path = folder / "PKG-INFO"
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    headers = HeaderParser().parsestr(text)
    project = {} if text else read_pyproject(folder).get("project", {})
    name = headers.get("Name") or project.get("name") or name or folder.name
    version = headers.get("Version") or project.get("version") or version
    stated = headers.get_all("Requires-Dist") or project.get("dependencies", [])
    requires = tuple(str(line) for line in stated if "extra ==" not in line)
    return SourceTree(
        name,
        version,
        folder,
        origin or f"pypi:{name}=={version}",
        _license(folder, [*headers.items(), *_stated_license(project)]),
        requires,
        text or _static_metadata(name, version),
    )


def _stated_license(project: dict[str, Any]) -> list[tuple[str, str]]:
    stated = project.get("license")
    return [("License-Expression", stated)] if isinstance(stated, str) else []


def _static_metadata(name: str, version: str) -> str:
    """For `importlib.metadata.version`; "" where there is no version to tell."""
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" if version else ""


def _license(folder: Path, headers: list[tuple[str, str]]) -> str:
    """The licence as the authors state it: expression, classifier, short field, or the file's first line."""
    fields = dict(headers)
    if expression := fields.get("License-Expression"):
        return expression
    classifiers = [value for key, value in headers if key == "Classifier" and value.startswith("License :: ")]
    if classifiers:
        return classifiers[0].rpartition(" :: ")[2]
    if (short := fields.get("License", "")) and "\n" not in short and len(short) < 60:
        return short
    for path in sorted(folder.iterdir()):
        if path.is_file() and re.match(r"(?i)(licen[cs]e|copying)", path.name):
            lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
            return f"see {path.name}: {lines[0][:80]}" if lines else f"see {path.name}"
    return "unknown"


def test_folders(folder: Path) -> tuple[str, ...]:
    """Test folders relative to the root: the outermost ones, sorted."""
    found = sorted(
        path.relative_to(folder).as_posix()
        for name in TEST_FOLDER_NAMES
        for path in folder.rglob(name)
        if path.is_dir() and any(path.rglob("*.py"))
    )
    return tuple(path for path in found if not any(path.startswith(other + "/") for other in found))


def root_test_files(folder: Path) -> tuple[str, ...]:
    """Test files beside the modules, for packages without a folder of tests."""
    named = [*folder.glob("test_*.py"), *folder.glob("*_test.py"), *(folder / name for name in ("tests.py", "test.py"))]
    return tuple(sorted(path.name for path in named if path.is_file()))


def tree_digest(folder: Path) -> str:
    """Hash of a tree's names and contents, without bytecode."""
    parts: list[bytes | str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".pyc", ".pyo"):
            parts += [path.relative_to(folder).as_posix(), path.read_bytes()]
    return digest(*parts)
