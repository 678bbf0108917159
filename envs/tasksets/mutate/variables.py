"""Variables: two of them exchanged, everywhere or in one statement, or one read where another was meant."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import libcst as cst

from swegym.envs.tasksets.mutate.tree import Edit, Function, Proposal, inner_nodes

__all__ = ["mutate_variables"]

MAX_PER_READ = 3
"""Other variables that are tried in the place of one that is read."""


def mutate_variables(function: Function) -> Iterator[Proposal]:
    """Proposals for the parameters and local variables of one function."""
    occurrences = _occurrences(function, function.nodes)
    parameters = {parameter.name.value for parameter in function.parameters()}
    bound = {node.value for node in occurrences if _is_bound(node, function)} | parameters
    by_name: dict[str, list[cst.Name]] = {}
    for node in occurrences:
        if node.value in bound:
            by_name.setdefault(node.value, []).append(node)
    names = sorted(by_name)
    for left, right in combinations(names, 2):
        # Two locals exchanged everywhere are only renamed: the signature keeps a parameter's name, so there it matters.
        if left in parameters or right in parameters:
            yield Proposal("swap_all", _exchange(function, by_name, left, right))
    yield from _within_statements(function, bound)
    yield from _reads(function, by_name, names)


def _occurrences(function: Function, nodes: list[cst.CSTNode]) -> list[cst.Name]:
    """Names that stand for variables: no attributes, keywords of calls, or names that a lambda binds."""
    other: set[int] = set()
    for node in nodes:
        if isinstance(node, cst.Attribute):
            other.add(id(node.attr))
        elif isinstance(node, cst.Arg) and node.keyword is not None:
            other.add(id(node.keyword))
        elif isinstance(node, cst.Lambda | cst.Import | cst.ImportFrom | cst.Global | cst.Nonlocal):
            other.update(id(inner) for inner in inner_nodes(node))
    return [node for node in nodes if isinstance(node, cst.Name) and id(node) not in other]


def _is_bound(name: cst.Name, function: Function) -> bool:
    return id(name) in _targets(function)


def _targets(function: Function) -> set[int]:
    """Names that an assignment, a loop or a `with` of the function binds."""
    if function.target_ids is None:
        cached: set[int] = set()
        for node in function.nodes:
            targets: list[cst.CSTNode] = []
            if isinstance(node, cst.AssignTarget | cst.AugAssign | cst.AnnAssign | cst.For | cst.NamedExpr):
                targets.append(node.target)
            elif isinstance(node, cst.AsName):
                targets.append(node.name)
            for target in targets:
                cached.update(id(name) for name in _plain_names(target))
        function.target_ids = cached
    return function.target_ids


def _plain_names(target: cst.CSTNode) -> Iterator[cst.Name]:
    if isinstance(target, cst.Name):
        yield target
    elif isinstance(target, cst.Tuple | cst.List):
        for element in target.elements:
            yield from _plain_names(element.value)


def _exchange(function: Function, by_name: dict[str, list[cst.Name]], left: str, right: str) -> tuple[Edit, ...]:
    replace = function.module.replace
    return (*(replace(node, right) for node in by_name[left]), *(replace(node, left) for node in by_name[right]))


def _within_statements(function: Function, bound: set[str]) -> Iterator[Proposal]:
    for node in function.nodes:
        if not isinstance(node, cst.SimpleStatementLine):
            continue
        inside: dict[str, list[cst.Name]] = {}
        for name in _occurrences(function, inner_nodes(node)):
            if name.value in bound and not _is_bound(name, function):
                inside.setdefault(name.value, []).append(name)
        for left, right in combinations(sorted(inside), 2):
            yield Proposal("swap_in_statement", _exchange(function, inside, left, right))


def _reads(function: Function, by_name: dict[str, list[cst.Name]], names: list[str]) -> Iterator[Proposal]:
    for name in names:
        index = names.index(name)
        others = (names[index + 1 :] + names[:index])[:MAX_PER_READ]
        for node in by_name[name]:
            if not _is_bound(node, function):
                for other in others:
                    yield Proposal("wrong_variable", (function.module.replace(node, other),))
