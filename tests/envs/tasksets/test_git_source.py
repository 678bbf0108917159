"""Sources from git: clones by revision, work trees without what git ignores, versions that only a build knows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.core.sandbox import SandboxProvider
from swegym.envs.tasksets.git_source import is_repository
from swegym.envs.tasksets.sources import find_source
from swegym.envs.tasksets.staging import stage
from swegym.envs.tasksets.wheel_build import build_metadata, needs_build


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "toy"
    (folder / "tests").mkdir(parents=True)
    (folder / "toy.py").write_text("x = 1\n")
    (folder / "tests/test_toy.py").write_text("def test_a(): pass\n")
    (folder / ".gitattributes").write_text("tests export-ignore\n")
    (folder / ".gitignore").write_text("junk\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "v1.2.0")
    (folder / "toy.py").write_text("x = 2\n")
    git(folder, "commit", "-qam", "two")
    return folder


def test_head_tag_and_hash(repository: Path) -> None:
    head = find_source(f"git+{repository}")
    assert (head.name, head.version) == ("toy", "1.2.0")
    assert (head.folder / "toy.py").read_text() == "x = 2\n"
    assert head.origin == f"git:toy@{git(repository, 'rev-parse', 'HEAD')}"
    assert not (head.folder / ".git").exists()
    assert (head.folder / "tests/test_toy.py").is_file(), "export-ignore does not matter"
    tagged = find_source(f"git+file://{repository}@v1.2.0")
    assert (tagged.folder / "toy.py").read_text() == "x = 1\n"
    again = find_source(f"git+{repository}@{git(repository, 'rev-parse', 'v1.2.0')}")
    assert again.folder == tagged.folder


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("git+https://host/a/b", True),
        ("https://host/a/b.git", True),
        ("https://host/a/b.git@v1", True),
        ("git+ssh://git@host/a/b.git", True),
        ("boltons==1.0", False),
        ("./folder", False),
    ],
)
def test_what_is_a_repository(source: str, expected: bool) -> None:
    assert is_repository(source) == expected


def test_bad_repositories(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no revision 'v9'"):
        find_source(f"git+{repository}@v9")
    with pytest.raises(ConfigError, match="git could not clone nowhere"):
        find_source(f"git+{tmp_path}/nowhere")
    with pytest.raises(ConfigError, match="git could not clone"):
        find_source("git+--upload-pack=touch x")
    assert not list((tmp_path / "cache/swegym/sources").glob(".cloning-*"))


def test_work_tree_without_what_git_ignores(repository: Path, tmp_path: Path) -> None:
    (repository / "junk").write_text("secret")
    (repository / "new.py").write_text("y = 1\n")
    staged = stage(find_source(str(repository)), tmp_path / "out", ())
    assert not (staged.workspace / "junk").exists()
    assert not (staged.workspace / ".git").exists()
    assert (staged.workspace / "new.py").is_file(), "what is not committed yet is part of the folder"


SETUP = """
from setuptools import setup
import os
with open("toy_version.txt", "w") as stream:
    stream.write(os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"])
os.makedirs("pkg", exist_ok=True)
with open("pkg/_version.py", "w") as stream:
    stream.write("version = %r\\n" % os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"])
version = os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]
setup(name="toy-built", version=version, packages=["pkg"], install_requires=["six"])
"""


async def test_version_and_files_that_only_a_build_makes(
    repository: Path, provider: SandboxProvider, tmp_path: Path
) -> None:
    (repository / "pkg").mkdir()
    (repository / "pkg/__init__.py").write_text("from pkg._version import version\n")
    (repository / "setup.py").write_text(SETUP)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "three")
    tree = find_source(f"git+{repository}")
    assert needs_build(tree.folder)
    built = await build_metadata(tree, provider)
    assert (built.name, built.version, built.requires) == ("toy-built", "1.2.0", ("six",))
    assert built.generated == {"pkg/_version.py": b"version = '1.2.0'\n"}
    assert not (tree.folder / "pkg/_version.py").exists(), "the source is not touched"


async def test_build_that_fails_and_compiled_parts(repository: Path, provider: SandboxProvider) -> None:
    (repository / "setup.py").write_text("raise SystemExit('no such thing')\n")
    with pytest.raises(ConfigError, match=r"toy cannot be built with setuptools.*no such thing"):
        await build_metadata(find_source(str(repository)), provider)
    (repository / "setup.py").write_text(
        "from setuptools import setup, Distribution\n"
        "class D(Distribution):\n    def has_ext_modules(self):\n        return True\n"
        "setup(name='toy', version='1', py_modules=['toy'], distclass=D)\n"
    )
    with pytest.raises(ConfigError, match="compiled parts"):
        await build_metadata(find_source(str(repository)), provider)
