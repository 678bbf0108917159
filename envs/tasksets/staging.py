"""From a source tree to the folders that a sandbox mounts: a clean workspace and the dependencies."""

from __future__ import annotations

import compileall
import shutil
from dataclasses import dataclass
from pathlib import Path

from swegym.core.errors import ConfigError
from swegym.core.records import digest
from swegym.core.sandbox import SandboxSpec
from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.sources import SourceTree, test_folders

__all__ = ["Staged", "stage"]

WORKDIR = "/testbed"
DEPENDENCIES_PATH = "/opt/swegym/dependencies"
IGNORED = (".git", ".hg", ".svn", ".github", "__pycache__", "*.py[co]", "*.egg-info", "build", "dist", ".tox", ".venv")
CONFIG_FILES = ("conftest.py", "pytest.ini", "pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Staged:
    """Folders made ready, and what every sandbox over them has in common."""

    source: SourceTree
    folder: Path
    image: str
    """Content-addressed name."""
    test_paths: tuple[str, ...]
    requirements: tuple[str, ...]
    environment: dict[str, str]

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def protected_paths(self) -> tuple[str, ...]:
        return (*self.test_paths, *CONFIG_FILES)

    def spec(self, dependencies: Path | None = None, **environment: str) -> SandboxSpec:
        """Sandbox of the sound tree."""
        return SandboxSpec(
            image=self.image if dependencies is None else f"{self.image}-build",
            workspace=str(self.workspace),
            dependencies=str(dependencies or self.folder / "dependencies"),
            workdir=WORKDIR,
            environment={"PYTHONDONTWRITEBYTECODE": "1", **self.environment, **environment},
        )


def stage(source: SourceTree, folder: Path, requirements: tuple[str, ...]) -> Staged:
    """Copy the source to folder/workspace and its requirements to folder/dependencies; what is there is kept.

    Both are compiled: a grade starts in a fresh sandbox, so it would compile everything again each time.

    Raises:
        ConfigError: a requirement cannot be had, or the folder holds tasks of something else.
    """
    needed = tuple(dict.fromkeys(("pytest", *source.requires, *requirements)))
    _claim(folder, f"{source.origin} {tree_digest(source.folder)} {' '.join(needed)}")
    workspace, dependencies = folder / "workspace", folder / "dependencies"
    if not workspace.is_dir():
        making = folder / ".workspace"
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(source.folder, making, symlinks=True, ignore=shutil.ignore_patterns(*IGNORED))
        compileall.compile_dir(making, quiet=2, stripdir=str(making), prependdir=WORKDIR)
        making.rename(workspace)
    if not dependencies.is_dir():
        making = folder / ".dependencies"
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(ensure_dependencies(needed), making)
        _write_metadata(source, making)
        making.rename(dependencies)
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    if (workspace / "src").is_dir():
        environment["PYTHONPATH"] = f"{WORKDIR}/src:{DEPENDENCIES_PATH}"
    return Staged(
        source=source,
        folder=folder,
        image=f"swegym/{source.name.lower()}:{tree_digest(workspace)}",
        test_paths=test_folders(workspace) or tuple(sorted(path.name for path in workspace.glob("test_*.py"))),
        requirements=needed,
        environment=environment,
    )


def _claim(folder: Path, content: str) -> None:
    """A folder is for one source and its requirements: another build must not go on with these files."""
    marker = folder / "build" / "source.txt"
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(content, "utf-8")
    elif (held := marker.read_text("utf-8")) != content:
        raise ConfigError(f"{folder} holds tasks of {held}, not of {content}; choose another folder or remove it")


def _write_metadata(source: SourceTree, dependencies: Path) -> None:
    """Let `importlib.metadata` find a package that runs from its source tree."""
    if source.metadata:
        folder = dependencies / f"{source.name.replace('-', '_')}-{source.version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(source.metadata, "utf-8")


def tree_digest(folder: Path) -> str:
    """Hash of a tree's names and contents, without bytecode."""
    parts: list[bytes | str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".pyc", ".pyo"):
            parts += [path.relative_to(folder).as_posix(), path.read_bytes()]
    return digest(*parts)
