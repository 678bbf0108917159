import io
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from swegym.agents.parse import TagProtocol
from swegym.agents.policies.human import HumanPolicy
from swegym.agents.policies.oracle import OraclePolicy, apply_patch_command
from swegym.agents.policies.replay import ReplayPolicy
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.action import Observation, ToolCall
from swegym.core.errors import ConfigError, PolicyError
from swegym.core.policy import Message, Policy, PolicyRequest, SamplingParams
from swegym.core.registries import policies
from swegym.core.trajectory import Trajectory, Turn


def request(turn: int = 0, max_tokens: int = 100) -> PolicyRequest:
    messages = (Message(role="system", content="rules"), Message(role="user", content="[bold]issue[/bold]"))
    return PolicyRequest(messages, (1, 2), SamplingParams(max_tokens=max_tokens), "e", turn)


async def test_scripted_texts_by_turn_and_by_function() -> None:
    policy: Policy = ScriptedPolicy(["a", "b"])
    assert [(await policy.sample(request(turn))).text for turn in (0, 1, 0)] == ["a", "b", "a"]
    with pytest.raises(PolicyError, match="has 2 texts, and turn 2"):
        await policy.sample(request(2))

    async def script(asked: PolicyRequest) -> str:
        return f"turn {asked.turn}"

    assert (await ScriptedPolicy(script).sample(request(4))).text == "turn 4"


async def test_scripted_as_a_token_policy(tokenizer: BpeTokenizer) -> None:
    policy = ScriptedPolicy(["the fox"], tokenizer=tokenizer)
    assert policy.uses_tokens
    completion = await policy.sample(request())
    assert completion.token_ids == (*tokenizer.encode("the fox"), tokenizer.special("<|eot_id|>"))
    assert completion.logprobs == (0.0,) * len(completion.token_ids)
    assert (completion.text, completion.finish_reason) == ("the fox", "stop")
    cut = await policy.sample(request(max_tokens=2))
    assert (len(cut.token_ids), cut.finish_reason) == (2, "length")


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["git", "-C", str(folder), *arguments], input=stdin, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\nb\nc\n", b"a\nB\nc\n"),
        (b"a\nb", b"a\nb\nc"),
        (b"a\r\nb\r\n", b"a\r\nB\r\n"),
        (b"x\n", b"PATCH_ $HOME `ls` \\ 'q' \"d\"\n"),
        (b"x\n", b"<tool: bash>\nls\n</tool>\n```\n"),
        (b"x\n", bytes(range(256))),
        (b"\tx \n", b"\ty  \n"),
    ],
)
def test_the_oracles_command_applies_any_patch(tmp_path: Path, before: bytes, after: bytes) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "f").write_bytes(before)
    git(tmp_path, "add", "f")
    (tmp_path / "f").write_bytes(after)
    patch = git(tmp_path, "diff", "--binary").decode("latin-1" if after == bytes(range(256)) else "utf-8")
    git(tmp_path, "checkout", "--", "f")
    text = TagProtocol().render(ToolCall(tool="bash", body=apply_patch_command(patch)))
    command = TagProtocol().parse(text).body
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "f").read_bytes() == after


async def test_the_oracle_applies_then_submits() -> None:
    policy = OraclePolicy("diff --git a/x b/x\n")
    first, second, third = [(await policy.sample(request(turn))).text for turn in range(3)]
    assert TagProtocol().parse(first).body.startswith("git apply")
    assert second == third == "<tool: submit>\n</tool>"
    assert TagProtocol().parse((await OraclePolicy("").sample(request())).text).body == "true"


async def test_replay_says_what_was_recorded() -> None:
    turns = (
        Turn(index=0, text="<tool: bash>\nls\n</tool> and more", action=ToolCall(tool="bash", body="ls")),
        Turn(index=1, text="", action=ToolCall(tool="submit")),
    )
    trajectory = Trajectory(
        episode_id="e", task_id="t", env_id="v", first_observation=Observation(text=""), turns=turns
    )
    policy = ReplayPolicy(trajectory)
    assert [(await policy.sample(request(turn))).text for turn in range(2)] == [
        "<tool: bash>\nls\n</tool> and more",
        "<tool: submit>\n</tool>",
    ]
    with pytest.raises(ConfigError, match="no turns"):
        ReplayPolicy(trajectory.model_copy(update={"turns": ()}))


async def test_human_reads_commands_and_other_tools() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, color_system=None)
    policy = HumanPolicy(input_stream=io.StringIO("\nls -la\n:create\na.py\nx = 1\n.\nsubmit\n"), console=console)
    calls = [TagProtocol().parse((await policy.sample(request(turn))).text) for turn in range(3)]
    assert calls == [
        ToolCall(tool="bash", body="ls -la"),
        ToolCall(tool="create", body="a.py\nx = 1"),
        ToolCall(tool="submit"),
    ]
    assert shown.getvalue().count("[bold]issue[/bold]") == 1  # shown once, and never read as markup
    with pytest.raises(PolicyError, match="input ended"):
        await policy.sample(request(3))


def test_every_registered_policy_is_described() -> None:
    for name in policies.names():
        factory = policies.get(name)
        assert isinstance(getattr(factory, "__doc__", None), str)
        assert hasattr(factory, "sample")
        assert hasattr(factory, "close")
