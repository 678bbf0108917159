"""What every reader of a log shares: clean text, the worst of several results, and ids as data sets cut them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from swegym.core.outcome import TestStatus

__all__ = ["LogParser", "ParsedLog", "clean_text", "is_artefact", "match_ids", "worst"]

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_SEVERITY = {
    status: place
    for place, status in enumerate(
        (
            TestStatus.PASSED,
            TestStatus.XFAIL,
            TestStatus.XPASS,
            TestStatus.SKIPPED,
            TestStatus.FAILED,
            TestStatus.ERROR,
        )
    )
}
_ARTEFACT = re.compile(r"\[\s*\d+%?\]")
_MOUSE_BUTTONS = {"MouseButton.LEFT": "1", "MouseButton.RIGHT": "3"}


@dataclass(slots=True)
class ParsedLog:
    """Statuses by test id as the runner prints it, and whether the log is whole."""

    statuses: dict[str, TestStatus] = field(default_factory=dict)
    ended: bool = False
    """Whether the runner's own last line was seen."""
    problems: list[str] = field(default_factory=list)
    """Why the log contradicts itself, e.g. a count that differs from the results listed."""

    def add(self, test_id: str, status: TestStatus) -> None:
        """Of several results under one id, the worst counts."""
        before = self.statuses.get(test_id)
        self.statuses[test_id] = status if before is None else worst((before, status))


LogParser = Callable[[str], ParsedLog]


def clean_text(data: bytes | str) -> str:
    """Text without terminal codes; a byte that is not UTF-8 costs that character and nothing else."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return _ANSI.sub("", text).replace("\r\n", "\n")


def worst(statuses: Iterable[TestStatus]) -> TestStatus:
    """The one that says most against a test."""
    return max(statuses, key=lambda status: _SEVERITY.get(status, len(_SEVERITY)))


def is_artefact(test_id: str) -> bool:
    """Whether a data set took a progress mark (`[100%]`) or a skip count (`[1]`) for a test."""
    return _ARTEFACT.fullmatch(test_id.strip()) is not None


def match_ids(required: Iterable[str], statuses: Mapping[str, TestStatus]) -> dict[str, TestStatus]:
    """Status of each required id; an id that a data set cut or rewrote stands for every test that it could mean.

    Data sets hold ids cut at the first blank (`test_a[x`), paths in parameters cut to their last part, and enumeration
    members written as numbers. Such an id is passed only if all that it could mean are. An id that is there as it is
    stands for itself alone.
    """
    found: dict[str, TestStatus] = {}
    by_alias: dict[str, list[TestStatus]] = {}
    for test_id, status in statuses.items():
        for alias in _aliases(test_id):
            by_alias.setdefault(alias, []).append(status)
    for test_id in required:
        if test_id in statuses:
            found[test_id] = statuses[test_id]
            continue
        candidates = list(by_alias.get(test_id, ()))
        if test_id.count("[") > test_id.count("]"):
            candidates = [status for known, status in statuses.items() if known.startswith(test_id)]
        elif not candidates and test_id != test_id.strip():
            candidates = list(by_alias.get(test_id.strip(), ())) or [
                status for known, status in statuses.items() if known.strip() == test_id.strip()
            ]
        found[test_id] = worst(candidates) if candidates else TestStatus.MISSING
    return found


def _aliases(test_id: str) -> set[str]:
    """Other spellings under which data sets hold this id."""
    found = set()
    head, bracket, option = test_id.partition("[")
    if bracket and option.startswith("/") and not option.startswith("//") and "*" not in option:
        found.add(f"{head}[/{option.rsplit('/', 1)[-1]}")
    renamed = test_id
    for name, number in _MOUSE_BUTTONS.items():
        renamed = renamed.replace(name, number)
    found.add(renamed)
    found.discard(test_id)
    return found
