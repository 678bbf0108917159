"""Task: what an agent is asked to do, in a public and a secret half.

The public half travels everywhere (prompts, exports, sandboxes). The secret half (gold patch, hidden tests, which tests
must change) is another record in another file, and only a grader ever receives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field, model_validator

from swegym.core.records import Record, digest

__all__ = [
    "TASK_SCHEMA_VERSION",
    "ImageRecipe",
    "LineEdit",
    "Provenance",
    "SweSecret",
    "SweTask",
    "Task",
    "TaskLimits",
    "TaskSet",
]

TASK_SCHEMA_VERSION = 1


class TaskLimits(Record):
    """Limits of one episode. None of them is hidden in a client's default."""

    max_turns: int = Field(default=128, ge=1)
    """Actions an agent may take (cwm.md 5.2)."""
    command_timeout_s: float = Field(default=120.0, gt=0)
    """Wall time of one command."""
    episode_timeout_s: float = Field(default=2400.0, gt=0)
    """Wall time from reset to the last action."""
    test_timeout_s: float = Field(default=300.0, gt=0)
    """Wall time of the hidden tests in the grading stage."""
    observation_limit_bytes: int = Field(default=32_768, ge=256)
    """Bytes of a command's output that an observation keeps (head and tail)."""


class Provenance(Record):
    """Where a task comes from, and under which licence its code is."""

    source: str
    """For example `pypi:boltons==26.2.0` or `swe-bench`."""
    license: str = "unknown"
    builder: str = ""
    """Name and version of what made the task."""
    created_at: str = ""


class LineEdit(Record):
    """Replace lines first_line..last_line (1-based, inclusive) of a file; says nothing of what stood there before.

    last_line = first_line - 1 inserts. This is how a mutated start state is shipped without shipping its cure.
    """

    path: str
    first_line: int = Field(ge=1)
    last_line: int = Field(ge=0)
    text: str


class ImageRecipe(Record):
    """How to prepare the files of an image; paths are relative to the task set's folder.

    The Docker back end copies the folders onto the image of the Dockerfile, else onto a base image. The local one
    mounts the folders, and refuses a recipe with a Dockerfile.
    """

    workspace: str | None = None
    """Folder that becomes the repository root: a clean work tree without `.git`. None: the Dockerfile brings it."""
    dependencies: str | None = None
    """Folder of installed third-party packages, put on PYTHONPATH read-only."""
    dockerfile: str | None = None
    """Dockerfile of the image that the rest is put on; its folder is the build context."""

    @model_validator(mode="after")
    def _has_files(self) -> ImageRecipe:
        if self.workspace is None and self.dockerfile is None:
            raise ValueError("a recipe needs a workspace, a dockerfile or both")
        return self


class SweTask(Record):
    """A repository with something to mend. Field names are SWE-bench's where those exist."""

    kind: Literal["swe"] = "swe"
    repo: str
    base_commit: str = ""
    """Commit to start from; empty when the workspace is a plain tree, which then becomes commit one."""
    version: str = ""
    image: str
    """Image name; content-addressed when made from a recipe."""
    recipe: ImageRecipe | None = None
    workdir: str = "/testbed"
    """Absolute path of the repository root inside the sandbox."""
    start_edits: tuple[LineEdit, ...] = ()
    """Applied to the work tree before the start commit is made."""
    setup_commands: tuple[str, ...] = ()
    """Run in the agent's own shell at reset, so what they export stays."""
    environment: dict[str, str] = Field(default_factory=dict)
    test_command: str = "python -m pytest"
    protected_paths: tuple[str, ...] = (
        "tests",
        "test",
        "conftest.py",
        "pytest.ini",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
    )
    """Paths that the grader restores over a patch."""
    hints: dict[str, str] = Field(default_factory=dict)
    """Public facts that a prompt profile may show, e.g. file and line."""


class SweSecret(Record):
    """The secret half of a SweTask. Only graders and validation may hold one."""

    kind: Literal["swe"] = "swe"
    task_id: str
    patch: str
    """Gold patch: unified diff against the start state."""
    test_patch: str = ""
    hidden_files: dict[str, str] = Field(default_factory=dict)
    """Files written over the tree before the tests run: path -> content."""
    FAIL_TO_PASS: tuple[str, ...]
    PASS_TO_PASS: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    """Test files to run; empty means those that the ids name."""
    baseline_s: float = 0.0
    """Wall time of these tests on the solved tree; the run limit is max(5 x baseline, 2 s)."""
    log_parser: str = ""
    """Results are read from the test command's output by this parser; "" has pytest report them itself."""
    eval_command: str = ""
    """With a log parser: run instead of the test command and its files, as a data set's own script says."""


class Task(Record):
    """The public half of a task."""

    schema_version: Literal[1] = 1
    task_id: str = Field(min_length=1)
    env_id: str = "swegym/Swe-v0"
    statement: str
    limits: TaskLimits = TaskLimits()
    provenance: Provenance
    payload: SweTask
    """Typed by kind; `swe` is the only kind so far, others become a tagged union here."""
    labels: dict[str, str] = Field(default_factory=dict)
    """For selection and statistics, never shown to an agent."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the task, for caches and replay."""
        return digest(self.model_dump_json())


@runtime_checkable
class TaskSet(Protocol):
    """An ordered collection of tasks. `secret` is for graders and validation only."""

    name: str

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Task]: ...
    def ids(self, split: str | None = None) -> list[str]:
        """Task ids in order; `split` picks those labelled so ("train", "heldout", ...)."""
        ...

    def get(self, task_id: str) -> Task:
        """Raises UnknownName."""
        ...

    def secret(self, task_id: str) -> SweSecret:
        """Raises UnknownName."""
        ...

    def folder(self) -> str:
        """Absolute folder that image recipes are relative to."""
        ...
