"""What a task set's tests import is looked up once, and again when the installed packages change."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from swegym.envs.tasksets import dependencies as module
from swegym.envs.tasksets import ensure_dependencies


def test_the_installed_packages_are_read_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    site = tmp_path / "site"
    package = site / "tinydep"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VERSION = 1\n")
    info = site / "tinydep-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinydep\nVersion: 1\n")
    (info / "RECORD").write_text("tinydep/__init__.py,,\ntinydep-1.dist-info/METADATA,,\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    reads: list[tuple[str, ...]] = []
    original = module._installed_closure

    def counted(requirements: tuple[str, ...]) -> object:
        reads.append(requirements)
        return original(requirements)

    monkeypatch.setattr(module, "_installed_closure", counted)
    first = ensure_dependencies(["tinydep"])
    assert ensure_dependencies(("tinydep", "tinydep")) == first
    assert len(reads) == 1
    assert (first / "tinydep" / "__init__.py").read_text() == "VERSION = 1\n"

    (package / "__init__.py").write_text("VERSION = 2\n")
    info.rename(site / "tinydep-2.dist-info")
    info = site / "tinydep-2.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinydep\nVersion: 2\n")
    (info / "RECORD").write_text("tinydep/__init__.py,,\ntinydep-2.dist-info/METADATA,,\n")
    os.utime(site, ns=(1, site.stat().st_mtime_ns + 10**9))  # file systems with coarse times exist
    second = ensure_dependencies(["tinydep"])
    assert second != first
    assert (second / "tinydep" / "__init__.py").read_text() == "VERSION = 2\n"

    shutil.rmtree(second)
    assert ensure_dependencies(["tinydep"]) == second
    assert second.is_dir()
