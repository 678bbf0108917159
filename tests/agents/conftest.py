import pytest

from swegym.agents.profiles.short import example_texts
from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.action import Observation, ToolSpec
from swegym.core.task import Provenance, SweTask, Task, TaskLimits
from swegym.train.tokenizer import train_tokenizer

TOOLS = (
    ToolSpec(name="bash", description="Runs commands.", body_format="commands", parameters={
        "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"],
    }, body_template="{command}"),
    ToolSpec(name="create", description="Makes a file.", body_format="path, then content", parameters={
        "type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    }, body_template="{path}\n{content}"),
    ToolSpec(name="submit", description="Hands in.", body_format="empty, or a path", parameters={
        "type": "object", "properties": {"path": {"type": "string"}},
    }, body_template="{path}"),
)  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> BpeTokenizer:
    """A tiny BPE over the short profile's own texts and some prose."""
    return train_tokenizer([*example_texts(), "The quick brown fox jumps over the lazy dog.\n\n" * 3], 512)


@pytest.fixture
def tools() -> tuple[ToolSpec, ...]:
    return TOOLS


@pytest.fixture
def task() -> Task:
    return Task(
        task_id="t-1",
        statement="  In pkg/a.py the comparison is wrong.\n",
        limits=TaskLimits(max_turns=6, command_timeout_s=30),
        provenance=Provenance(source="test"),
        payload=SweTask(repo="acme/pkg", image="img", workdir="/repo"),
    )


@pytest.fixture
def first(tools: tuple[ToolSpec, ...]) -> Observation:
    return Observation(
        text="statement",
        remaining_turns=6,
        tools=tools,
        hints={"file": "pkg/a.py", "line": "4", "text": "    if a < b:"},
    )
