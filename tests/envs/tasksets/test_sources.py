"""Fetching sources through pip, from a local index of our own, and making dependencies without a network."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.envs.tasksets import ensure_dependencies
from swegym.envs.tasksets.sources import find_source

BACKEND = """
import os
METADATA = "Metadata-Version: 2.1\\nName: toy\\nVersion: 1.5\\n"

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    path = os.path.join(folder, "toy-1.5.dist-info")
    os.makedirs(path)
    for name, text in (("METADATA", METADATA), ("WHEEL", "Wheel-Version: 1.0\\n")):
        with open(os.path.join(path, name), "w") as stream:
            stream.write(text)
    return "toy-1.5.dist-info"

def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise RuntimeError("a source is only fetched, never built")
"""


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees one folder and no network; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def add_sdist(index: Path, files: dict[str, str]) -> None:
    pyproject = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    info = (
        "Metadata-Version: 2.1\nName: toy\nVersion: 1.5\nRequires-Dist: iniconfig\nRequires-Dist: numpy; extra == 'x'\n"
    )
    with tarfile.open(index / "toy-1.5.tar.gz", "w:gz") as archive:
        for name, text in {"pyproject.toml": pyproject, "backend.py": BACKEND, "PKG-INFO": info, **files}.items():
            member = tarfile.TarInfo(f"toy-1.5/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def test_sdist_is_fetched_once_and_not_built(index: Path) -> None:
    add_sdist(index, {"toy.py": "x = 1\n", "tests/test_toy.py": "def test_a(): pass\n", "LICENSE": "The Toy Licence\n"})
    tree = find_source("toy")
    assert (tree.name, tree.version, tree.origin) == ("toy", "1.5", "pypi:toy==1.5")
    assert tree.license == "see LICENSE: The Toy Licence"
    assert tree.requires == ("iniconfig",)
    assert (tree.folder / "tests/test_toy.py").is_file()
    (index / "toy-1.5.tar.gz").unlink()
    assert find_source("toy") == tree


def test_package_without_tests(index: Path) -> None:
    add_sdist(index, {"toy.py": "x = 1\n"})
    with pytest.raises(ConfigError, match="toy: the source holds no tests"):
        find_source("toy")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("toy", "pip could not download the source of toy .*is there a network"),
        ("toy==9", "toy==9"),
        ("two words", "is not a requirement"),
        ("./nowhere/toy", "no folder"),
    ],
)
def test_bad_sources(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find_source(source)
    assert "\n" not in str(caught.value)


def test_archive_that_is_none(index: Path) -> None:
    add_sdist(index, {})
    data = (index / "toy-1.5.tar.gz").read_bytes()
    (index / "toy-1.5.tar.gz").write_bytes(data[:100])
    with pytest.raises(ConfigError):
        find_source("toy")
    assert not list((index.parent / "cache/swegym/sources").glob("toy-*/*"))


def test_pytest_comes_from_this_interpreter_without_a_network(index: Path) -> None:
    folder = ensure_dependencies(["pytest"])
    assert folder == ensure_dependencies(("pytest",))
    code = "import pytest, sys; print(pytest.__file__); sys.exit(pytest.main(['--version']))"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith(str(folder))
    assert not list(folder.parent.glob(".making-*"))


def test_requirements_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="pip could not install no-such-package-of-ours"):
        ensure_dependencies(["no-such-package-of-ours==1"])
    with pytest.raises(ConfigError, match="not a requirement"):
        ensure_dependencies(["!!"])
