"""Likeness of a patch to the gold patch, by the rule of CWM's reward (cwm.md 5.3).

Pure text work: nothing here applies a patch or touches a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher

__all__ = ["FileDiff", "parse_patch", "patch_similarity"]

MAX_CHARACTERS = 20_000
"""difflib's ratio is quadratic; longer hunks are compared line by line instead of character by character."""


@dataclass(slots=True)
class FileDiff:
    """One file's part of a unified diff."""

    old_path: str | None
    """None: the file is created."""
    new_path: str | None
    """None: the file is deleted."""
    is_binary: bool = False
    hunk_lines: list[str] = field(default_factory=list)
    """Lines of all hunks with their leading blank, + or -, without the @@ lines and line ends."""

    @property
    def path(self) -> str:
        return self.new_path or self.old_path or ""

    def normalised(self) -> str:
        """Text that is compared: hunks without line numbers and trailing blanks; a rename is one header line."""
        lines = [line[:1] + line[1:].rstrip() for line in self.hunk_lines]
        if self.old_path and self.new_path and self.old_path != self.new_path:
            lines.insert(0, f"rename {self.old_path} {self.new_path}")
        return "\n".join(lines)


def patch_similarity(patch: str, gold_patch: str) -> float:
    """Mean over the gold patch's files of the difflib ratio between normalised hunks.

    Args:
        patch: the predicted unified diff. Its files that the gold patch does not touch are ignored.
        gold_patch: the reference diff; its binary files are ignored.

    Returns:
        0.0 to 1.0; a gold file that the patch does not touch counts 0. 0.0 when the gold patch has no text file.

    Source: CWM (arXiv 2510.02387) section 5.3.1. Hunks beyond `MAX_CHARACTERS` are compared by lines.
    """
    gold = [diff for diff in parse_patch(gold_patch) if not diff.is_binary]
    predicted = {diff.path: diff for diff in parse_patch(patch) if not diff.is_binary}
    ratios = [_ratio(diff, predicted.get(diff.path)) for diff in gold]
    return sum(ratios) / len(ratios) if ratios else 0.0


def _ratio(gold: FileDiff, predicted: FileDiff | None) -> float:
    if predicted is None:
        return 0.0
    left, right = predicted.normalised(), gold.normalised()
    if left == right:
        return 1.0
    if max(len(left), len(right)) > MAX_CHARACTERS:
        return SequenceMatcher(None, left.split("\n"), right.split("\n")).ratio()
    return SequenceMatcher(None, left, right).ratio()


def parse_patch(patch: str) -> list[FileDiff]:
    """Split a unified diff (git's or plain) into files. Text that is no diff gives an empty list; never raises."""
    files: list[FileDiff] = []
    lines = iter(patch.split("\n"))
    current: FileDiff | None = None
    old_header: str | None = None
    for line in lines:
        if line.startswith("diff --git "):
            old_path, new_path = _git_header_paths(line[len("diff --git ") :])
            current = FileDiff(old_path, new_path)
            files.append(current)
            old_header = None
        elif line.startswith("--- "):
            old_header = line[4:]
        elif line.startswith("+++ ") and old_header is not None:
            if current is None or current.hunk_lines:
                current = FileDiff(None, None)
                files.append(current)
            current.old_path, current.new_path = _strip_side(old_header), _strip_side(line[4:])
            old_header = None
        elif line.startswith("@@ ") and current is not None:
            current.hunk_lines.extend(_hunk(line, lines))
        elif current is not None:
            _extended_header(current, line)
    return files


def _extended_header(diff: FileDiff, line: str) -> None:
    if line.startswith("new file mode"):
        diff.old_path = None
    elif line.startswith("deleted file mode"):
        diff.new_path = None
    elif line.startswith("rename from "):
        diff.old_path = _unquote(line[len("rename from ") :])
    elif line.startswith("rename to "):
        diff.new_path = _unquote(line[len("rename to ") :])
    elif line.startswith(("GIT binary patch", "Binary files ")):
        diff.is_binary = True


def _hunk(header: str, lines: Iterator[str]) -> list[str]:
    """Read the body of one hunk by the counts in its header, so that a removed `-- x` line is no file header."""
    spans = header.split(" ")[1:3]
    try:
        old_left, new_left = (int(span[1:].partition(",")[2] or "1") for span in spans)
    except ValueError:
        return []
    body: list[str] = []
    while old_left > 0 or new_left > 0:
        line = next(lines, None)
        if line is None:
            break
        kind = line[:1] or " "  # some tools strip the blank of an empty context line
        if kind == "\\":
            continue
        old_left -= kind in " -"
        new_left -= kind in " +"
        body.append(kind + line[1:])
    return body


def _strip_side(header: str) -> str | None:
    """`a/x.py<TAB>date` -> `x.py`; `/dev/null` -> None."""
    path = _unquote(header if header.startswith('"') else header.partition("\t")[0])
    if path == "/dev/null":
        return None
    return path[2:] if path[:2] in ("a/", "b/") else path


def _git_header_paths(text: str) -> tuple[str, str]:
    """Paths of a `diff --git` line: both sides are equal unless other header lines say so."""
    text = text.rstrip("\r")
    if text.startswith('"'):
        end = text.find('" ', 1)
        return _unquote(text[: end + 1])[2:], _unquote(text[end + 2 :])[2:]
    if text.endswith('"'):
        start = text.find(' "')
        return text[2:start], _unquote(text[start + 1 :])[2:]
    middle = len(text) // 2
    if len(text) % 2 and text[middle] == " " and text[2:middle] == text[middle + 3 :]:
        return text[2:middle], text[middle + 3 :]
    old, _, new = text.partition(" b/")
    return old[2:], new


def _unquote(text: str) -> str:
    r"""Undo git's C quoting: `"a/na\303\257ve"` -> `a/naïve`."""
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    escapes = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
    data = bytearray()
    position, inner = 0, text[1:-1]
    while position < len(inner):
        letter = inner[position]
        if letter != "\\" or position + 1 >= len(inner):
            data += letter.encode("utf-8", "surrogateescape")
            position += 1
        elif inner[position + 1] in escapes:
            data.append(escapes[inner[position + 1]])
            position += 2
        else:
            octal = inner[position + 1 : position + 4]
            if len(octal) == 3 and all(digit in "01234567" for digit in octal):
                data.append(int(octal, 8) & 0xFF)
                position += 4
            else:
                data += b"\\"
                position += 1
    return data.decode("utf-8", "replace")
