"""From a model's text to one tool call: pure functions behind named protocols.

    tags        CWM's tool tags (cwm.md 5.1): `<tool: NAME>`, the body, `</tool>`, each tag on a line of its own
    functions   a function call: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as endpoints and many open
                models write it; the arguments become a body through the tool's own ToolSpec
    bash_block  one fenced bash block; a block that says `submit` or `submit PATH` submits

An env knows none of this. Every FormatError says what is wrong and what would be right: the model reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from string import Formatter
from typing import Any, Protocol

from swegym.core.action import ToolCall, ToolSpec
from swegym.core.errors import FormatError

__all__ = [
    "ActionProtocol",
    "BashBlockProtocol",
    "FunctionProtocol",
    "TagProtocol",
    "call_from_arguments",
    "strip_reasoning",
]

_THINK_END = "</think>"
_TAG_CALL = re.compile(r"<tool:\s([A-Za-z_]+)>\n((?:.*?\n)?)</tool>", re.DOTALL)
_FUNCTION_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_BASH_BLOCK = re.compile(r"^```(?:bash|sh|shell)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_TAG_LAYOUT = "write `<tool: NAME>`, a newline, the body, a newline and `</tool>`"
_RAW_BODY = ToolSpec(name="", description="", body_format="")
"""How a call is read that gives the whole body as it is: what FunctionProtocol.render writes."""
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}


class ActionProtocol(Protocol):
    """How a model writes a tool call."""

    name: str

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> ToolCall:
        """The one tool call in the text. Raises FormatError."""
        ...

    def render(self, call: ToolCall) -> str:
        """The text that `parse` reads as this call."""
        ...

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        """What a system prompt says about tools and how to call them."""
        ...


def strip_reasoning(text: str, *, strict: bool = True) -> str:
    """The answer after `</think>`.

    Raises:
        FormatError: the reasoning is not closed, or (strict) closed more than once.
    """
    count = text.count(_THINK_END)
    if count == 0:
        raise FormatError("your reasoning was not closed: write </think> once, then the tool call")
    if count > 1 and strict:
        raise FormatError(f"</think> occurs {count} times: write it once, between your reasoning and the tool call")
    return text.rpartition(_THINK_END)[2]


class TagProtocol:
    """CWM's tool tags. Source: cwm.md 5.1; unlike there, `submit` may have an empty body."""

    name = "tags"

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> ToolCall:
        """Exactly one call. Raises FormatError."""
        opened, closed = text.count("<tool:"), text.count("</tool>")
        if opened == closed == 0:
            raise FormatError(f"no tool call found: {_TAG_LAYOUT}")
        if opened != closed:
            raise FormatError(f"{opened} opening and {closed} closing tool tags: each call needs one of each")
        if opened > 1:
            raise FormatError(f"{opened} tool calls found: make exactly one in each message")
        match = _TAG_CALL.search(text)
        if match is None:
            raise FormatError(f"the tool call is malformed: {_TAG_LAYOUT}")
        name, body = match[1], match[2].removesuffix("\n")
        if not body.strip() and name != "submit":
            raise FormatError(f"the body of tool {name!r} is empty")
        return ToolCall(tool=name, body=body if body.strip() else "")

    def render(self, call: ToolCall) -> str:
        """Tags around the body; a body that holds tool tags itself cannot be expressed."""
        return f"<tool: {call.tool}>\n{call.body}\n</tool>" if call.body else f"<tool: {call.tool}>\n</tool>"

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        listed = "\n\n".join(f"## {tool.name}\n{tool.description}\nBody: {tool.body_format}" for tool in tools)
        return (
            "Call a tool with an opening tag, a body and a closing tag, each tag alone on its line:\n"
            f"<tool: NAME>\nBODY\n</tool>\n\nThese tools exist:\n\n{listed}"
        )


class FunctionProtocol:
    """Function calls as JSON in `<tool_call>` tags. Endpoint policies write real function calls in this form."""

    name = "functions"

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> ToolCall:
        """Exactly one call of one of `tools`. Raises FormatError."""
        opened, closed = text.count("<tool_call>"), text.count("</tool_call>")
        if opened == closed == 0:
            raise FormatError("no function call found: call exactly one function in each message")
        calls = _FUNCTION_CALL.findall(text)
        if opened != closed or len(calls) != opened:
            raise FormatError(f"{opened} opening and {closed} closing <tool_call> tags: each call needs one of each")
        if opened > 1:
            raise FormatError(f"{opened} function calls found: make exactly one in each message")
        try:
            call = json.loads(calls[0])
        except json.JSONDecodeError as error:
            raise FormatError(f"the function call is not valid JSON: {error}") from None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise FormatError('a function call is a JSON object with "name" and "arguments"')
        arguments = call.get("arguments") or {}
        if isinstance(arguments, str):  # endpoints send the arguments as JSON inside a string
            try:
                arguments = json.loads(arguments)
            except json.JSONDecodeError as error:
                raise FormatError(f"the arguments of {call['name']!r} are not valid JSON: {error}") from None
        return call_from_arguments(call["name"], arguments, tools)

    def render(self, call: ToolCall) -> str:
        """A call with the one argument `body`, which every tool takes in place of its own arguments."""
        arguments = {"body": call.body} if call.body else {}
        return f"<tool_call>\n{json.dumps({'name': call.tool, 'arguments': arguments})}\n</tool_call>"

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        listed = "\n".join(
            json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters})
            for tool in tools
        )
        return (
            "Call a function by writing its name and arguments as JSON between tags:\n"
            f'<tool_call>\n{{"name": "NAME", "arguments": {{}}}}\n</tool_call>\n\nThese functions exist:\n{listed}'
        )


class BashBlockProtocol:
    """One fenced bash block per message, for models that know no tools."""

    name = "bash_block"

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> ToolCall:
        """Exactly one block. Raises FormatError."""
        blocks = _BASH_BLOCK.findall(text)
        if not blocks:
            raise FormatError("no command found: write one block that opens with ```bash and closes with ```")
        if len(blocks) > 1:
            raise FormatError(f"{len(blocks)} bash blocks found: write exactly one in each message")
        body = blocks[0].removesuffix("\n")
        if not body.strip():
            raise FormatError("the bash block is empty")
        words = body.split()
        if words[0] == "submit" and len(words) <= 2 and "\n" not in body.strip():
            return ToolCall(tool="submit", body=words[1] if len(words) == 2 else "")
        return ToolCall(tool="bash", body=body)

    def render(self, call: ToolCall) -> str:
        """Raises FormatError: the protocol has no other tools than bash and submit."""
        if call.tool not in ("bash", "submit"):
            raise FormatError(f"a bash block cannot call tool {call.tool!r}")
        body = call.body if call.tool == "bash" else f"submit {call.body}".rstrip()
        return f"```bash\n{body}\n```"

    def instructions(self, tools: Sequence[ToolSpec]) -> str:
        return (
            "Run commands by writing exactly one fenced block in each message:\n```bash\nCOMMANDS\n```\n"
            "A block that holds only `submit` hands in your work."
        )


def call_from_arguments(name: str, arguments: Any, tools: Sequence[ToolSpec]) -> ToolCall:
    """A function call's arguments as a tool call, through the tool's `parameters` and `body_template`.

    Raises:
        FormatError: unknown function, or missing, unknown or wrongly typed arguments.
    """
    spec = next((tool for tool in tools if tool.name == name), None)
    if spec is None:
        raise FormatError(
            f"there is no function {name!r}; there are {', '.join(tool.name for tool in tools) or 'none'}"
        )
    if not isinstance(arguments, dict):
        raise FormatError(f"the arguments of {name!r} must be a JSON object")
    fields = [field for _, field, _, _ in Formatter().parse(spec.body_template) if field]
    properties: dict[str, Any] = spec.parameters.get("properties", {}) or {field: {} for field in fields}
    if set(arguments) == {"body"} and "body" not in properties:
        return call_from_arguments(name, arguments, (_RAW_BODY.model_copy(update={"name": name}),))
    unknown = sorted(set(arguments) - set(properties))
    missing = sorted(set(spec.parameters.get("required", ())) - set(arguments))
    if unknown or missing:
        problem = f"unknown arguments {unknown}" if unknown else f"missing arguments {missing}"
        raise FormatError(f"function {name!r}: {problem}; it takes {sorted(properties)}")
    for key, value in arguments.items():
        wanted = properties[key].get("type", "string")
        is_wrong_bool = isinstance(value, bool) and wanted != "boolean"
        if is_wrong_bool or not isinstance(value, _JSON_TYPES.get(wanted, object)):
            raise FormatError(f"function {name!r}: argument {key!r} must be of type {wanted}")
    body = spec.body_template.format(**(dict.fromkeys(fields, "") | arguments))
    if not body.strip() and name != "submit":
        raise FormatError(f"function {name!r}: its arguments are empty")
    return ToolCall(tool=name, body=body)
