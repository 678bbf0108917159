"""From a source tree to the folders that a sandbox mounts: a clean workspace and the dependencies."""

from __future__ import annotations

import compileall
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from swegym.core.errors import ConfigError
from swegym.core.records import digest
from swegym.core.sandbox import SandboxSpec
from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.recipe import Recipe
from swegym.envs.tasksets.sources import SourceTree, root_test_files, test_folders, tree_digest

__all__ = ["Staged", "stage"]

WORKDIR = "/testbed"
DEPENDENCIES_PATH = "/opt/swegym/dependencies"
PYTEST_NEEDS = frozenset(("pytest", "pluggy", "iniconfig", "packaging", "pygments", "coverage"))
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
    test_command: str = "python -m pytest -o addopts="
    excluded: tuple[str, ...] = ()
    """Folders and files that are not mutated."""

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


def stage(source: SourceTree, folder: Path, requirements: tuple[str, ...], recipe: Recipe | None = None) -> Staged:
    """Copy the source to folder/workspace and its requirements to folder/dependencies; what is there is kept.

    Both are compiled: a grade starts in a fresh sandbox, so it would compile everything again each time.

    Args:
        source: the package.
        folder: becomes the task set.
        requirements: what the tests need besides pytest and the package's own requirements; not read with a recipe.
        recipe: how it is installed and tested; None: pytest, and tests where their folders' names say.

    Raises:
        ConfigError: a requirement cannot be had, or the folder holds tasks of something else.
    """
    needed = recipe.requirements if recipe else tuple(dict.fromkeys(("pytest", *source.requires, *requirements)))
    detail = [digest(recipe.model_dump_json(exclude={"found"}))] if recipe else []
    _claim(folder, f"{source.origin} {tree_digest(source.folder)}", " ".join((*needed, *detail)))
    workspace, dependencies = folder / "workspace", folder / "dependencies"
    if not workspace.is_dir():
        making = folder / ".workspace"
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(source.folder, making, symlinks=True, ignore=_ignored(source))
        for name, data in source.generated.items():
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            (making / name).write_bytes(data)
        compileall.compile_dir(making, quiet=2, stripdir=str(making), prependdir=WORKDIR)
        making.rename(workspace)
    if not dependencies.is_dir():
        making = folder / ".dependencies"
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(ensure_dependencies(needed), making)
        _remove_own(source, making)
        _write_metadata(source, making)
        making.rename(dependencies)
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    python_path = recipe.python_path if recipe else (("src",) if (workspace / "src").is_dir() else ())
    if python_path:
        environment["PYTHONPATH"] = ":".join([*(f"{WORKDIR}/{name}" for name in python_path), DEPENDENCIES_PATH])
    if recipe:
        _check_paths(recipe, workspace)
        environment |= recipe.environment
    arguments = shlex.join(recipe.pytest_arguments) if recipe else "-o addopts="
    return Staged(
        source=source,
        folder=folder,
        image=f"swegym/{source.name.lower()}:{tree_digest(workspace)}",
        test_paths=recipe.test_paths if recipe else test_folders(workspace) or root_test_files(workspace),
        requirements=needed,
        environment=environment,
        test_command=f"python -m pytest {arguments}".rstrip(),
        excluded=recipe.excluded if recipe else (),
    )


def _ignored(source: SourceTree) -> Callable[[str, list[str]], set[str]]:
    """Rubbish by its name, and in a work tree of git what git ignores."""
    by_name = shutil.ignore_patterns(*IGNORED)
    kept = source.files

    def ignore(folder: str, names: list[str]) -> set[str]:
        ignored = set(by_name(folder, names))
        if kept is not None:
            inside = Path(folder).relative_to(source.folder)
            ignored |= {name for name in names if (inside / name).as_posix() not in kept}
        return ignored

    return ignore


def _check_paths(recipe: Recipe, workspace: Path) -> None:
    for name in (*recipe.test_paths, *recipe.python_path):
        if not (workspace / name).exists() or not (workspace / name).resolve().is_relative_to(workspace.resolve()):
            raise ConfigError(f"recipe: {name!r} is not a path of the source")


def _claim(folder: Path, content: str, needs: str) -> None:
    """A folder is for one source and its requirements: another build must not go on with these files.

    While it is no task set yet, other requirements are tried in it: that is how a recipe is mended.
    """
    marker = folder / "build" / "source.txt"
    claim = f"{content} {needs}"
    if marker.exists() and (held := marker.read_text("utf-8")) != claim:
        if not held.startswith(f"{content} ") or (folder / "manifest.json").exists():
            raise ConfigError(f"{folder} holds tasks of {held}, not of {claim}; choose another folder or remove it")
        for name in ("build", "workspace", "dependencies"):
            shutil.rmtree(folder / name, ignore_errors=True)
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(claim, "utf-8")


def _remove_own(source: SourceTree, dependencies: Path) -> None:
    """A requirement may bring the package itself: the agent would find the sound code there, and the tests import it.

    Raises:
        ConfigError: pytest needs it, so that it cannot be taken away.
    """
    for info in dependencies.glob("*.dist-info"):
        name = info.name.removesuffix(".dist-info").rpartition("-")[0]
        if canonicalize_name(name) != canonicalize_name(source.name):
            continue
        if canonicalize_name(name) in PYTEST_NEEDS:
            raise ConfigError(f"{source.name} is a part of pytest itself: a broken one could not be tested with it")
        for line in (info / "RECORD").read_text("utf-8", "replace").splitlines():
            path = dependencies / line.split(",")[0].strip('"')
            if path.resolve().is_relative_to(dependencies.resolve()):
                path.unlink(missing_ok=True)
        for folder in sorted((path for path in dependencies.rglob("*") if path.is_dir()), reverse=True):
            if not any(folder.iterdir()) or [path.name for path in folder.iterdir()] == ["__pycache__"]:
                shutil.rmtree(folder)


def _write_metadata(source: SourceTree, dependencies: Path) -> None:
    """Let `importlib.metadata` find a package that runs from its source tree."""
    if source.metadata:
        folder = dependencies / f"{source.name.replace('-', '_')}-{source.version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(source.metadata, "utf-8")
