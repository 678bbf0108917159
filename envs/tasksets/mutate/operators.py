"""Operators: one binary, comparison, boolean, unary or augmented operator replaced or taken away."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from swegym.envs.tasksets.mutate.tree import Edit, Function, Proposal

__all__ = ["mutate_operators"]

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
ARITHMETIC = ("+", "-", "*", "/", "//", "%")
BITWISE = ("&", "|", "^")
SHIFTS = ("<<", ">>")
AUGMENTED = ("+=", "-=", "*=")
BIT_AUGMENTED = ("|=", "&=", "^=")
TEXT = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString)


def mutate_operators(function: Function) -> Iterator[Proposal]:
    """Proposals for every operator of a function."""
    for node in function.nodes:
        if isinstance(node, cst.ComparisonTarget):
            yield from _comparison(function, node.operator)
        elif isinstance(node, cst.BinaryOperation) and not isinstance(node.left, TEXT):
            yield from _from_groups(function, node.operator, "binary", (ARITHMETIC, BITWISE, SHIFTS))
        elif isinstance(node, cst.BooleanOperation):
            yield from _from_groups(function, node.operator, "boolean", (("and", "or"),))
        elif isinstance(node, cst.AugAssign):
            yield from _from_groups(function, node.operator, "augmented", (AUGMENTED, BIT_AUGMENTED))
        elif isinstance(node, cst.UnaryOperation) and not isinstance(node.operator, cst.Plus):
            yield Proposal("unary", (function.module.replace(node, function.module.text(node.expression)),))
        elif isinstance(node, cst.If | cst.While | cst.IfExp):
            yield from _negation(function, node.test)


def _from_groups(
    function: Function, node: cst.CSTNode, operator: str, groups: tuple[tuple[str, ...], ...]
) -> Iterator[Proposal]:
    text = function.module.text(node)
    for group in groups:
        if text in group:
            for other in group:
                if other != text:
                    yield Proposal(operator, (function.module.replace(node, other),))


def _comparison(function: Function, node: cst.BaseCompOp) -> Iterator[Proposal]:
    yield from _from_groups(function, node, "comparison", (COMPARISONS,))
    opposite = {cst.Is: "is not", cst.IsNot: "is", cst.In: "not in", cst.NotIn: "in"}.get(type(node))
    if opposite is not None:
        yield Proposal("comparison", (function.module.replace(node, opposite),))


def _negation(function: Function, test: cst.BaseExpression) -> Iterator[Proposal]:
    """A condition that is no comparison gets a `not`; one that has a `not` is the unary operator's."""
    if isinstance(test, cst.Name | cst.Attribute | cst.Call | cst.Subscript):
        start = function.module.span(test)[0]
        yield Proposal("unary", (Edit(start, start, "not "),))
