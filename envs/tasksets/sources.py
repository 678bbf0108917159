"""Source trees to make tasks of: a folder, or a package's sdist fetched by pip."""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement

from swegym.core.errors import ConfigError
from swegym.core.records import digest
from swegym.envs.tasksets.dependencies import cache_folder, locked, parse_requirement, run_pip

__all__ = ["SourceTree", "fetch_sdist", "find_source", "test_folders"]

TEST_FOLDER_NAMES = ("tests", "test", "testing")


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A package's files, untouched."""

    name: str
    version: str
    folder: Path
    origin: str
    """For provenance: `pypi:boltons==26.2.0` or `folder:NAME`."""
    license: str
    requires: tuple[str, ...] = ()
    """The package's own run-time requirements."""
    metadata: str = ""
    """Text of PKG-INFO, "" if there is none."""


def find_source(source: str) -> SourceTree:
    """A folder's path, or a requirement such as `boltons` or `boltons==26.2.0`.

    Raises:
        ConfigError: neither; or the tree has no tests.
    """
    if Path(source).is_dir():
        tree = _describe(Path(source).resolve(), origin="")
    elif "/" in source:
        raise ConfigError(f"no folder {source}")
    else:
        tree = fetch_sdist(source)
    if not test_folders(tree.folder) and not any(tree.folder.glob("test_*.py")):
        raise ConfigError(f"{source}: the source holds no tests (no folder named {' or '.join(TEST_FOLDER_NAMES)})")
    return tree


def fetch_sdist(requirement: str) -> SourceTree:
    """Download and unpack a source distribution, once; nothing of it is installed.

    Raises:
        ConfigError: malformed, no such package or version, no sdist, or no network.
    """
    parsed: Requirement = parse_requirement(requirement)
    target = cache_folder("sources") / f"{parsed.name}-{digest(str(parsed))}"
    with locked(target):
        if not target.is_dir():
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetching-"))
            try:
                _unpack(_download(str(parsed), temporary / "archive"), temporary / "tree")
                (temporary / "tree").rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return _describe(_only_folder(target), origin="pypi")


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


def _describe(folder: Path, *, origin: str) -> SourceTree:
    path = folder / "PKG-INFO"
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    headers = HeaderParser().parsestr(text)
    name, version = headers.get("Name", folder.name), headers.get("Version", "")
    requires = tuple(line for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line)
    pinned = f"pypi:{name}=={version}" if origin == "pypi" else f"folder:{folder.name}"
    return SourceTree(name, version, folder, pinned, _license(folder, headers.items()), requires, text)


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
