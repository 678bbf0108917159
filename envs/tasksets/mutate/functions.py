"""Functions: the whole body or a part of it is gone, or a function returns something else."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from swegym.envs.tasksets.mutate.tree import Edit, Function, Proposal

__all__ = ["mutate_functions"]

MIN_STATEMENTS = 3
"""Of a body that loses a part of itself."""
FLIPPED = {"True": "False", "False": "True"}


def mutate_functions(function: Function) -> Iterator[Proposal]:
    """Proposals for one function."""
    statements, module = function.statements, function.module
    if not statements:
        return
    start, stop = module.span(statements[0])[0], module.span(statements[-1])[1]
    if "raise NotImplementedError" not in module.text(statements[0]):
        yield Proposal("remove_body", (Edit(start, stop, "raise NotImplementedError"),))
        yield Proposal("empty_body", (Edit(start, stop, "return None"),))
    if len(statements) >= MIN_STATEMENTS:
        yield from _parts(function)
    for node in function.nodes:
        if isinstance(node, cst.Return) and node.value is not None:
            yield from _wrong_return(function, node.value)


def _parts(function: Function) -> Iterator[Proposal]:
    """Without a run of statements of about half the body, or all behind or before the middle."""
    statements, module = function.statements, function.module
    length = max(2, len(statements) // 2)
    for first in range(len(statements) - length + 1):
        run = statements[first : first + length]
        if len(run) < len(statements) and all(module.is_alone(item) for item in (run[0], run[-1])):
            yield Proposal("remove_part", (module.remove_lines(run[0], run[-1]),))


def _wrong_return(function: Function, value: cst.BaseExpression) -> Iterator[Proposal]:
    module = function.module
    if isinstance(value, cst.Name) and value.value in FLIPPED:
        yield Proposal("wrong_return", (module.replace(value, FLIPPED[value.value]),))
    elif isinstance(value, cst.Tuple) and len(value.elements) == 2:
        left, right = (element.value for element in value.elements)
        if module.text(left) != module.text(right):
            yield Proposal("wrong_return", module.swap(left, right))
    elif isinstance(value, cst.IfExp):
        yield Proposal("wrong_return", (module.replace(value, module.text(value.body)),))
    elif not (isinstance(value, cst.Name) and value.value == "None"):
        yield Proposal("wrong_return", (module.replace(value, "None"),))
