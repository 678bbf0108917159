"""CWM's five kinds with their published shares, and all mutations of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import libcst as cst

from swegym.core.errors import ConfigError, UnknownName
from swegym.envs.tasksets.mutate.arguments import mutate_arguments
from swegym.envs.tasksets.mutate.functions import mutate_functions
from swegym.envs.tasksets.mutate.operators import mutate_operators
from swegym.envs.tasksets.mutate.statements import mutate_module_imports, mutate_statements
from swegym.envs.tasksets.mutate.tree import MODULE_LEVEL, Function, ParsedModule, Proposal, TreeMutation
from swegym.envs.tasksets.mutate.variables import mutate_variables

__all__ = ["CWM_MIX", "KINDS", "find_tree_mutations", "parse_mix"]

KINDS: dict[str, Callable[[Function], Iterator[Proposal]]] = {
    "functions": mutate_functions,
    "arguments": mutate_arguments,
    "variables": mutate_variables,
    "statements": mutate_statements,
    "operators": mutate_operators,
}
CWM_MIX: dict[str, float] = {"functions": 7, "arguments": 9, "variables": 6, "statements": 11, "operators": 12}
"""Per cent of CWM's trajectories (arXiv 2510.02387, section 2.3): 45 together, the rest is issue-fix."""


def find_tree_mutations(path: str, source: bytes, kinds: Iterable[str] = tuple(KINDS)) -> list[TreeMutation]:
    """All mutations of a file that change its text, in order of position. Whether they compile is not looked at.

    Args:
        path: recorded in the mutations.
        source: the file's bytes, UTF-8.
        kinds: keys of `KINDS`.

    Returns:
        An empty list for a file that LibCST cannot read.

    Raises:
        UnknownName: no such kind.
    """
    wanted = list(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise UnknownName("mutation kind", kind, list(KINDS))
    try:
        module = ParsedModule(path, source)
    except cst.ParserSyntaxError:
        return []
    found: dict[tuple[object, ...], TreeMutation] = {}
    proposals = [
        (kind, function.name, _body_start(function), proposal)
        for function in module.functions()
        for kind in wanted
        for proposal in KINDS[kind](function)
    ]
    if "statements" in wanted:
        proposals += [("statements", MODULE_LEVEL, 0, proposal) for proposal in mutate_module_imports(module)]
    for kind, name, body_start, proposal in proposals:
        edits = tuple(edit for edit in sorted(proposal.edits) if _differs(source, edit.start, edit.stop, edit.text))
        if edits:
            first, last = module.line_of(edits[0].start), module.line_of(max(edits[-1].stop - 1, edits[-1].start))
            body_line = module.line_of(body_start)
            probe = (body_line, body_line) if edits[-1].stop <= body_start else (first, last)
            found.setdefault(edits, TreeMutation(path, kind, proposal.operator, name, first, last, probe, edits))
    return sorted(found.values(), key=lambda item: (item.first_line, item.edits, item.kind, item.operator))


def _body_start(function: Function) -> int:
    return function.module.span(function.statements[0])[0] if function.statements else 0


def _differs(source: bytes, start: int, stop: int, text: str) -> bool:
    return source[start:stop] != text.encode()


def parse_mix(text: str) -> dict[str, float]:
    """`functions=7,operators=12` -> shares; kinds that are not named get none.

    Raises:
        ConfigError: not of this form, or all shares are 0.
        UnknownName: no such kind.
    """
    shares: dict[str, float] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        kind, _, number = part.partition("=")
        if kind not in KINDS:
            raise UnknownName("mutation kind", kind, list(KINDS))
        try:
            shares[kind] = float(number or "1")
        except ValueError:
            raise ConfigError(f"mix {text!r}: {number!r} is not a number; write functions=7,operators=12") from None
    check_mix(shares)
    return shares


def check_mix(shares: Mapping[str, float]) -> None:
    """Raises ConfigError: a share is negative or none is positive."""
    if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ConfigError(f"mix {dict(shares)}: shares must not be negative, and at least one must be positive")
