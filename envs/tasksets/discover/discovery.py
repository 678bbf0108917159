"""From a package's declarations to a recipe: what to install, where the tests are, how pytest is called."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from swegym.envs.tasksets.discover.declarations import Declaration, declarations, pytest_commands, read_pyproject
from swegym.envs.tasksets.discover.names import IMPORT_NAMES, NOT_FOR_TESTS, PLUGINS
from swegym.envs.tasksets.recipe import Recipe
from swegym.envs.tasksets.sources import root_test_files, test_folders

__all__ = ["discover_recipe", "find_test_paths", "why_not_buildable"]

NOT_TESTED = frozenset(
    ("docs", "doc", "examples", "example", "benchmarks", "benchmark", "scripts", "tools", "setup.py")
)
BUILD_BACKENDS = {"maturin": "Rust", "mesonpy": "Meson", "scikit_build_core.build": "CMake", "skbuild": "CMake"}


def why_not_buildable(folder: Path) -> str:
    """Why a package cannot be tested from its source tree; "" when it can, as far as its files tell."""
    backend = str(read_pyproject(folder).get("build-system", {}).get("build-backend", ""))
    for name, language in BUILD_BACKENDS.items():
        if backend == name:
            return f"its build backend {backend} compiles {language} extensions, which this builder does not"
    sources = [path for pattern in ("*.pyx", "*.pyd", "*.so", "*.rs") for path in folder.rglob(pattern)]
    return (
        f"it has compiled parts ({sources[0].relative_to(folder)}), which this builder does not build"
        if sources
        else ""
    )


def discover_recipe(folder: Path, *, extra_requirements: tuple[str, ...] = (), runtime: tuple[str, ...] = ()) -> Recipe:
    """A recipe for a source folder.

    Taken are the run-time requirements, what groups for tests name, and of all other groups what the tests or the
    package import; tools that are not for tests are left out.

    Args:
        folder: the source.
        extra_requirements: asked for by the user.
        runtime: requirements of the built package, where the files do not say.
    """
    tests = find_test_paths(folder)
    imported = _imported(folder)
    wanted: dict[str, tuple[str, str]] = {}

    def take(requirement: str, where: str) -> None:
        parsed = Requirement(requirement)
        if parsed.marker is None or parsed.marker.evaluate({"extra": ""}):
            wanted.setdefault(canonicalize_name(parsed.name), (requirement, where))

    for requirement in extra_requirements:
        take(requirement, "--requirement")
    take("pytest", "needed to run the tests")
    declared = declarations(folder)
    for requirement in runtime:
        take(requirement, "the built package's metadata")
    for role in ("run", "test", "dev", "extra"):
        for item in declared:
            if item.role == role and _is_needed(item, imported):
                take(item.requirement, item.where)
    for name in sorted(_imported(folder, tests) & set(IMPORT_NAMES.values())):
        # Undeclared. Only what is known by this name: an import alone is no reason to install whatever is called so.
        take(name, "imported by the tests")
    python_path, roots = _python_path(folder), _top_level(folder)
    own = {canonicalize_name(folder.name)} | {canonicalize_name(name) for name in roots}
    kept = {name: value for name, value in wanted.items() if name not in own or value[1] == "--requirement"}
    arguments = ["-o", "addopts=", *_plugin_arguments(kept)]
    return Recipe(
        requirements=tuple(requirement for requirement, _ in kept.values()),
        test_paths=tests or (".",),
        pytest_arguments=tuple(arguments),
        python_path=python_path,
        found=dict(kept.values()),
    )


def _is_needed(item: Declaration, imported: set[str]) -> bool:
    name = canonicalize_name(Requirement(item.requirement).name)
    if item.role == "run":
        return True
    if name in NOT_FOR_TESTS and name not in imported:
        return False
    return item.role == "test" or name in imported or name in PLUGINS


def _plugin_arguments(wanted: dict[str, tuple[str, str]]) -> Iterator[str]:
    for name in wanted:
        if name in PLUGINS:
            yield from ("-p", PLUGINS[name])


def find_test_paths(folder: Path) -> tuple[str, ...]:
    """Where pytest's configuration says that the tests are, else folders named so, else what tox and CI run."""
    options = read_pyproject(folder).get("tool", {}).get("pytest", {}).get("ini_options", {})
    declared = options.get("testpaths", [])
    stated = declared.split() if isinstance(declared, str) else [str(item) for item in declared]
    if found := tuple(path for path in dict.fromkeys(stated) if _holds_tests(folder, path)):
        return found
    if found := test_folders(folder):
        return found
    words = [item for _, arguments in pytest_commands(folder) for item in arguments]
    called = dict.fromkeys(item.split("::")[0].rstrip("/") for item in words)
    if found := tuple(path for path in called if _holds_tests(folder, path)):
        return found
    return root_test_files(folder)


def _holds_tests(folder: Path, name: str) -> bool:
    """Whether it is a path inside the folder that pytest would find a test file at."""
    path = folder / name
    if name in ("", ".", "src") or name.startswith(("/", "..", "-")) or not path.exists():
        return False
    return path.suffix == ".py" if path.is_file() else any([*path.rglob("test_*.py"), *path.rglob("*_test.py")])


def _python_path(folder: Path) -> tuple[str, ...]:
    """Folders of packages that do not lie in the root."""
    project = read_pyproject(folder)
    where = project.get("tool", {}).get("setuptools", {}).get("packages", {})
    stated = where.get("find", {}).get("where", []) if isinstance(where, dict) else []
    candidates = dict.fromkeys([*(str(item) for item in stated), "src", "lib"])
    return tuple(name for name in candidates if name != "." and _has_package(folder / name))


def _has_package(folder: Path) -> bool:
    return folder.is_dir() and (any(folder.glob("*/__init__.py")) or any(folder.glob("*.py")))


def _top_level(folder: Path) -> set[str]:
    """Names that the package's own modules can be imported by."""
    names: set[str] = set()
    for root in (folder, *(folder / name for name in _python_path(folder))):
        names |= {path.parent.name for path in root.glob("*/__init__.py")} | {path.stem for path in root.glob("*.py")}
    return names


def _imported(folder: Path, paths: Iterable[str] = (".",)) -> set[str]:
    """Distributions that files import and that are neither Python's nor the package's own; docs do not count."""
    names: set[str] = set()
    starts = [folder / path for path in paths]
    files = [path for start in starts for path in ([start] if start.is_file() else sorted(start.rglob("*.py")))]
    for path in files:
        if NOT_TESTED & set(path.relative_to(folder).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # templates and files for other Pythons
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    foreign = names - set(sys.stdlib_module_names) - _top_level(folder)
    return {str(canonicalize_name(IMPORT_NAMES.get(name, re.sub("_", "-", name)))) for name in foreign}
