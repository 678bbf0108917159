"""pytest's own output: the short test summary (`-rA`), and the progress lines of `-v`.

Only two places are read: progress lines before the first report section, and the last summary. What tests printed
stands between them (or is captured and shown there), so a printed `PASSED a.py::b` is no result.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from swegym.core.outcome import TestStatus
from swegym.envs.graders.log_parsers.base import ParsedLog

__all__ = ["parse_pytest", "parse_r2e"]

_STATUSES = {
    "PASSED": TestStatus.PASSED,
    "FAILED": TestStatus.FAILED,
    "FAIL": TestStatus.FAILED,
    "ERROR": TestStatus.ERROR,
    "SKIPPED": TestStatus.SKIPPED,
    "SKIP": TestStatus.SKIPPED,
    "XFAIL": TestStatus.XFAIL,
    "xfail": TestStatus.XFAIL,
    "XPASS": TestStatus.XPASS,
    "xpass": TestStatus.XPASS,
}
_NAMES = "|".join(_STATUSES)
_SECTION = re.compile(r"={3,} .+ ={3,}")
_REPORT = re.compile(r"=+ (?:FAILURES|ERRORS|PASSES|XFAILURES|XPASSES|warnings summary.*|short test summary info) =+")
_SUMMARY = re.compile(r"=+ short test summary info =+")
_FINAL = re.compile(r"=* ?(?:no tests ran|\d+ [a-z]+(?:, \d+ [a-z]+)*) in [\d.]+ ?s(?:econds)?(?: \([\d:]+\))? ?=*")
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|xfailed|xpassed|skipped)\b")
_AFTER = re.compile(rf"(?P<id>\S.*?) (?P<status>{_NAMES})(?: \(.*\))?(?:\s+\[\s*\d+%\])?")
_BEFORE = re.compile(rf"(?:\[gw\d+\]\s+)?(?:\[\s*\d+%\]\s+)?(?P<status>{_NAMES}) (?P<id>\S.*?)\s*")
_LINE = re.compile(rf"(?P<status>{_NAMES}) (?P<rest>\S.*)")
_PHASE = re.compile(r"at (?:setup|teardown) of (?=\S)")
_KINDS = {
    "passed": TestStatus.PASSED,
    "failed": TestStatus.FAILED,
    "xfailed": TestStatus.XFAIL,
    "xpassed": TestStatus.XPASS,
}


def parse_pytest(text: str) -> ParsedLog:
    """Statuses by node id. A test whose teardown fails is `error`, whatever its call was."""
    lines = text.split("\n")
    parsed = ParsedLog()
    start = max((place for place, line in enumerate(lines) if _SUMMARY.fullmatch(line.strip())), default=None)
    seen = _progress(lines, parsed)
    ends = [place for place, line in enumerate(lines) if _FINAL.fullmatch(line.strip())]
    counts = dict.fromkeys(_KINDS, 0)
    if start is not None:
        end = next((place for place in ends if place > start), len(lines))
        for line in lines[start + 1 : end]:
            match = _LINE.fullmatch(line.rstrip())
            if match is None:
                continue  # a further line of a message
            test_id = _id_of(match["rest"], seen, match["status"])
            if test_id is None:
                continue
            status = _STATUSES[match["status"]]
            parsed.add(test_id, status)
            for name, kind in _KINDS.items():
                counts[name] += kind is status
        _check_counts(lines[end] if end < len(lines) else "", counts, parsed)
        parsed.ended = end < len(lines)
    else:
        parsed.ended = bool(ends)
    return parsed


def _progress(lines: list[str], parsed: ParsedLog) -> frozenset[str]:
    """Add what `-v` printed; returns the ids."""
    ids = set()
    for line in lines:
        if _REPORT.fullmatch(line.strip()):
            break
        match = _AFTER.fullmatch(line.rstrip()) or _BEFORE.fullmatch(line.rstrip())
        if match is not None and "::" in match["id"] and not match["id"].startswith(("+", "E ", ">")):
            ids.add(match["id"])
            parsed.add(match["id"], _STATUSES[match["status"]])
    return frozenset(ids)


def _id_of(rest: str, seen: frozenset[str], status: str) -> str | None:
    """The id in `ID` or `ID - message`, where both may hold blanks, brackets and ` - `; None: there is no id."""
    if re.match(r"\[\d+%?\]", rest):
        return None  # `SKIPPED [1] file:line: reason`, or a wrapped progress mark
    if status in ("PASSED", "SKIPPED") and " - " not in rest:
        return rest.rstrip()
    rest = _PHASE.sub("", rest)
    pieces = rest.split(" - ")
    prefixes = [" - ".join(pieces[: count + 1]) for count in range(len(pieces))]
    for prefix in reversed(prefixes):
        if prefix in seen:
            return prefix
    if status == "PASSED":
        return rest.rstrip()  # passing tests have no message
    if status == "XPASS" and len(pieces) == 1:  # pytest before 8 puts no dash before the reason
        found = re.match(r"[^\s\[]+(?:\[.*\](?=\s|$))?", rest)
        return found[0] if found else rest.rstrip()
    # Parameters may hold ` - `: the id ends where brackets are closed.
    for prefix in prefixes:
        if "[" not in prefix or prefix.endswith("]"):
            return prefix.rstrip()
    return prefixes[0].rstrip()


def _check_counts(final: str, counts: dict[str, int], parsed: ParsedLog) -> None:
    """The last line counts results; more listed than counted are not pytest's."""
    told = {kind: int(number) for number, kind in _COUNT.findall(final)}
    for kind, listed in counts.items():
        if final and listed > told.get(kind, 0):
            parsed.problems.append(f"{listed} {kind} listed, {told.get(kind, 0)} counted")


def _renamed(parse: Callable[[str], ParsedLog], rename: Callable[[str], str]) -> Callable[[str], ParsedLog]:
    def parse_and_rename(text: str) -> ParsedLog:
        parsed = parse(text)
        renamed = ParsedLog(ended=parsed.ended, problems=parsed.problems)
        for test_id, status in parsed.statuses.items():
            renamed.add(rename(test_id), status)
        return renamed

    return parse_and_rename


def _without_file(test_id: str) -> str:
    """`r2e_tests/test_1.py::TestA::test_b` -> `TestA.test_b`, as R2E-Gym names it."""
    head, bracket, parameters = test_id.partition("[")
    return ".".join(head.split("::")[1:]) + bracket + parameters or test_id


parse_r2e = _renamed(parse_pytest, _without_file)
