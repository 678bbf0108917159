import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swegym.agents.parse import ActionProtocol, BashBlockProtocol, FunctionProtocol, TagProtocol, strip_reasoning
from swegym.core.action import ToolCall, ToolSpec
from swegym.core.errors import FormatError
from swegym.core.registries import tools as tool_registry

TAGS = TagProtocol()


@pytest.mark.parametrize(
    ("text", "tool", "body"),
    [
        ("<tool: bash>\nls -la\n</tool>", "bash", "ls -la"),
        ("I look first.\n\n<tool: bash>\nls\n</tool>\nAfter that I go on.", "bash", "ls"),
        ("<tool: bash>\ncat <<'E'\na\n\nb\nE\n</tool>", "bash", "cat <<'E'\na\n\nb\nE"),
        ("<tool: create>\na.py\n\n  x = 1\n\n</tool>", "create", "a.py\n\n  x = 1\n"),
        ("<tool: bash>\n\techo \ttab\r\n</tool>", "bash", "\techo \ttab\r"),
        ("<tool: bash>\necho '<tool>' '</tools>'\n</tool>", "bash", "echo '<tool>' '</tools>'"),
        ("<tool: submit>\n</tool>", "submit", ""),
        ("<tool: submit>\n\n</tool>", "submit", ""),
        ("<tool: submit>\n/tmp/p.diff\n</tool>", "submit", "/tmp/p.diff"),
        ("<tool: my_tool>\nx\n</tool>", "my_tool", "x"),
        ("<tool: bash>\n" + "x" * 300_000 + "\n</tool>", "bash", "x" * 300_000),
    ],
)
def test_tags(text: str, tool: str, body: str) -> None:
    assert TAGS.parse(text) == ToolCall(tool=tool, body=body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tool call found"),
        ("I am done.", "no tool call found"),
        ("<tool:bash>\nls\n</tool>", "malformed"),
        ("<tool: bash>ls</tool>", "malformed"),
        ("<tool: bash>\nls</tool>", "malformed"),
        ("<tool: bash> \nls\n</tool>", "malformed"),
        ("<tool: ba sh>\nls\n</tool>", "malformed"),
        ("<tool: bash2>\nls\n</tool>", "malformed"),
        ("</tool>\n<tool: bash>\nls", "malformed"),
        ("<tool: bash>\nls\n", "1 opening and 0 closing"),
        ("ls\n</tool>", "0 opening and 1 closing"),
        ("<tool: bash>\necho '</tool>'\n</tool>", "1 opening and 2 closing"),
        ("<tool: bash>\nls\n</tool>\n<tool: bash>\npwd\n</tool>", "2 tool calls found"),
        ("<tool: bash>\n</tool>", "body of tool 'bash' is empty"),
        ("<tool: bash>\n  \n\t\n</tool>", "body of tool 'bash' is empty"),
        ("<TOOL: bash>\nls\n</TOOL>", "no tool call found"),
    ],
)
def test_malformed_tags_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        TAGS.parse(text)


@given(st.text(min_size=1).filter(lambda text: text.strip() and "<tool:" not in text and "</tool>" not in text))
def test_what_tags_render_they_read(body: str) -> None:
    call = ToolCall(tool="edit", body=body)
    assert TAGS.parse(f"Thinking about it.\n{TAGS.render(call)}\n") == call


@pytest.mark.parametrize(
    ("text", "answer"),
    [("why\n</think>\nanswer", "\nanswer"), ("<think>\na\n</think>b", "b"), ("</think>", "")],
)
def test_reasoning_is_cut_off(text: str, answer: str) -> None:
    assert strip_reasoning(text) == answer


def test_reasoning_must_be_closed_exactly_once() -> None:
    with pytest.raises(FormatError, match="not closed"):
        strip_reasoning("<think>\n<tool: bash>\nls\n</tool>")
    with pytest.raises(FormatError, match="occurs 2 times"):
        strip_reasoning("a</think>b</think>c")
    assert strip_reasoning("a</think>b</think>c", strict=False) == "c"


def function(name: str, arguments: object) -> str:
    return f"I call.\n<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (function("bash", {"command": "ls\npwd"}), ToolCall(tool="bash", body="ls\npwd")),
        (function("bash", json.dumps({"command": "ls"})), ToolCall(tool="bash", body="ls")),
        (function("create", {"content": "{x}", "path": "a.py"}), ToolCall(tool="create", body="a.py\n{x}")),
        (function("submit", {}), ToolCall(tool="submit")),
        (function("submit", None), ToolCall(tool="submit")),
        (function("submit", ""), ToolCall(tool="submit")),
        (function("submit", {"path": "/tmp/p"}), ToolCall(tool="submit", body="/tmp/p")),
    ],
)
def test_functions(text: str, call: ToolCall, tools: tuple[ToolSpec, ...]) -> None:
    assert FunctionProtocol().parse(text, tools) == call


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "no function call found"),
        (function("bash", {"command": "a"}) * 2, "2 function calls found"),
        ("<tool_call>\n{}", "1 opening and 0 closing"),
        ("</tool_call> <tool_call>", "1 opening and 1 closing"),
        ("<tool_call>\n{not json}\n</tool_call>", "not valid JSON"),
        ("<tool_call>\n[1]\n</tool_call>", 'JSON object with "name"'),
        (function("bash", "{oops"), "arguments of 'bash' are not valid JSON"),
        (function("bash", [1]), "must be a JSON object"),
        (function("rm", {}), "no function 'rm'; there are bash, create, submit"),
        (function("bash", {}), r"missing arguments \['command'\]"),
        (function("bash", {"command": "a", "cwd": "/"}), r"unknown arguments \['cwd'\]; it takes \['command'\]"),
        (function("bash", {"command": 3}), "argument 'command' must be of type string"),
        (function("bash", {"command": True}), "argument 'command' must be of type string"),
        (function("bash", {"command": "  "}), "arguments are empty"),
    ],
)
def test_malformed_functions_say_what_is_wrong(text: str, message: str, tools: tuple[ToolSpec, ...]) -> None:
    with pytest.raises(FormatError, match=message):
        FunctionProtocol().parse(text, tools)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("Look:\n```bash\nls\npwd\n```\nok", ToolCall(tool="bash", body="ls\npwd")),
        ("```sh\nls\n```", ToolCall(tool="bash", body="ls")),
        ("```python\nx\n```\n```bash\nls\n```", ToolCall(tool="bash", body="ls")),
        ("```bash\nsubmit\n```", ToolCall(tool="submit")),
        ("```bash\nsubmit /tmp/p.diff\n```", ToolCall(tool="submit", body="/tmp/p.diff")),
        ("```bash\nsubmit a b\n```", ToolCall(tool="bash", body="submit a b")),
        ("```bash\nsubmit\nls\n```", ToolCall(tool="bash", body="submit\nls")),
    ],
)
def test_bash_blocks(text: str, call: ToolCall) -> None:
    assert BashBlockProtocol().parse(text) == call


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ls", "no command found"),
        ("```\nls\n```", "no command found"),
        ("```bash\nls", "no command found"),
        ("```bash\nls\n```\n```bash\npwd\n```", "2 bash blocks"),
        ("```bash\n\n```", "empty"),
    ],
)
def test_malformed_bash_blocks(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        BashBlockProtocol().parse(text)


def test_bash_block_round_trip_and_limits() -> None:
    protocol = BashBlockProtocol()
    for call in (ToolCall(tool="bash", body="a\nb"), ToolCall(tool="submit"), ToolCall(tool="submit", body="/p")):
        assert protocol.parse(protocol.render(call)) == call
    with pytest.raises(FormatError, match="cannot call tool 'edit'"):
        protocol.render(ToolCall(tool="edit", body="x"))


@pytest.mark.parametrize("call", [ToolCall(tool="create", body="a.py\n{x}"), ToolCall(tool="submit")])
def test_what_functions_render_they_read(call: ToolCall, tools: tuple[ToolSpec, ...]) -> None:
    protocol = FunctionProtocol()
    assert protocol.parse(protocol.render(call), tools) == call


def test_protocols_do_not_read_each_other(tools: tuple[ToolSpec, ...]) -> None:
    texts: dict[ActionProtocol, str] = {
        TAGS: "<tool: bash>\nls\n</tool>",
        FunctionProtocol(): function("bash", {"command": "ls"}),
        BashBlockProtocol(): "```bash\nls\n```",
    }
    for reader, writer in permutations(texts, 2):
        with pytest.raises(FormatError):
            reader.parse(texts[writer], tools)


@pytest.mark.parametrize("name", tool_registry.names())
def test_every_registered_tool_can_be_called_as_a_function(name: str) -> None:
    spec = tool_registry.get(name)().spec
    arguments = {key: f"value of {key}" for key in spec.parameters["properties"]}
    assert set(spec.parameters.get("required", ())) <= set(arguments)
    body = FunctionProtocol().parse(function(name, arguments), [spec]).body
    assert all(f"value of {key}" in body for key in arguments)
    assert spec.description
    assert spec.body_format
