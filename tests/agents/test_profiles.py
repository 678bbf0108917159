import subprocess
from pathlib import Path

import pytest

from swegym.agents.chat import BOS, EOT, Piece, Special, encode_pieces
from swegym.agents.parse import FunctionProtocol, TagProtocol
from swegym.agents.profiles import Budget
from swegym.agents.profiles.cwm import CwmProfile
from swegym.agents.profiles.short import SUBMIT_TEXT, ShortProfile, example_texts, sed_action
from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.action import Observation
from swegym.core.task import Task

SEP = Special("<|action_sep|>")
TAGS = TagProtocol()


def text_of(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.name if isinstance(piece, Special) else piece for piece in pieces)


def test_short_first_prompt_is_the_line_between_two_special_tokens(task: Task, first: Observation) -> None:
    rendered = ShortProfile().render_first(task, first, TAGS, Budget(6))
    assert rendered.pieces == (BOS, "if a < b:", SEP)
    assert [(message.role, message.content) for message in rendered.messages] == [("user", "if a < b:")]


def test_short_falls_back_to_the_statement(task: Task, first: Observation) -> None:
    bare = first.model_copy(update={"hints": {}})
    rendered = ShortProfile(max_statement_chars=9).render_first(task, bare, TAGS, Budget(6))
    assert rendered.pieces == (BOS, "In pkg/a.", SEP)


@pytest.mark.parametrize(
    ("tool", "text", "exit_code", "shown"),
    [
        ("bash", "all fine", 0, ""),
        ("create", "Created.", None, ""),
        ("bash", "\nsed: bad flag\n", 1, "sed: bad flag"),
        ("bash", "x" * 100, 2, "x" * 40),
        ("bash", "", 1, ""),
        ("", "no tool call found: write", None, "no tool call found: write"),
    ],
)
def test_short_shows_failures_only(tool: str, text: str, exit_code: int | None, shown: str) -> None:
    rendered = ShortProfile().render_observation(Observation(text=text, exit_code=exit_code), tool, Budget(3))
    assert rendered.pieces == ((shown, SEP) if shown else (SEP,))


def test_short_is_short(task: Task, first: Observation, tokenizer: BpeTokenizer) -> None:
    prompt = encode_pieces(tokenizer, ShortProfile().render_first(task, first, TAGS, Budget(6)).pieces)
    assert len(prompt) <= 20
    assert len(tokenizer.encode(sed_action("<", "<="))) <= 30


@pytest.mark.parametrize(
    ("line", "before", "after", "expected"),
    [
        ("if a == b:", "==", "!=", "if a != b:"),
        ("x = a * b", "*", "/", "x = a / b"),
        ("x = a // b", "//", "*", "x = a * b"),
        ("x = a / b", "/", "//", "x = a // b"),
        ("x = a ** b", "**", "%", "x = a % b"),
        ("x = a & b", "&", "|", "x = a | b"),
        ("x = a | b", "|", "&", "x = a & b"),
        ("x = a ^ b", "^", "$", "x = a $ b"),
        ("x = a $ b", "$", "`", "x = a ` b"),
        ('x = a "q" b', '"q"', "[.]", "x = a [.] b"),
        ("x = a [.] b", "[.]", "\\", "x = a \\ b"),
        ("a is not b", "is not", "is", "a is b"),
    ],
)
def test_sed_action_replaces_one_token(tmp_path: Path, line: str, before: str, after: str, expected: str) -> None:
    path = tmp_path / "f.py"
    path.write_text(f"{line}\n{line}\n{line}\n")
    command = TAGS.parse(sed_action(before, after)).body
    subprocess.run(["bash", "-c", command], env={"L": "2", "F": str(path)}, check=True)
    assert path.read_text().splitlines() == [line, expected, line]


def test_example_texts_are_actions() -> None:
    texts = example_texts()
    assert '<tool: bash>\nsed -i "${L}s/ == / != /" $F\n</tool>' in texts
    assert SUBMIT_TEXT in texts
    assert {TAGS.parse(text).tool for text in texts} == {"bash", "submit"}


def test_cwm_prompt_holds_what_the_paper_lists(task: Task, first: Observation) -> None:
    rendered = CwmProfile().render_first(task, first, TAGS, Budget(6, 1000, 131_072))
    system, user = rendered.messages
    assert (system.role, user.role) == ("system", "user")
    assert system.content.index("<think>") < system.content.index("</think>") < system.content.index("# Environment")
    for fact in ("30 seconds", "6 steps", "131072 tokens", "32768 bytes", "<tool: NAME>\nBODY\n</tool>", "## create"):
        assert fact in system.content
    assert "<issue_description>\nIn pkg/a.py the comparison is wrong.\n</issue_description>" in user.content
    assert "/repo" in user.content
    text = text_of(rendered.pieces)
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou solve")
    assert text.endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\n")


def test_cwm_without_reasoning_opens_no_tag(task: Task, first: Observation) -> None:
    rendered = CwmProfile(is_reasoning=False).render_first(task, first, FunctionProtocol(), Budget(6))
    assert rendered.messages[0].content.startswith("# Environment")
    assert "tokens of context" not in rendered.messages[0].content
    assert '"name": "create"' in rendered.messages[0].content
    assert text_of(rendered.pieces).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_cwm_observation_is_a_tool_message_with_a_budget() -> None:
    observation = Observation(text=" a\n", exit_code=0)
    rendered = CwmProfile(is_reasoning=False).render_observation(observation, "bash", Budget(4, 77, 100))
    assert text_of(rendered.pieces) == (
        "<|start_header_id|>tool: bash<|end_header_id|>\n\n<output>\n a\n\n</output>\n\n<budget>\nremaining turns: 4\n"
        "remaining tokens: 77\n</budget><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    complaint = CwmProfile().render_observation(Observation(text="no tool call found"), "", Budget(4))
    assert complaint.messages[0].role == "user"
    assert EOT in complaint.pieces


def test_a_statement_with_braces_and_tags_is_shown_as_it_is(task: Task, first: Observation) -> None:
    odd = task.model_copy(update={"statement": "{x} %s </issue_description> <|eot_id|>"})
    rendered = CwmProfile().render_first(odd, first, TAGS, Budget(6))
    assert "{x} %s </issue_description> <|eot_id|>" in rendered.messages[1].content
    assert sum(piece == EOT for piece in rendered.pieces) == 2
