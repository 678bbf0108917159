"""Podman by its address (`engine_url`), with DOCKER_HOST leading elsewhere. The contract suite runs over it as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swegym.core.errors import DependencyMissing, ImageMissing
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes import list_sandboxes, make_provider, reap, resolve_backend
from swegym.envs.sandboxes.detect import find_engine
from swegym.envs.sandboxes.image_records import list_images, prune_images
from swegym.envs.sandboxes.image_sources import DockerfileSource
from swegym.envs.sandboxes.image_store import ImageStore

pytestmark = [pytest.mark.podman]


@pytest.fixture(autouse=True)
def no_other_engine(monkeypatch: pytest.MonkeyPatch, podman_url: str, cache: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def test_detection(podman_url: str) -> None:
    assert find_engine() is None
    engine = find_engine(30, podman_url)
    assert engine is not None
    assert engine.name == "podman"
    assert resolve_backend("auto") == "local"
    assert any(resolve_backend("auto", podman_url) == "docker" for _ in range(10))  # it has two seconds to answer


async def test_sandboxes_are_made_listed_and_reaped_there(
    podman_url: str, base_image: str, spec: SandboxSpec, tmp_path: Path
) -> None:
    folder = str(tmp_path / "s")
    provider = make_provider("docker", engine_url=podman_url, base_image=base_image, temp_folder=folder)
    sandbox = await provider.create(spec)
    result = await sandbox.run("./run.sh")
    assert (result.text, result.exit_code) == ("ran\n", 0), result
    assert sandbox.sandbox_id in [record.sandbox_id for record in list_sandboxes(folder, podman_url)]
    assert sandbox.sandbox_id not in [record.sandbox_id for record in list_sandboxes(folder)]
    assert sandbox.sandbox_id not in [record.sandbox_id for record in reap(folder, engine_url=podman_url)]
    await provider.close()
    assert sandbox.sandbox_id not in [record.sandbox_id for record in list_sandboxes(folder, podman_url)]
    with pytest.raises(DependencyMissing, match="no container engine answers at unix:///nowhere"):
        make_provider("docker")


def test_images(podman_url: str, base_image: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base_image}\nARG X\nRUN echo $X >/x; ls /sys/class/net >>/x\n")
    source = DockerfileSource(context, context / "Dockerfile", {"X": "given"}, network=False)
    store = ImageStore(podman_url)
    tag = store.ensure(source, alias="podman-alias:1")
    assert store.ensure(source) == tag
    assert len([*store.folder("logs").iterdir()]) == 1
    (record,) = (record for record in list_images(store) if record.names[0] == tag)
    assert record.names == (tag, "podman-alias:1")
    assert record.source == f"dockerfile {context / 'Dockerfile'}"
    container = store.client.create_container(tag, ["cat", "/x"])
    store.client.start(container)
    store.client.wait(container)
    assert store.client.logs(container) == b"given\nlo\n"
    assert [record.in_use for record in list_images(store) if record.names[0] == tag] == [True]
    store.client.remove_container(container)
    assert [record.names[0] for record in prune_images(store, 0, tag)] == [tag]
    assert store.inspect(tag) is None
    store.close()


def test_failing_builds(podman_url: str, base_image: str, tmp_path: Path) -> None:
    store = ImageStore(podman_url)
    for text, problem in (
        (f"FROM {base_image}\nRUN echo what happened; exit 3\n", "what happened.*log: "),
        (f"FROM {base_image}\nNOSUCH x\n", "(?i)nosuch"),
        ("FROM no-such-image-anywhere:1\n", "cannot be pulled"),
    ):
        (tmp_path / "Dockerfile").write_text(text)
        with pytest.raises(ImageMissing, match=problem):
            store.ensure(DockerfileSource(tmp_path, tmp_path / "Dockerfile", network=False))
    store.close()


def test_root_file_system(podman_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", podman_url)
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "bash").write_text("not really\n")
    command = [sys.executable, "-m", "swegym", "images", "build", "--rootfs", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    store = ImageStore(podman_url)
    found = store.inspect(done.stdout.strip())
    assert found is not None
    assert found["Config"]["Cmd"] == ["bash"]
    store.client.remove_image(done.stdout.strip())
    store.close()
