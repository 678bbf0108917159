"""Turning bytes into the text of an observation: bounded, with what was left out, and with what the exit code means."""

from __future__ import annotations

from swegym.core.sandbox import ExecResult

__all__ = ["clip_middle", "result_text"]


def clip_middle(data: bytes, limit_bytes: int) -> tuple[str, int]:
    """Head and tail of `data` as text, whole lines where possible.

    Returns:
        The text, with a line in the middle that says how many bytes are gone, and that number (0: nothing is).
    """
    if len(data) <= limit_bytes:
        return data.decode("utf-8", errors="replace"), 0
    head, tail = data[: limit_bytes // 2], data[len(data) - limit_bytes // 2 :]
    if (end := head.rfind(b"\n")) > len(head) // 2:
        head = head[: end + 1]
    if 0 <= (start := tail.find(b"\n")) < len(tail) // 2:
        tail = tail[start + 1 :]
    gone = len(data) - len(head) - len(tail)
    note = f"{'' if head.endswith(bytes((10,))) else chr(10)}[{gone} bytes left out]\n"
    return head.decode("utf-8", errors="replace") + note + tail.decode("utf-8", errors="replace"), gone


def result_text(output: str, result: ExecResult, timeout_s: float) -> str:
    """A command's output, then one line for each thing that the output does not show."""
    notes = []
    if result.truncated_bytes:
        notes.append(f"[{result.truncated_bytes} bytes in the middle of the output were left out]")
    if result.killed_by == "timeout":
        notes.append(f"[killed: time limit of {timeout_s:g} s; the output up to then is above]")
    elif result.killed_by == "oom":
        notes.append("[killed: out of memory]")
    elif result.killed_by == "disk":
        notes.append("[killed: disk full; delete what is not needed]")
    elif result.killed_by == "output":
        notes.append("[killed: too much output]")
    elif result.exit_code != 0:
        notes.append(f"[exit code {result.exit_code}]")
    if result.shell_restarted:
        notes.append("[the shell ended and was started again]")
    if not notes:
        return output
    gap = "" if not output or output.endswith("\n") else "\n"
    return output + gap + "\n".join(notes)
