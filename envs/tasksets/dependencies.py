"""The packages that a task set's tests import, as one folder that goes on a sandbox's PYTHONPATH.

Made once per content in the user's cache. What the running interpreter has in a matching version is copied from it, so
a set that needs only pytest works without a network; anything else is installed by pip.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from swegym.core.cache import cache_folder, locked
from swegym.core.errors import ConfigError
from swegym.core.records import digest

__all__ = ["ensure_dependencies", "parse_requirement", "run_pip"]

PIP_TIMEOUT_S = 600.0

_made: dict[tuple[tuple[str, ...], str, tuple[tuple[str, int], ...]], Path] = {}
"""What this process has made or found: reading the metadata of the installed packages takes milliseconds."""


def ensure_dependencies(requirements: Iterable[str]) -> Path:
    """A folder that holds these packages and all that they need.

    Args:
        requirements: PEP 508 strings such as `pytest` or `pytest==9.2.0`.

    Returns:
        Absolute path, cached by the requirements, by the versions copied and by the Python version.

    Raises:
        ConfigError: a requirement is malformed, or pip cannot install it (no network, no such package).
    """
    wanted = tuple(sorted(set(requirements)))
    key = (wanted, str(cache_folder("dependencies")), _installation_state())
    if (known := _made.get(key)) is not None and known.is_dir():
        return known
    _made[key] = made = _ensure(wanted)
    return made


def _installation_state() -> tuple[tuple[str, int], ...]:
    """Changes whenever a package is installed, removed or replaced, since that changes the folder that it lies in."""
    folders = [path for path in map(Path, sys.path) if path.is_dir()]
    return tuple((str(path), path.stat().st_mtime_ns) for path in folders)


def _ensure(wanted: tuple[str, ...]) -> Path:
    installed = _installed_closure(wanted)
    versions = [f"{item.name}=={item.version}" for item in installed or ()]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = cache_folder("dependencies") / digest(python, *wanted, "installed", *sorted(versions))
    if target.is_dir():
        return target
    with locked(target):
        if target.is_dir():
            return target
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
        try:
            if installed is None:
                _pip_install(wanted, temporary)
            else:
                _copy_installed(installed, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


def _installed_closure(requirements: Iterable[str]) -> list[Distribution] | None:
    """Distributions of this interpreter for the requirements and all that they need; None if one is absent."""
    found: dict[str, Distribution] = {}
    queue = [parse_requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            item = distribution(requirement.name)
        except PackageNotFoundError:
            return None
        if requirement.url or requirement.extras or not item.files or _is_editable(item):
            return None
        if not requirement.specifier.contains(item.version, prereleases=True):
            return None
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = item
            queue.extend(parse_requirement(text) for text in item.requires or ())
    return list(found.values())


def parse_requirement(text: str) -> Requirement:
    """Raises ConfigError."""
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ConfigError(f"{text!r} is not a requirement: {str(error).splitlines()[0]}") from None


def _is_editable(item: Distribution) -> bool:
    return '"editable": true' in (item.read_text("direct_url.json") or "")


def _copy_installed(items: Iterable[Distribution], target: Path) -> None:
    for item in items:
        for file in item.files or ():
            if ".." in file.parts or file.is_absolute():
                continue  # scripts outside site-packages
            source = Path(str(file.locate()))
            if not source.is_file():
                continue  # RECORD lists bytecode of other interpreters too
            destination = target.joinpath(*file.parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)  # keeps times, so that the copied bytecode stays valid


def _pip_install(requirements: tuple[str, ...], target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--target", str(target), *requirements]
    run_pip(command, f"install {', '.join(requirements)}")


def run_pip(command: list[str], what: str) -> None:
    """Run pip; its last error line becomes the ConfigError."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"pip could not {what} within {PIP_TIMEOUT_S:.0f} s") from None
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no message"]
        raise ConfigError(f"pip could not {what}: {errors[-1].removeprefix('ERROR: ')}")
