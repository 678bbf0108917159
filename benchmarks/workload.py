"""What the sandbox benchmark runs: a small real git repository, and the commands an agent starts with.

The repository is a copy of some packages of the running Python's standard library, made at run time.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from swegym.core.errors import UnknownName
from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task, TaskLimits

__all__ = [
    "BIG_BYTES",
    "COMMANDS",
    "EDIT",
    "MIX",
    "MIX_NAME",
    "WORKDIR",
    "WorkloadTasks",
    "make_big",
    "make_repository",
]

WORKDIR = "/testbed"
BIG_BYTES = 100 * 1024**2
_PACKAGES = ("email", "json", "logging", "unittest")
_IDENTITY = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", "-c", "init.defaultBranch=main"]

EDIT = "printf '# checked\\n' >> lib/json/tool.py && printf 'look at tool.py\\n' > notes.txt"
"""Run once in every sandbox before anything is measured, so that `git status` has something to say."""

MIX_NAME = "mix"
MIX = (
    "ls -1 lib/email",
    "cat lib/email/errors.py",
    "grep -rn 'class .*Error' lib | sort",
    "sed -n '1,60p' lib/email/message.py",
    "python -c 'import ast, sys; print(len(ast.parse(open(\"lib/json/decoder.py\").read()).body))'",
    "git status --short",
)
"""How an agent looks around in a repository. All of them print the same whatever runs them."""
COMMANDS = {"true": "true", "cat": "cat small.txt", "1 MB": "cat large.txt"}


def make_repository(folder: Path) -> Path:
    """A git repository of one commit: `lib/`, a file of 20 lines and one of 1 MB. Returns `folder`."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in _PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "test", "tests")
        shutil.copytree(library / name, folder / "lib" / name, ignore=ignored)
    (folder / "small.txt").write_text(
        "".join(f"line {number:2d} of a small file, as configs are\n" for number in range(20))
    )
    row = "".join(chr(33 + number % 90) for number in range(99)) + "\n"
    (folder / "large.txt").write_text(row * 10_000)
    for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run(["git", *_IDENTITY, *command], cwd=folder, check=True, capture_output=True)
    return folder


def make_big(folder: Path) -> Path:
    """A folder with 100 MB that do not compress, in 100 files; always the same bytes."""
    source = random.Random(0)
    (folder / "data").mkdir(parents=True)
    for number in range(100):
        (folder / "data" / f"{number:03d}.bin").write_bytes(source.randbytes(BIG_BYTES // 100))
    return folder


class WorkloadTasks:
    """A task set of one task in the repository, for environments that only look around."""

    name = "benchmark"
    requirements = ()

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        limits = TaskLimits(max_turns=10**9, episode_timeout_s=3600.0)
        payload = SweTask(
            repo="benchmark",
            image="swegym/benchmark-environment",
            recipe=ImageRecipe(workspace="."),
            workdir=WORKDIR,
            setup_commands=(EDIT,),
        )
        self._task = Task(
            task_id="benchmark",
            statement="Look around.",
            limits=limits,
            provenance=Provenance(source="the running Python's standard library"),
            payload=payload,
        )

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Task]:
        return iter((self._task,))

    def ids(self, split: str | None = None) -> list[str]:
        """The one id."""
        return [self._task.task_id]

    def get(self, task_id: str) -> Task:
        """The one task. Raises UnknownName."""
        if task_id != self._task.task_id:
            raise UnknownName("task", task_id, self.ids())
        return self._task

    def secret(self, task_id: str) -> SweSecret:
        """Nothing is graded here. Raises UnknownName."""
        raise UnknownName("secret", task_id, [])

    def folder(self) -> str:
        """The repository's folder."""
        return str(self._repository)
