"""Metadata and generated files of a package whose files do not state them: its wheel is built, in a sandbox.

Needed for packages whose version comes from git (setuptools_scm and its like write `_version.py` when they are built).
The build is foreign code: it runs without a network, with its build requirements mounted.
"""

from __future__ import annotations

import asyncio
import io
import json
import shlex
import zipfile
from dataclasses import replace
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement

from swegym.core.errors import ConfigError
from swegym.core.sandbox import SandboxProvider, SandboxSpec
from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.discover.declarations import read_pyproject
from swegym.envs.tasksets.sources import SourceTree, tree_digest

__all__ = ["build_metadata", "needs_build"]

BUILD_TIMEOUT_S = 300.0
WORKDIR = "/testbed"
OUT = "/tmp/swegym-wheel"
SCRIPT = f"""
import importlib, json, os, sys
sys.path[:0] = json.loads(sys.argv[2])
name, _, attributes = sys.argv[1].partition(":")
backend = importlib.import_module(name)
for attribute in filter(None, attributes.split(".")):
    backend = getattr(backend, attribute)
os.makedirs("{OUT}")
built = backend.build_wheel("{OUT}")
os.rename(os.path.join("{OUT}", built), "{OUT}/built.whl")
"""


def needs_build(folder: Path) -> bool:
    """Whether name, version or requirements are only known when the package is built."""
    if (folder / "PKG-INFO").is_file():
        return False
    project = read_pyproject(folder).get("project")
    if project is None:
        return (folder / "setup.py").is_file() or (folder / "setup.cfg").is_file()
    return "version" in project.get("dynamic", ())


async def build_metadata(tree: SourceTree, provider: SandboxProvider) -> SourceTree:
    """The tree with the metadata of its wheel, and with the files that only the wheel has.

    Raises:
        ConfigError: it cannot be built, or has compiled parts.
    """
    system = read_pyproject(tree.folder).get("build-system", {})
    backend = str(system.get("build-backend", "setuptools.build_meta:__legacy__"))
    requires = [str(item) for item in system.get("requires", ("setuptools", "wheel"))]
    dependencies = await asyncio.to_thread(ensure_dependencies, requires)
    version = tree.version or "0.0.0"
    spec = SandboxSpec(
        image=f"swegym/{tree.name.lower()}:{tree_digest(tree.folder)}-wheel",
        workspace=str(tree.folder),
        dependencies=str(dependencies),
        workdir=WORKDIR,
        environment={
            "SETUPTOOLS_SCM_PRETEND_VERSION": version,
            "PBR_VERSION": version,
            "PDM_BUILD_SCM_VERSION": version,
            "POETRY_DYNAMIC_VERSIONING_BYPASS": version,
            "VERSIONEER_OVERRIDE": version,
        },
    )
    paths = [f"{WORKDIR}/{name}" for name in system.get("backend-path", ())] or [WORKDIR]
    sandbox = await provider.create(spec)
    try:
        await sandbox.write_file("/tmp/swegym-build.py", SCRIPT.encode())
        command = shlex.join(["python3", "/tmp/swegym-build.py", backend, json.dumps(paths)])
        result = await sandbox.run(f"cd {WORKDIR} && {command}", timeout_s=BUILD_TIMEOUT_S)
        if result.exit_code != 0:
            lines = [line for line in result.text.splitlines() if line.strip()] or ["no message"]
            raise ConfigError(f"{tree.name} cannot be built with {backend}: {lines[-1].strip()}")
        data = await sandbox.read_file(f"{OUT}/built.whl")
    finally:
        await sandbox.close()
    return _with_wheel(tree, data)


def _with_wheel(tree: SourceTree, data: bytes) -> SourceTree:
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        names = [PurePosixPath(name) for name in wheel.namelist() if not name.endswith("/")]
        info = next(name.parent for name in names if name.name == "WHEEL" and name.parent.suffix == ".dist-info")
        if "root-is-purelib: false" in wheel.read(str(info / "WHEEL")).decode("utf-8", "replace").lower():
            raise ConfigError(f"{tree.name} has compiled parts, which this builder does not build")
        metadata = wheel.read(str(info / "METADATA")).decode("utf-8", "replace")
        generated: dict[str, bytes] = {}
        for name in names:
            place = None if name.parts[0].endswith((".dist-info", ".data")) else _place(tree.folder, name)
            if place is not None:
                generated[place] = wheel.read(str(name))
    headers: Any = HeaderParser().parsestr(metadata)
    requires = tuple(
        text for text in headers.get_all("Requires-Dist", []) if "extra ==" not in text and Requirement(text)
    )
    return replace(
        tree,
        name=headers.get("Name", tree.name),
        version=headers.get("Version", tree.version),
        requires=requires,
        metadata=metadata,
        generated=generated,
    )


def _place(folder: Path, name: PurePosixPath) -> str | None:
    """Where a file of the wheel that the source lacks belongs; None: the source has it, or has no such package."""
    for root in ("", "src", "lib"):
        if (folder / root / name).exists():
            return None
    for root in ("", "src", "lib"):
        if len(name.parts) > 1 and (folder / root / name.parts[0]).is_dir():
            return (PurePosixPath(root) / name).as_posix()
    return None
