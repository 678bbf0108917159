"""Verbose unittest output, as unittest and Django's runner print it; and sympy's own runner."""

from __future__ import annotations

import re

from swegym.core.outcome import TestStatus
from swegym.envs.graders.log_parsers.base import ParsedLog

__all__ = ["parse_django", "parse_sympy"]

_NAME = re.compile(r"(?P<name>\w+) \((?P<place>[\w.]+)\)(?P<rest>.*)")
_RESULTS = {
    "ok": TestStatus.PASSED,
    "FAIL": TestStatus.FAILED,
    "ERROR": TestStatus.ERROR,
    "expected failure": TestStatus.XFAIL,
    "unexpected success": TestStatus.XPASS,
}
_BLOCK = re.compile(r"(?P<kind>FAIL|ERROR|UNEXPECTED SUCCESS): (?P<what>.+)")
_RAN = re.compile(r"Ran (\d+) tests? in [\d.]+s")
_FIXTURES = frozenset({"setUpClass", "tearDownClass", "setUpModule", "tearDownModule"})
_SKIPPED = re.compile(r"skipped .*")


def parse_django(text: str) -> ParsedLog:
    """Ids are `test_a (module.Class)`. Data sets also hold docstrings as ids: a docstring is a second key of its test.

    Output that comes between `...` and the result, and results on a line of their own, belong to the test that runs.
    """
    parsed = ParsedLog()
    reader = _UnittestReader(parsed)
    lines = text.split("\n")
    for place, line in enumerate(lines):
        reader.read(line.rstrip(), lines[place - 1].rstrip() if place else "")
        ran = _RAN.fullmatch(line.strip())
        if ran is not None:
            parsed.ended = True
            if int(ran[1]) < reader.num_results:
                parsed.problems.append(f"{reader.num_results} results listed, {ran[1]} tests ran")
    return parsed


class _UnittestReader:
    def __init__(self, parsed: ParsedLog) -> None:
        self._parsed = parsed
        self._pending: tuple[str, ...] = ()
        self._name = ""
        self._is_after_rule = False
        self.num_results = 0

    def read(self, line: str, before: str) -> None:
        stripped = line.strip()
        if self._is_after_rule and (block := _BLOCK.fullmatch(stripped)) is not None:
            self._add_block(block["kind"], block["what"])
        self._is_after_rule = stripped.startswith("=" * 20)
        for head, tail in _splits(stripped):
            if keys := self._keys(head, before):
                self._pending = keys
                self._finish(tail, is_own_line=False)
                return
        if self._pending:
            self._finish(stripped, is_own_line=True)

    def _keys(self, head: str, before: str) -> tuple[str, ...]:
        """Names of the test that a line begins: its own, and its docstring where that is what the line shows."""
        # A migration's output may stand before the name on the same line.
        match = _NAME.fullmatch(head) or _NAME.search(head.rpartition("...")[2])
        if match is not None:
            return () if match["name"] in _FIXTURES else _spellings(match["name"], match["place"])
        named = _NAME.fullmatch(before.strip())
        if named is None:
            return ()
        return (*_spellings(named["name"], named["place"]), head.strip())

    def _finish(self, tail: str, *, is_own_line: bool) -> None:
        status = _RESULTS.get(tail)
        if status is None and _SKIPPED.fullmatch(tail):
            status = TestStatus.SKIPPED
        if status is None and not is_own_line:
            # Printed text and the result on one line: `... some outputok`
            status = next((found for word, found in _RESULTS.items() if tail.endswith(word) and word != "ok"), None)
        if status is None:
            return
        for key in self._pending:
            self._parsed.add(key, status)
        self._pending = ()
        self.num_results += 1

    def _add_block(self, kind: str, what: str) -> None:
        match = _NAME.match(what)
        if match is None or match["name"] in _FIXTURES:
            return  # its tests did not run, and are missing
        status = {"FAIL": TestStatus.FAILED, "ERROR": TestStatus.ERROR}.get(kind, TestStatus.XPASS)
        for key in _spellings(match["name"], match["place"]):
            self._parsed.add(key, status)


def _splits(line: str) -> list[tuple[str, str]]:
    """`HEAD ... TAIL` at the last dots where a result follows them (docstrings hold dots), else at the first."""
    if line.endswith(" ..."):
        return [(line[:-4], "")]
    head, dots, tail = line.rpartition(" ... ")
    is_result = tail in _RESULTS or _SKIPPED.fullmatch(tail) is not None
    first, _, rest = line.partition(" ... ")
    return [*([(head, tail)] if dots and is_result else []), *([(first, rest.strip())] if dots else [])]


def _spellings(name: str, place: str) -> tuple[str, ...]:
    """`test_a (m.C)`, and for Python 3.11 and later, which prints `test_a (m.C.test_a)`, both."""
    if place.endswith(f".{name}"):
        return f"{name} ({place})", f"{name} ({place.removesuffix(f'.{name}')})"
    return (f"{name} ({place})",)


_SYMPY_LINE = re.compile(r"(?P<name>test_\w+) (?P<mark>ok|F|E|f|X|s|K|w)(?:\s.*)?")
_SYMPY_MARKS = {
    "ok": TestStatus.PASSED,
    "F": TestStatus.FAILED,
    "E": TestStatus.ERROR,
    "f": TestStatus.XFAIL,
    "X": TestStatus.XPASS,
    "s": TestStatus.SKIPPED,
    "w": TestStatus.SKIPPED,
    "K": TestStatus.ERROR,
}
_SYMPY_FAILURE = re.compile(r"_{3,} (?P<file>\S+\.py):(?P<name>\w+) _{3,}")
_SYMPY_END = re.compile(r"=+ tests finished: .* =+")


def parse_sympy(text: str) -> ParsedLog:
    """`bin/test --verbose`: ids are function names, as in SWE-bench; of one name in several files the worst counts."""
    parsed = ParsedLog()
    for line in text.split("\n"):
        stripped = line.strip()
        if (match := _SYMPY_LINE.fullmatch(stripped)) is not None:
            parsed.add(match["name"], _SYMPY_MARKS[match["mark"]])
        elif (failure := _SYMPY_FAILURE.fullmatch(stripped)) is not None:
            parsed.add(failure["name"], TestStatus.FAILED)
            parsed.add(f"{failure['file']}:{failure['name']}", TestStatus.FAILED)
        elif _SYMPY_END.fullmatch(stripped):
            parsed.ended = True
    return parsed
