"""What a build did, as Markdown and as one HTML page without anything from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BuildReport"]

MAX_ROWS = 40
STATUS_TEXT = {
    "broken": "breaks a stable test (could be a task)",
    "survived": "no test notices",
    "timed_out": "ran out of time, also when tried alone",
    "out_of_memory": "ran out of memory",
    "aborted": "pytest did not come to its end",
    "flaky": "two runs of the same tree disagree",
    "part_survived": "one of its bugs breaks nothing of its own",
    "too_few_fail": "fewer tests fail than asked for",
    "too_many_fail": "more tests fail than asked for",
}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}
pre{background:#f6f6f6;padding:.6rem;overflow-x:auto}.add{color:#060}.del{color:#a00}"""
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


@dataclass(slots=True)
class BuildReport:
    """What a build did."""

    folder: str
    source: str
    num_train: int
    num_heldout: int
    num_candidates: int
    num_stable_tests: int
    num_unstable_tests: int
    verdicts: dict[str, int] = field(default_factory=dict)
    """Status -> candidates, of this build and of the interrupted ones before it."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Mutation kind -> tasks."""
    num_graded: int = 0
    """Tasks whose gold patch the grader resolved."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall time."""
    shares: dict[str, float] = field(default_factory=dict)
    """Mutation kind -> per cent asked for."""
    operators: dict[str, int] = field(default_factory=dict)
    """`kind/operator` -> tasks."""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """Mutation kind -> why not -> candidates."""
    num_near_duplicates: int = 0
    """Candidates that break a test and are too like a task of the set, or too many of one function."""
    unstable: dict[str, str] = field(default_factory=dict)
    """Test id -> where it did not pass."""
    requirements: dict[str, str] = field(default_factory=dict)
    """What was installed -> where it was found."""
    notes: list[str] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Task id and its gold patch. The report is the builder's, not the agent's: it lies outside workspace/."""

    def facts(self) -> list[str]:
        lines = [
            f"{self.num_train} training and {self.num_heldout} held-out tasks, of {self.num_candidates} candidates",
            f"{self.num_stable_tests} stable tests; {self.num_unstable_tests} left out, not passing every time",
            f"{self.num_graded} gold patches resolved by the grader",
        ]
        if self.num_near_duplicates:
            lines.append(f"{self.num_near_duplicates} candidates that break a test left out as near duplicates")
        return lines + self.notes

    def tables(self) -> list[Table]:
        """Title, head and rows of every table that has rows."""
        total = max(sum(self.kinds.values()), 1)
        kinds = [
            [kind, str(self.kinds.get(kind, 0)), f"{100 * self.kinds.get(kind, 0) / total:.0f} %"]
            + ([f"{self.shares.get(kind, 0):.0f} %"] if self.shares else [])
            for kind in sorted({*self.kinds, *self.shares})
        ]
        reasons = [
            [kind, reason, str(count)]
            for kind, counts in sorted(self.dropped.items())
            for reason, count in sorted(counts.items())
        ]
        tables: list[Table] = [
            (
                "Candidates",
                ("candidates", "count", "meaning"),
                [[name, str(count), STATUS_TEXT.get(name, "")] for name, count in sorted(self.verdicts.items())],
            ),
            (
                "Kinds",
                ("mutation kind", "tasks", "share", "asked for")
                if self.shares
                else ("mutation kind", "tasks", "share"),
                kinds,
            ),
            ("Operators", ("operator", "tasks"), [[name, str(n)] for name, n in sorted(self.operators.items())]),
            ("Dropped candidates", ("mutation kind", "why", "count"), reasons),
            ("Unstable tests", ("test", "where it did not pass"), _limited(self.unstable.items())),
            ("Installed", ("requirement", "found in"), _limited(self.requirements.items())),
            ("Times", ("stage", "seconds"), [[name, f"{seconds:.1f}"] for name, seconds in self.seconds.items()]),
        ]
        return [table for table in tables if table[2]]

    def markdown(self) -> str:
        """The text of report.md."""
        lines = [f"# Mutate-fix tasks from {self.source}", "", *(f"- {fact}" for fact in self.facts())]
        for title, head, rows in self.tables():
            lines += ["", f"## {title}", "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]
        if self.examples:
            lines += ["", "## Examples"]
        for task_id, diff in self.examples:
            fence = "`" * (4 if "```" in diff else 3)
            lines += ["", f"### {task_id}", "", f"{fence}diff", diff.rstrip("\n"), fence]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The text of report.html."""
        title = html.escape(f"Mutate-fix tasks from {self.source}")
        parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"]
        parts += [f"<h1>{title}</h1><ul>", *(f"<li>{html.escape(fact)}" for fact in self.facts()), "</ul>"]
        for name, head, rows in self.tables():
            parts += [f"<h2>{name}</h2><table>", _html_row("th", head), *(_html_row("td", row) for row in rows)]
            parts.append("</table>")
        parts += ["<h2>Examples</h2>"] if self.examples else []
        for task_id, diff in self.examples:
            parts.append(f"<h3>{html.escape(task_id)}</h3><pre>{_coloured(diff)}</pre>")
        return "\n".join(parts) + "\n</html>\n"

    def write(self, folder: Path) -> None:
        """Write report.md and report.html."""
        (folder / "report.md").write_text(self.markdown(), "utf-8")
        (folder / "report.html").write_text(self.html(), "utf-8")


def _limited(items: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    rows = list(items)
    return rows[:MAX_ROWS] + ([["...", f"and {len(rows) - MAX_ROWS} more"]] if len(rows) > MAX_ROWS else [])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)


def _coloured(diff: str) -> str:
    lines = []
    for line in diff.rstrip("\n").split("\n"):
        style = {"+": "add", "-": "del"}.get(line[:1])
        text = html.escape(line)
        lines.append(f"<span class={style}>{text}</span>" if style else text)
    return "\n".join(lines)
