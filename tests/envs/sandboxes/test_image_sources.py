"""What images are made from, without an engine: contexts and their hashes, Dockerfiles, root file systems."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.envs.sandboxes import image_context
from swegym.envs.sandboxes.dockerfile import base_images
from swegym.envs.sandboxes.image_context import cached_digest, context_paths, folder_digest, write_context
from swegym.envs.sandboxes.image_sources import DockerfileSource, FoldersSource, RootfsSource, require_rootfs_tarball
from swegym.envs.sandboxes.image_store import repository_name


def test_folder_digest_sees_every_change(tmp_path: Path) -> None:
    seen = [folder_digest(tmp_path)]
    (tmp_path / "a").write_text("1")
    seen.append(folder_digest(tmp_path))
    assert folder_digest(tmp_path) == seen[-1]
    (tmp_path / "a").chmod(0o755)
    seen.append(folder_digest(tmp_path))
    (tmp_path / "link").symlink_to("a")
    seen.append(folder_digest(tmp_path))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")
    seen.append(folder_digest(tmp_path))
    (tmp_path / "empty").mkdir()
    seen.append(folder_digest(tmp_path))
    (tmp_path / "empty" / "a").write_text("1")
    seen.append(folder_digest(tmp_path))
    (tmp_path / "empty" / "a").write_text("2")
    seen.append(folder_digest(tmp_path))
    (tmp_path / "empty").rename(tmp_path / "full")
    seen.append(folder_digest(tmp_path))
    assert len(set(seen)) == len(seen) == 9


def test_digest_is_remembered_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(image_context, "_SETTLED_NS", -(10**12))  # do not wait for the files to be old
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("1")
    first = cached_digest(folder)
    assert first == folder_digest(folder)
    (record,) = (cache / "swegym" / "images" / "digests").iterdir()
    record.write_text(record.read_text().replace(first, "remembered"))
    assert cached_digest(folder) == "remembered"
    (folder / "file").write_text("2")  # of the same size
    second = cached_digest(folder)
    assert second == folder_digest(folder)
    record.write_text("torn {")
    assert cached_digest(folder) == second


def test_digest_of_files_changed_just_now_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("1")
    cached_digest(tmp_path / "folder")
    assert list((cache / "swegym" / "images" / "digests").iterdir()) == []


def test_dockerignore(tmp_path: Path) -> None:
    for name in ("a.py", "b.pyc", "sub/c.pyc", "sub/d", "keep/e.pyc", "secret", "build/x", "Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("# a comment\n\n**/*.pyc\n!keep/*.pyc\nsecret\nbuild\n")
    files = {name for name in context_paths(tmp_path, "Dockerfile") if (tmp_path / name).is_file()}
    assert files == {".dockerignore", "Dockerfile", "a.py", "keep/e.pyc", "sub/d"}
    (tmp_path / "Dockerfile.dockerignore").write_text("*\n!secret\n")
    assert {"secret", "Dockerfile"} <= context_paths(tmp_path, "Dockerfile")
    assert "a.py" not in context_paths(tmp_path, "Dockerfile")


def archive(folder: Path) -> tuple[bytes, dict[str, tarfile.TarInfo]]:
    stream = io.BytesIO()
    write_context(stream, {"Dockerfile": "FROM scratch\n"}, {"": folder, "again": folder})
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        return stream.getvalue(), {entry.name: entry for entry in tar}


def test_context_of_unusual_files(tmp_path: Path) -> None:
    names = ["grüße 日本", "new\nline", "-n", " blank ", "a" * 200, os.fsdecode(b"\xff\xfe")]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / "hard").hardlink_to(tmp_path / "-n")
    (tmp_path / "dangling").symlink_to("/nowhere/at all")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "script").write_text("x")
    (tmp_path / "script").chmod(0o751)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        data, entries = archive(tmp_path)
    assert {*names, *(f"again/{name}" for name in names)} <= {*entries}
    assert "socket" not in entries
    assert entries["hard"].isreg()
    assert entries["hard"].size == 1
    assert entries["dangling"].linkname == "/nowhere/at all"
    assert entries["loop"].issym()
    assert entries["script"].mode == 0o751
    assert {(entry.uid, entry.gid, entry.uname) for entry in entries.values() if entry.name != "Dockerfile"} == {
        (0, 0, "root")
    }
    assert archive(tmp_path)[0] == data


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("FROM a:1\n", ["a:1"]),
        ("# c\nfrom --platform=linux/amd64 a@sha256:12 as X\nFROM x\nFROM scratch\nFROM b\n", ["a@sha256:12", "b"]),
        ('ARG V=1\nARG N="a"\nFROM ${N}:$V\nARG V=2\nFROM ${M:-c}:${V:+3}\n', ["a:1", "c:3"]),
        ("ARG V=1\nFROM a:${GIVEN}\n", ["a:"]),
        ("ARG GIVEN\nFROM a:${GIVEN}\n", ["a:given"]),
        (
            "FROM \\\n  a:1 \\\n  AS b\nCOPY --from=b /x /y\nCOPY --chown=1:1 --from=c:2 /x /\nCOPY --from=0 / /\n",
            ["a:1", "c:2"],
        ),
        ("# escape=`\nFROM `\na:1\n", ["a:1"]),
        ("FROM a\nRUN echo \\\n# a comment within\n  'FROM b'\nRUN FROM=1\nFROM a\n", ["a"]),
    ],
)
def test_base_images(text: str, images: list[str]) -> None:
    assert base_images(text, {"GIVEN": "given"}) == images


@pytest.mark.parametrize(("text", "problem"), [("", "no FROM"), ("RUN true\n", "no FROM"), ("FROM $X\n", "--arg")])
def test_dockerfiles_without_a_base(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        base_images(text, {})


def test_digest_of_a_dockerfile_source(tmp_path: Path, cache: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM a\nCOPY . /\n")
    (context / "file").write_text("1")
    (context / ".dockerignore").write_text("ignored\n")

    def digest(**options: object) -> str:
        return DockerfileSource(context, context / "Dockerfile", **options).digest()  # type: ignore[arg-type]

    seen = [digest(), digest(arguments={"A": "1"}), digest(arguments={"A": "2"}), digest(target="x")]
    seen.append(digest(network=False))
    (context / "file").write_text("2")
    seen.append(digest())
    assert len(set(seen)) == 6
    (context / "ignored").write_text("1")
    assert digest() == seen[-1]
    assert digest(arguments={"A": "1", "B": "2"}) == digest(arguments={"B": "2", "A": "1"})


def rootfs_tar(path: Path, names: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return path


def test_root_file_systems_are_looked_at_first(tmp_path: Path) -> None:
    for name, mode in (("plain.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz"), ("a.tar.bz2", "w:bz2")):
        require_rootfs_tarball(rootfs_tar(tmp_path / name, ["./etc", "./bin/bash"], mode))
    with pytest.raises(ConfigError, match="no bin/bash at its top"):
        require_rootfs_tarball(rootfs_tar(tmp_path / "wrapped.tar", ["rootfs/bin/bash"]))
    (tmp_path / "text").write_text("hello" * 1000)
    whole = rootfs_tar(tmp_path / "whole.tar.gz", [f"{i}" for i in range(1000)] + ["bin/bash"], "w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged.tar.gz").write_bytes(whole[:100] + bytes(100) + whole[200:])
    for name in ("text", "cut.tar.gz", "damaged.tar.gz"):
        with pytest.raises(ConfigError, match=f"{name} is not a readable tar archive"):
            require_rootfs_tarball(tmp_path / name)
    with pytest.raises(ConfigError, match="no root file system"):
        RootfsSource(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no bin/bash"):
        RootfsSource(tmp_path)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Dockerfile"):
        DockerfileSource(tmp_path, tmp_path / "Dockerfile")
    with pytest.raises(ConfigError, match="no folder"):
        DockerfileSource(tmp_path / "nothing", tmp_path / "Dockerfile")
    with pytest.raises(ConfigError, match="absolute path of a folder"):
        FoldersSource("x", "base", "/testbed", "relative", None, None)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("Some/Odd Name:latest", "swegym/odd-name"),
        ("registry:5000/a_b.c", "swegym/a-b-c"),
        ("", "swegym/task"),
        ("日本", "swegym/task"),
        ("x" * 300, "swegym/" + "x" * 100),
    ],
)
def test_repository_names(name: str, repository: str) -> None:
    assert repository_name(name) == repository
