"""edit: one SEARCH/REPLACE block in one file. The editing is done on the host, so an image needs no Python for it."""

from __future__ import annotations

from swegym.core.action import ToolSpec
from swegym.core.errors import FormatError, SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits
from swegym.envs.tools.base import ToolResult
from swegym.envs.tools.output import clip_middle
from swegym.envs.tools.paths import absolute_path, inspect_path, path_problem, split_path_line
from swegym.envs.tools.search_replace import (
    Block,
    Replacement,
    find_block,
    parse_block,
    replace_block,
    split_lines,
)

__all__ = ["EditTool"]

CONTEXT_LINES = 8
MAX_NAMED_MATCHES = 20


class EditTool:
    """Source: CWM (arXiv 2510.02387) section 5.3.1, tool `edit`; unlike its plug-in this one keeps every other byte."""

    allows_empty_body = False
    spec = ToolSpec(
        name="edit",
        description=(
            "Replace lines of an existing file. The SEARCH part must be whole lines of the file, white space included, "
            "and must occur exactly once. An empty REPLACE part deletes them. One block in each call."
        ),
        body_format=(
            "Line 1: the file's path, absolute or relative to the repository's root. Then one block:\n"
            "<<<<<<< SEARCH\nlines as they are\n=======\nlines as they shall be\n>>>>>>> REPLACE"
        ),
        parameters={
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "Absolute, or relative to the repository's root."},
                "block": {
                    "type": "string",
                    "description": (
                        "<<<<<<< SEARCH\\n, the lines as they are, =======\\n, the lines as they shall be, "
                        ">>>>>>> REPLACE; each marker on a line of its own."
                    ),
                },
            },
            "required": ["path", "block"],
            "additionalProperties": False,
        },
        body_template="{path}\n{block}",
    )

    async def run(self, sandbox: Sandbox, task: Task, body: str, limits: TaskLimits) -> ToolResult:
        path, text = split_path_line(body)
        if problem := path_problem(path):
            return _refuse(problem)
        try:
            block = parse_block(text)
        except FormatError as error:
            return _refuse(str(error))
        full_path = absolute_path(path, task)
        try:
            data = await sandbox.read_file(full_path)
        except FileNotFoundError:
            return _refuse(f"there is no file {path}")
        except SandboxLost:
            raise
        except SandboxError as error:  # a folder, a device, no permission
            facts = await inspect_path(sandbox, full_path)
            return _refuse(f"{path} is a {facts.kind}" if facts.kind != "file" else f"cannot read {path}: {error}")
        lines = split_lines(data)
        found = find_block(lines, block.search)
        if len(found) != 1:
            return _refuse(_why_not_once(path, lines, block, found))
        replacement = replace_block(lines, found[0], block)
        if replacement.data == data:
            return _refuse("the edit would change nothing in the file")
        try:
            await sandbox.write_file(full_path, replacement.data)
        except SandboxLost:
            raise
        except SandboxError as error:  # a read-only file, a full disk: the agent's to solve
            return _refuse(f"cannot write {path}: {error}")
        shown, gone = clip_middle(_report(path, replacement).encode(), limits.observation_limit_bytes)
        return ToolResult(shown, exit_code=0, truncated_bytes=gone)


def _refuse(why: str) -> ToolResult:
    return ToolResult(f"edit: {why}.", exit_code=1)


def _why_not_once(path: str, lines: list[bytes], block: Block, found: list[int]) -> str:
    if found:
        numbers = ", ".join(str(index + 1) for index in found[:MAX_NAMED_MATCHES])
        more = " and more" if len(found) > MAX_NAMED_MATCHES else ""
        return f"the SEARCH part occurs {len(found)} times in {path}, at lines {numbers}{more}; add lines around it"
    loose = [b" ".join(line.split()) for line in lines]
    wanted = [b" ".join(line.encode().split()) for line in block.search]
    for index in range(len(loose) - len(wanted) + 1):
        if loose[index : index + len(wanted)] == wanted:
            return f"the SEARCH part does not occur in {path}; line {index + 1} differs from it in white space only"
    return f"the SEARCH part does not occur in {path}; it must be whole lines, exactly as in the file"


def _report(path: str, replacement: Replacement) -> str:
    """Where the edit went, and the lines around it with their numbers."""
    first, new, total = replacement.first_line, replacement.num_new_lines, replacement.num_total_lines
    start = max(1, first - CONTEXT_LINES)
    stop = min(total, first + new - 1 + CONTEXT_LINES)
    lines = split_lines(replacement.data)[start - 1 : stop]
    shown = "\n".join(
        f"{number:6d}\t{line.rstrip(chr(10).encode()).decode('utf-8', errors='replace').rstrip(chr(13))}"
        for number, line in enumerate(lines, start)
    )
    return f"Edited {path} at line {first}; it has {total} line{'s' if total != 1 else ''} now.\n{shown}"
