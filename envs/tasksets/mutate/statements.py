"""Statements: one taken away (an import, a return, a guard, an else), or two in the wrong order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import libcst as cst

from swegym.envs.tasksets.mutate.tree import Edit, Function, ParsedModule, Proposal

__all__ = ["mutate_module_imports", "mutate_statements"]

REMOVABLE = (cst.Assign, cst.AugAssign, cst.Expr, cst.Raise, cst.Del, cst.Continue, cst.Break, cst.AnnAssign)
LEAVING = (cst.Return, cst.Raise, cst.Continue, cst.Break)


def mutate_statements(function: Function) -> Iterator[Proposal]:
    """Proposals for the statements of one function."""
    yield from _block(function, function.statements)
    for node in function.nodes:
        if isinstance(node, cst.IndentedBlock):
            yield from _block(function, node.body)
        elif isinstance(node, cst.If):
            yield from _branches(function, node)


def _block(function: Function, statements: Sequence[cst.BaseStatement]) -> Iterator[Proposal]:
    module = function.module
    for statement in statements:
        if not module.is_alone(statement):
            continue
        if (operator := _removal(statement)) is not None:
            edit = module.remove_lines(statement) if len(statements) > 1 else module.replace(statement, "pass")
            yield Proposal(operator, (edit,))
    for left, right in pairwise(statements):
        if all(isinstance(item, cst.SimpleStatementLine) and module.is_alone(item) for item in (left, right)):
            texts = module.text(left).strip(), module.text(right).strip()
            if texts[0] != texts[1] and _removal(left) not in (None, "remove_import"):
                yield Proposal("swap_statements", _swap_lines(module, left, right))


def _swap_lines(module: ParsedModule, left: cst.BaseStatement, right: cst.BaseStatement) -> tuple[Edit, ...]:
    """Only the statements change places: comments and blank lines around them stay."""
    edits = []
    for target, source in ((left, right), (right, left)):
        assert isinstance(target, cst.SimpleStatementLine)
        assert isinstance(source, cst.SimpleStatementLine)
        start, stop = module.span(source.body[0])[0], module.span(source.body[-1])[1]
        text = module.data[start:stop].decode()
        edits.append(Edit(module.span(target.body[0])[0], module.span(target.body[-1])[1], text))
    return tuple(edits)


def _removal(statement: cst.BaseStatement) -> str | None:
    """Which operator takes this statement away; None: it stays."""
    if isinstance(statement, cst.If) and statement.orelse is None and _leaves(statement.body):
        return "remove_guard"
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    only = statement.body[0]
    if isinstance(only, cst.Return):
        return "remove_return"
    if isinstance(only, cst.Import | cst.ImportFrom):
        return "remove_import"
    if isinstance(only, cst.Expr) and isinstance(only.value, cst.SimpleString | cst.ConcatenatedString | cst.Ellipsis):
        return None
    return "remove_statement" if isinstance(only, REMOVABLE) else None


def _leaves(body: cst.BaseSuite) -> bool:
    """Whether a block ends by leaving what is around it."""
    last = body.body[-1] if body.body else None
    if isinstance(last, cst.SimpleStatementLine):
        return bool(last.body) and isinstance(last.body[-1], LEAVING)
    return isinstance(last, LEAVING)


def _branches(function: Function, node: cst.If) -> Iterator[Proposal]:
    if isinstance(node.orelse, cst.Else) and isinstance(node.orelse.body, cst.IndentedBlock):
        yield Proposal("remove_else", (function.module.remove_lines(node.orelse),))
    elif isinstance(node.orelse, cst.If):
        start, stop = function.module.span(node.orelse.test)
        yield Proposal("dead_branch", (Edit(start, stop, "False"),))


def mutate_module_imports(module: ParsedModule) -> Iterator[Proposal]:
    """Imports at the top of a file that bind one name: everything that uses it breaks, where it is used."""
    for statement in module.module.body:
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            continue
        only = statement.body[0]
        is_future = isinstance(only, cst.ImportFrom) and _is_future(only)
        if isinstance(only, cst.Import | cst.ImportFrom) and not is_future and module.is_alone(statement):
            yield Proposal("remove_import", (module.remove_lines(statement),))


def _is_future(statement: cst.ImportFrom) -> bool:
    return isinstance(statement.module, cst.Name) and statement.module.value == "__future__"
