"""`swegym images` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import docker

Swegym = Callable[..., subprocess.CompletedProcess[str]]
BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to build in; its images are removed after the test, and its records are the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "images-cli"
    folder.mkdir()
    (folder / "stamp").write_text(str(time.time_ns()))
    (folder / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nCOPY stamp /\nARG WORD\nLABEL word=$WORD\n")
    yield folder
    with docker.APIClient() as client:
        for image in client.images("swegym/images-cli"):
            for name in image["RepoTags"]:
                client.remove_image(name, force=True)


def only_line(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("swegym: ")
    return lines[0]


@pytest.mark.docker
def test_build_list_and_prune(swegym: Swegym, context: Path) -> None:
    arguments = ("images", "build", context, "--arg", "WORD=a=b", "--tag", "swegym/images-cli:mine")
    done = swegym(*arguments)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert name.startswith("swegym/images-cli:")
    assert f"FROM {BASE_IMAGE}" in done.stderr
    again = swegym(*arguments)
    assert again.stdout == done.stdout
    assert again.stderr == ""  # nothing to build
    listed = [json.loads(line) for line in swegym("images", "ls", "--json").stdout.splitlines()]
    (record,) = (item for item in listed if item["names"][0] == name)
    assert record["names"] == [name, "swegym/images-cli:mine"]
    assert record["size_bytes"] > 1e6
    assert time.time() - record["last_used"] < 120
    assert not record["in_use"]
    assert name in swegym("images", "ls").stdout
    assert "removed 0 images" in swegym("images", "prune", "swegym/images-cli:*").stdout
    spared = swegym("images", "prune", name, "--days", "0", "--dry-run").stdout
    assert spared == f"{name}\nwould remove 1 images\n"
    assert swegym("images", "prune", name, "--days", "0").stdout == f"{name}\nremoved 1 images\n"
    assert name not in swegym("images", "ls").stdout


@pytest.mark.docker
def test_an_image_built_so_can_be_the_base_image(swegym: Swegym, context: Path) -> None:
    name = swegym("images", "build", context, "--quiet").stdout.strip()
    done = swegym(
        *("eval", "--taskset", "tiny", "--policy", "oracle", "--num-tasks", "1", "--sandbox", "docker"),
        *("--base-image", name),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.docker
def test_failing_build_is_one_line_with_the_log(swegym: Swegym, context: Path) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN echo what happened; exit 7\n")
    line = only_line(swegym("images", "build", context, "--no-network", "--quiet"))
    assert "what happened" in line
    log = Path(line.rpartition("log: ")[2])
    assert "what happened" in log.read_text()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to build"),
        (("nowhere",), "no folder nowhere"),
        (("empty",), "no Dockerfile empty/Dockerfile"),
        (("empty", "--file", "absent"), "no Dockerfile absent"),
        (("empty", "--file", "unknown_base"), "image 'no-such-image-anywhere:1' is not here and cannot be pulled"),
        (("empty", "--file", "unknown_base", "--arg", "=x"), "'=x' is not of the form NAME=VALUE"),
        (("empty", "--file", "no_from"), "the Dockerfile has no FROM line"),
        (("empty", "--file", "unknown_base", "--tag", "Bad Name"), "'Bad Name' cannot be an image's name"),
        (("--rootfs", "absent.tar"), "no root file system absent.tar"),
        (("--rootfs", "text.tar"), "text.tar is not a readable tar archive"),
        (("--rootfs", "wrapped.tar"), "holds no bin/bash at its top"),
        (("--rootfs", "empty"), "holds no bin/bash"),
        (("empty", "--rootfs", "text.tar"), "--rootfs stands alone"),
    ],
)
def test_mistakes(swegym: Swegym, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unknown_base").write_text("FROM no-such-image-anywhere:1\n")
    (tmp_path / "no_from").write_text("RUN true\n")
    (tmp_path / "text.tar").write_text("not a tarball" * 100)
    with tarfile.open(tmp_path / "wrapped.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("root/bin/bash"))
    assert message in only_line(swegym("images", "build", *arguments))


def test_no_engine(swegym: Swegym, no_engine: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    for command in (("ls",), ("prune",), ("base",), ("build", ".")):
        assert "no container engine answers at unix:///nowhere" in only_line(swegym("images", *command, env=no_engine))


@pytest.mark.docker
def test_base_is_made_once(swegym: Swegym, tmp_path: Path) -> None:
    done = swegym("images", "base", "--tag", BASE_IMAGE)
    assert (done.stdout, done.stderr, done.returncode) == (f"{BASE_IMAGE}\n", "", 0)


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap")
def test_base_of_an_unknown_release(swegym: Swegym, tmp_path: Path) -> None:
    done = swegym("images", "base", "--suite", "nosuchrelease", "--quiet", env={"XDG_CACHE_HOME": str(tmp_path)})
    line = only_line(done)
    assert "debootstrap of nosuchrelease failed" in line
    assert "log: " in line


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap")
def test_base_from_a_mirror(swegym: Swegym, context: Path) -> None:
    """Takes a minute and a Debian mirror."""
    name = "swegym/images-cli:base"
    done = swegym("images", "base", "--package", "tree", "--tag", name)
    assert done.returncode == 0, done.stderr
    command = [
        "docker",
        "run",
        "--rm",
        "--network=none",
        name,
        "bash",
        "-c",
        "tree --version; python -m pytest --version",
    ]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    assert swegym("images", "base", "--package", "tree", "--tag", name).stderr == ""
    assert "was made from something else" in only_line(swegym("images", "base", "--tag", name))
