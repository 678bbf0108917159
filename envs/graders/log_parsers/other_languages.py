"""Basic readers for Go, Rust, JavaScript and the JVM: what SWE-bench Multilingual and Live rows need."""

from __future__ import annotations

import re

from swegym.core.outcome import TestStatus
from swegym.envs.graders.log_parsers.base import ParsedLog

__all__ = [
    "parse_ant",
    "parse_cargo",
    "parse_go",
    "parse_gradle",
    "parse_jest",
    "parse_maven",
    "parse_mocha",
    "parse_tap",
]

_PASSED, _FAILED, _SKIPPED = TestStatus.PASSED, TestStatus.FAILED, TestStatus.SKIPPED
_DURATION = r"(?:\s+\(?\d+(?:\.\d+)?\s*m?s\)?)?"
_GO = re.compile(r"\s*--- (?P<status>PASS|FAIL|SKIP): (?P<id>.+) \([\d.]+s\)")
_GO_END = re.compile(r"(?:ok|FAIL|PASS|\?)(?:\s+\S+.*)?")
_CARGO = re.compile(r"test (?P<id>\S.*?) \.\.\. (?:.*?)(?P<status>ok|FAILED|ignored)(?:, .*)?")
_JEST = re.compile(rf"\s*(?P<mark>[✓✔√✕✖×○↓✎])\s+(?:skipped |todo )?(?P<id>\S.*?){_DURATION}\s*")
_MOCHA_FAILED = re.compile(r"\s{2,}\d+\) (?P<id>.+?)\s*")
_MOCHA_END = re.compile(r"\s*\d+ passing\b.*")
_JEST_END = re.compile(r"\s*Tests:?\s+.*\d+ (?:passed|failed|total)\b.*")
_TAP = re.compile(r"\s*(?P<not>not )?ok \d+(?: -)? (?P<id>[^#]+?)(?:\s*#\s*(?P<note>\S+).*)?\s*")
_GRADLE = re.compile(r"(?P<id>[^>\s]\S* > \S.*?) (?P<status>PASSED|FAILED|SKIPPED)\s*")
_GRADLE_NAME = re.compile(r"(?P<id>[^>\s]\S* > \S+)\s*")
_MAVEN_NAME = re.compile(r".*-Dtest=(?P<id>\S+).*")
_BUILD = re.compile(r".*BUILD (?P<status>SUCCESS|SUCCESSFUL|FAILURE|FAILED)\b.*")
_ANT = re.compile(r"\s*\[junit\]\s+\[(?P<status>PASS|FAIL|ERR)\]\s+(?P<id>.*\S)\s*")
_MARKS = dict.fromkeys("✓✔√", _PASSED) | dict.fromkeys("✕✖×", _FAILED) | dict.fromkeys("○↓✎", _SKIPPED)


def parse_go(text: str) -> ParsedLog:
    """`go test -v`: ids are test names, subtests `TestA/case`."""
    parsed = ParsedLog()
    kinds = {"PASS": _PASSED, "FAIL": _FAILED, "SKIP": _SKIPPED}
    for line in text.split("\n"):
        if (match := _GO.fullmatch(line.rstrip())) is not None:
            parsed.add(match["id"], kinds[match["status"]])
        parsed.ended |= _GO_END.fullmatch(line.rstrip()) is not None
    return parsed


def parse_cargo(text: str) -> ParsedLog:
    """`cargo test`: ids are paths of test functions, `file - item (line N)` for documentation tests."""
    parsed = ParsedLog()
    kinds = {"ok": _PASSED, "FAILED": _FAILED, "ignored": _SKIPPED}
    for line in text.split("\n"):
        if (match := _CARGO.fullmatch(line.strip())) is not None:
            parsed.add(match["id"], kinds[match["status"]])
        parsed.ended |= line.startswith("test result:")
    return parsed


def parse_jest(text: str) -> ParsedLog:
    """Jest and vitest with `--verbose`: ids are titles; a duration is never part of one."""
    parsed = ParsedLog()
    for line in text.split("\n"):
        if (match := _JEST.fullmatch(line)) is not None:
            parsed.add(match["id"], _MARKS[match["mark"]])
        parsed.ended |= _JEST_END.fullmatch(line) is not None
    return parsed


def parse_mocha(text: str) -> ParsedLog:
    """Mocha's `spec` reporter: titles up to its summary, after which failures are told again with stacks."""
    parsed = ParsedLog()
    for line in text.split("\n"):
        if _MOCHA_END.fullmatch(line):
            parsed.ended = True
            break
        if (match := _JEST.fullmatch(line)) is not None:
            parsed.add(match["id"], _MARKS[match["mark"]])
        elif (failed := _MOCHA_FAILED.fullmatch(line)) is not None:
            parsed.add(failed["id"], _FAILED)
    return parsed


def parse_tap(text: str) -> ParsedLog:
    """The Test Anything Protocol; `# SKIP` and `# TODO` are honoured."""
    parsed = ParsedLog()
    for line in text.split("\n"):
        if (match := _TAP.fullmatch(line)) is not None:
            note = (match["note"] or "").upper()
            status = _SKIPPED if note.startswith("SKIP") else _FAILED if match["not"] else _PASSED
            parsed.add(match["id"], TestStatus.XFAIL if note == "TODO" and match["not"] else status)
        parsed.ended |= re.fullmatch(r"1\.\.\d+\s*", line) is not None
    return parsed


def parse_gradle(text: str) -> ParsedLog:
    """Gradle's test logging: `Class > method PASSED`; the result may come lines later."""
    parsed = ParsedLog()
    kinds = {"PASSED": _PASSED, "FAILED": _FAILED, "SKIPPED": _SKIPPED}
    pending = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if (match := _GRADLE.fullmatch(stripped)) is not None:
            parsed.add(match["id"], kinds[match["status"]])
            pending = ""
        elif (name := _GRADLE_NAME.fullmatch(stripped)) is not None:
            pending = name["id"]
        elif pending and stripped in kinds:
            parsed.add(pending, kinds[stripped])
            pending = ""
        parsed.ended |= _BUILD.fullmatch(stripped) is not None
    return parsed


def parse_maven(text: str) -> ParsedLog:
    """`mvn -Dtest=ID` once a test under `set -x`, as SWE-bench Multilingual runs it: BUILD lines are the results."""
    parsed = ParsedLog()
    names = [match["id"] for line in text.split("\n") if (match := _MAVEN_NAME.fullmatch(line)) is not None]
    results = [match["status"] for line in text.split("\n") if (match := _BUILD.fullmatch(line)) is not None]
    if len(names) != len(results):
        parsed.problems.append(f"{len(names)} tests, {len(results)} results")
    for name, status in zip(names, results, strict=False):
        parsed.add(name, _PASSED if status.startswith("SUCCESS") else _FAILED)
    parsed.ended = bool(results)
    return parsed


def parse_ant(text: str) -> ParsedLog:
    """Ant's junit task with a line for each test."""
    parsed = ParsedLog()
    kinds = {"PASS": _PASSED, "FAIL": _FAILED, "ERR": TestStatus.ERROR}
    for line in text.split("\n"):
        if (match := _ANT.fullmatch(line)) is not None:
            parsed.add(match["id"], kinds[match["status"]])
        parsed.ended |= _BUILD.fullmatch(line) is not None
    return parsed
