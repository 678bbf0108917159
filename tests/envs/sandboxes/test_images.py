"""Images on a real engine: built once by content, however many ask; failures, records, pruning."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from swegym.core.cache import locked
from swegym.core.errors import ConfigError, DependencyMissing, ImageMissing, SandboxError
from swegym.core.records import digest
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.image_records import list_images, prune_images
from swegym.envs.sandboxes.image_sources import DockerfileSource, FoldersSource, RootfsSource
from swegym.envs.sandboxes.image_store import ImageStore, read_json
from swegym.envs.sandboxes.images import ImageBuilder

pytestmark = pytest.mark.docker

BUILDER = """
import sys
from pathlib import Path
from swegym.core.errors import SwegymError
from swegym.envs.sandboxes.image_sources import DockerfileSource
from swegym.envs.sandboxes.image_store import ImageStore
context = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    print(ImageStore().ensure(DockerfileSource(context, context / "Dockerfile", network=False)))
except SwegymError as error:
    print(error)
"""


@pytest.fixture
def store(cache: Path) -> Iterator[ImageStore]:
    """A store with records of its own; the images that a test makes are removed after it."""
    made = ImageStore(build_timeout_s=120)
    before = {image["Id"] for image in made.client.images()}
    yield made
    for image in made.client.images():  # the newest come first
        if image["Id"] not in before and any(name.startswith(PREFIXES) for name in image["RepoTags"] or ()):
            for name in image["RepoTags"]:
                made.client.remove_image(name, force=True)
    made.close()


PREFIXES = ("swegym/images-test", "localhost/swegym/images-test", "images-test")


@pytest.fixture
def context(tmp_path: Path, base_image: str) -> Path:
    folder = tmp_path / "images-test"
    folder.mkdir()
    (folder / "stamp").write_text(str(time.time_ns()))  # so that no such image was ever built
    (folder / "Dockerfile").write_text(f"FROM {base_image}\nCOPY stamp /stamp\n")
    return folder


def source_of(context: Path, **options: Any) -> DockerfileSource:
    return DockerfileSource(context, context / "Dockerfile", **{"network": False} | options)


def output_of(image: str, command: str) -> str:
    arguments = ["docker", "run", "--rm", "--network=none", image, "bash", "-c", command]
    return subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60).stdout


def test_dockerfile(store: ImageStore, context: Path) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("ARG WORD=none\nRUN echo $WORD >/word\nCOPY . /context\nFROM scratch AS unused\nCOPY x /x\n")
    (context / "grüße\n日本").write_text("odd")
    (context / "link").symlink_to("grüße\n日本")
    (context / ".dockerignore").write_text("left_out\n")
    (context / "left_out").write_text("")
    (context / "Dockerfile").write_text((context / "Dockerfile").read_text().replace("\n", " AS wanted\n", 1))
    source = source_of(context, arguments={"WORD": "given"}, target="wanted")
    tag = store.ensure(source, alias="images-test-alias:1")
    assert tag.startswith("swegym/images-test:")
    assert output_of(tag, "cat /word /context/link; ls -A /context") == (
        "given\nodd.dockerignore\nDockerfile\ngrüße\n日本\nlink\nstamp\n"
    )
    assert store.ensure(source) == tag
    assert store.inspect("images-test-alias:1") == store.inspect(tag)
    assert len([*store.folder("logs").iterdir()]) == 1  # the second time nothing was built
    assert store.ensure(source_of(context, arguments={"WORD": "other"}, target="wanted")) != tag


def test_dockerfile_outside_of_its_context(store: ImageStore, context: Path, base_image: str) -> None:
    outside = context.with_name("images-test-outside")
    outside.write_text((context / "Dockerfile").read_text() + "COPY . /context\n")
    (context / "Dockerfile").unlink()
    assert output_of(store.ensure(DockerfileSource(context, outside)), "ls -A /context") == "stamp\n"
    (context / ".dockerignore").write_text("ignored")
    (context / "ignored").write_text("")
    assert output_of(store.ensure(DockerfileSource(context, outside)), "ls -A /context") == ".dockerignore\nstamp\n"
    outside.write_text(f"FROM {base_image}\nENV X={time.time_ns()}\n")
    assert output_of(store.ensure(DockerfileSource(None, outside)), "echo $X") in outside.read_text()


def test_another_base_is_another_image(store: ImageStore, context: Path, base_image: str) -> None:
    (context / "Dockerfile").write_text("FROM images-test-base\nENV X=1\n")
    store.tag(base_image, "images-test-base")
    first = store.ensure(source_of(context))
    other = context.parent / "other"
    other.mkdir()
    (other / "Dockerfile").write_text(f"FROM {base_image}\nENV OTHER={time.time_ns()}\n")
    store.ensure(DockerfileSource(other, other / "Dockerfile"), alias="images-test-base")
    assert store.ensure(source_of(context)) != first


def test_build_without_a_network(store: ImageStore, context: Path) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN ls /sys/class/net >/interfaces\n")
    assert output_of(store.ensure(source_of(context)), "cat /interfaces").split() == ["lo"]


def test_failing_build_says_why_and_where_the_log_is(store: ImageStore, context: Path) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN echo what happened before; exit 3\n")
    with pytest.raises(ImageMissing, match="what happened before") as caught:
        store.ensure(source_of(context))
    message = str(caught.value)
    assert "\n" not in message
    assert "3" in message
    (log,) = store.folder("logs").iterdir()
    assert message.endswith(f"log: {log}")
    assert "what happened before" in log.read_text()
    with pytest.raises(ImageMissing):  # a later attempt is made anew
        store.ensure(source_of(context))
    assert len([*store.folder("logs").iterdir()]) == 2


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("FROM BASE\nNOSUCH x\n", {}, "(?i)unknown instruction"),
        ("FROM BASE\nRUN true\n", {"target": "nowhere"}, "nowhere"),
        ("FROM no-such-image-anywhere:1\n", {}, "no-such-image-anywhere:1.*cannot be pulled.*swegym images base"),
        ("FROM BASE\nCOPY absent /\n", {}, "absent"),
    ],
)
def test_dockerfiles_that_cannot_be_built(
    store: ImageStore, context: Path, base_image: str, text: str, options: dict[str, Any], problem: str
) -> None:
    (context / "Dockerfile").write_text(text.replace("BASE", base_image))
    with pytest.raises(ImageMissing, match=problem):
        store.ensure(source_of(context, **options))


def test_build_has_a_time_limit(store: ImageStore, context: Path) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN sleep 300\n")
    hasty = ImageStore(build_timeout_s=3)
    with pytest.raises(SandboxError):
        hasty.ensure(source_of(context))
    hasty.close()
    assert store.inspect(store.tag_of(source_of(context))) is None


@pytest.mark.parametrize("is_good", [True, False])
def test_processes_that_want_one_image_build_it_once(store: ImageStore, context: Path, is_good: bool) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write(f"RUN sleep 1.5; echo attempt $(date +%N); {'true' if is_good else 'false'}\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", BUILDER, str(context)]
    builders = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    answers = {builder.communicate(timeout=60)[0] for builder in builders}
    assert len(answers) == 1
    assert len([*store.folder("logs").iterdir()]) == 1
    assert ("failed" in answers.pop()) is not is_good


async def test_tasks_of_one_process_share_a_build_and_its_failure(
    store: ImageStore, context: Path, base_image: str
) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN sleep 1; exit 4\n")  # (or, where builds have no network, that failure)
    provider = make_provider("docker", base_image=base_image, build_timeout_s=60)
    spec = SandboxSpec(image="images-test", dockerfile=str(context / "Dockerfile"))
    given_up = asyncio.create_task(provider.create(spec))
    waiting = [asyncio.create_task(provider.create(spec)) for _ in range(3)]
    await asyncio.sleep(0.3)
    given_up.cancel()  # takes nobody else's build away
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [ImageMissing] * 3
    assert len({str(error) for error in errors}) == 1
    assert len([*store.folder("logs").iterdir()]) == 1
    await provider.close()


async def test_recipe_with_a_dockerfile(store: ImageStore, context: Path, base_image: str, tmp_path: Path) -> None:
    workspace, dependencies = tmp_path / "workspace", tmp_path / "dependencies"
    workspace.mkdir()
    dependencies.mkdir()
    (workspace / "file").write_text("work\n")
    (dependencies / "depended_on.py").write_text("print('dependency')\n")
    spec = SandboxSpec(
        image="images-test",
        dockerfile=str(context / "Dockerfile"),
        workspace=str(workspace),
        dependencies=str(dependencies),
    )
    provider = make_provider("docker", base_image="no-such-image-anywhere:1")  # not wanted here
    sandbox = await provider.create(spec)
    assert (await sandbox.run("cat file; python -c 'import depended_on'; test -s /stamp; echo $?")).text == (
        "work\ndependency\n0\n"
    )
    await sandbox.close()
    for record in list_images(store):  # somebody removes the images behind the provider's back
        if record.names[0].startswith("swegym/images-test:"):
            store.client.remove_image(record.names[0], force=True)
    again = await provider.create(spec)
    assert (await again.run("cat file")).text == "work\n"
    await provider.close()
    local = make_provider("local", temp_folder=str(tmp_path / "sandboxes"))
    with pytest.raises(ImageMissing, match="use --sandbox docker"):
        await local.create(spec)


def test_workspaces_with_odd_content(store: ImageStore, base_image: str, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "sub" / "empty").mkdir(parents=True)
    (workspace / "new\nline").write_text("x")
    (workspace / "link").symlink_to("sub")
    (workspace / "script").write_text("#!/bin/sh\necho ran\n")
    (workspace / "script").chmod(0o700)
    tag = store.ensure(FoldersSource("images-test", base_image, "/testbed", str(workspace), None, "1234:99"))
    command = "cd /testbed; find . -printf '%P %y %m %U:%G\\0' | sort -z | tr '\\n\\0' '?\\n'; ./script"
    lines = output_of(tag, command).splitlines()
    assert lines[1:] == [
        "link l 777 1234:99",
        "new?line f 644 1234:99",
        "script f 700 1234:99",
        "sub d 755 1234:99",
        "sub/empty d 755 1234:99",
        "ran",
    ]


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """The smallest root file system that can say something: bash and its libraries."""
    root = tmp_path / "images-test-rootfs"
    (root / "bin").mkdir(parents=True)
    (root / "note").write_text(f"{time.time_ns()}\n")
    (root / "owned").write_text("")
    if os.geteuid() == 0:
        os.chown(root / "owned", 7, 8)
    shutil.copy("/bin/bash", root / "bin" / "bash")
    libraries = subprocess.run(["ldd", "/bin/bash"], check=True, capture_output=True, text=True).stdout
    for word in libraries.split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)
    return root


def test_root_file_systems(store: ImageStore, rootfs: Path) -> None:
    note = (rootfs / "note").read_text()
    tag = store.ensure(RootfsSource(rootfs))
    assert output_of(tag, "echo $(</note)") == note
    tarball = rootfs.with_name("images-test-rootfs.tar.gz")
    subprocess.run(["tar", "-C", str(rootfs), "-czf", str(tarball), "."], check=True)
    packed = store.ensure(RootfsSource(tarball), alias="images-test-rootfs:latest")
    assert packed != tag
    assert (
        output_of("images-test-rootfs", "echo $(</note); [[ -O /note ]] && ! [[ -O /owned ]]; echo $?") == f"{note}0\n"
    )
    assert {record.source for record in list_images(store)} >= {f"rootfs {rootfs}", f"rootfs {tarball}"}


def removed(*arguments: Any, **options: Any) -> set[str]:
    return {record.names[0] for record in prune_images(*arguments, **options)}


def test_prune_removes_what_nobody_used_lately(store: ImageStore, context: Path, base_image: str) -> None:
    def workspace_image(base: str) -> str:
        (context / "changed").write_text(str(time.time_ns()))
        return store.ensure(FoldersSource("images-test", base, "/testbed", str(context), None, None))

    base = store.ensure(source_of(context), alias="images-test-mine:1")
    derived, lone, contained = workspace_image(base), workspace_image(base_image), workspace_image(base_image)
    foreign = "images-test-foreign:1"  # somebody's own, on top of ours: it inherits the labels
    subprocess.run(
        ["docker", "build", "-q", "-t", foreign, "-"], input=f"FROM {lone}\nENV X=1\n", text=True, check=True
    )
    container = store.client.create_container(contained)["Id"]
    made = {base, derived, lone, contained}
    try:
        listed = {record.names[0]: record for record in list_images(store)}
        assert made <= {*listed}
        assert foreign not in {name for record in listed.values() for name in record.names}
        assert listed[base].names == (base, "images-test-mine:1")
        assert {tag for tag in made if listed[tag].in_use} == {base, lone, contained}
        assert all(time.time() - listed[tag].last_used < 60 for tag in made)
        mine = "swegym/images-test:*"
        assert removed(store, 1, mine) & made == set()
        assert removed(store, 0, mine, dry_run=True) & made == {derived}
        assert removed(store, 0, mine) & made == {derived, base}
        assert [store.inspect(tag) is None for tag in (base, derived, lone, contained)] == [True, True, False, False]
        assert store.inspect("images-test-mine:1") is None
    finally:
        store.client.remove_container(container)
        store.client.remove_image(foreign)


def test_prune_removes_what_a_failed_build_left(store: ImageStore, context: Path) -> None:
    with (context / "Dockerfile").open("a") as file:
        file.write("RUN exit 3\n")
    with pytest.raises(ImageMissing):
        store.ensure(source_of(context))
    (failure,) = store.folder("failures").glob("*.json")
    layer = read_json(failure)["layer"]
    assert store.inspect(layer) is not None  # a second try starts from it
    prune_images(store, 1, "none")
    assert store.inspect(layer) is not None
    prune_images(store, 0, "none")
    assert store.inspect(layer) is None
    assert not failure.exists()
    assert [*store.folder("logs").iterdir()] == []


def test_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("unix:///nowhere/docker.sock", "nonsense://x", "tcp://127.0.0.1:1"):
        with pytest.raises(DependencyMissing, match=f"no container engine answers at {address}"):
            ImageStore(address)


@pytest.mark.parametrize("alias", ["UPPER", "a b", "x:y:z", ""])
def test_impossible_names(store: ImageStore, context: Path, alias: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an image's name"):
        store.ensure(source_of(context), alias=alias)


async def test_a_waiter_that_gives_up_takes_no_build_away(store: ImageStore, context: Path, base_image: str) -> None:
    builder = ImageBuilder(store, base_image, None)
    specs = []
    for i in range(5):
        (context / f"Dockerfile{i}").write_text(f"FROM {base_image}\nENV I={i}\nCOPY stamp /\n")
        specs.append(SandboxSpec(image="images-test", dockerfile=str(context / f"Dockerfile{i}")))
    with ExitStack() as locks:  # as if other processes built the first four: all threads wait for them
        for spec in specs[:4]:
            tag = store.tag_of(DockerfileSource(context, Path(spec.dockerfile or "")))
            locks.enter_context(locked(store.folder("locks") / digest(tag)))
        waiting = [asyncio.create_task(builder.ensure(spec)) for spec in specs]
        other = asyncio.create_task(builder.ensure(specs[4]))
        await asyncio.sleep(0.5)
        waiting[4].cancel()
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in (*waiting[:4], other))
    tags = await asyncio.gather(*waiting[:4], other)
    assert len({*tags}) == 5
    assert waiting[4].cancelled()
    builder.close()
