"""Arguments: parameters dropped, reordered or with another default; arguments of calls reordered or dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import libcst as cst

from swegym.envs.tasksets.mutate.tree import Edit, Function, Proposal

__all__ = ["mutate_arguments"]

FLIPPED = {"True": "False", "False": "True", "None": "False"}
GROUPS = ("posonly_params", "params", "kwonly_params")


def mutate_arguments(function: Function) -> Iterator[Proposal]:
    """Proposals for the signature and the calls of one function."""
    yield from _parameters(function)
    for parameter in function.parameters():
        if parameter.default is not None:
            yield from _defaults(function, parameter.default)
    for node in function.nodes:
        if isinstance(node, cst.Call):
            yield from _swapped(function, node)
            yield from _dropped(function, node)


def _parameters(function: Function) -> Iterator[Proposal]:
    module, offered = function.module, {id(parameter) for parameter in function.parameters()}
    for group in GROUPS:
        members: Sequence[cst.Param] = getattr(function.node.params, group)
        for index, member in enumerate(members):
            if id(member) not in offered:
                continue
            start, stop = _span(function, member)
            following = members[index + 1] if index + 1 < len(members) else None
            if following is not None:
                yield Proposal("drop_parameter", (Edit(start, _span(function, following)[0], ""),))
            elif index > 0:
                yield Proposal("drop_parameter", (Edit(_span(function, members[index - 1])[1], stop, ""),))
            elif group == "params":  # a bare `*` needs one behind it
                yield Proposal("drop_parameter", (Edit(start, _comma_end(function, member, stop), ""),))
            if group != "kwonly_params" and following is not None and _can_swap(member, following):
                other = _span(function, following)
                texts = [module.data[slice(*span)].decode() for span in ((start, stop), other)]
                yield Proposal("swap_parameters", (Edit(start, stop, texts[1]), Edit(*other, texts[0])))


def _span(function: Function, parameter: cst.Param) -> tuple[int, int]:
    """Without the comma behind it."""
    last = parameter.default or parameter.annotation or parameter.name
    return function.module.span(parameter)[0], function.module.span(last)[1]


def _comma_end(function: Function, parameter: cst.Param, stop: int) -> int:
    """Behind the comma and the blanks that follow a parameter."""
    module = function.module
    if isinstance(parameter.comma, cst.Comma):
        stop = module.span(parameter.comma)[1]
        while module.data[stop : stop + 1] == b" ":
            stop += 1
    return stop


def _can_swap(left: cst.Param, right: cst.Param) -> bool:
    return (left.default is None) == (right.default is None)


def _defaults(function: Function, default: cst.BaseExpression) -> Iterator[Proposal]:
    module = function.module
    if isinstance(default, cst.Name) and default.value in FLIPPED:
        yield Proposal("change_default", (module.replace(default, FLIPPED[default.value]),))
    elif isinstance(default, cst.Integer) and default.value.isdigit():
        yield Proposal("change_default", (module.replace(default, str(int(default.value) + 1)),))
    elif isinstance(default, cst.SimpleString) and not default.prefix:
        text = default.quote + ("" if default.raw_value else " ") + default.quote
        yield Proposal("change_default", (module.replace(default, text),))


def _swapped(function: Function, call: cst.Call) -> Iterator[Proposal]:
    module = function.module
    for left, right in pairwise(call.args):
        if left.star or right.star or (left.keyword is None) != (right.keyword is None):
            continue
        if module.text(left.value) != module.text(right.value):
            yield Proposal("swap_call_arguments", module.swap(left.value, right.value))


def _dropped(function: Function, call: cst.Call) -> Iterator[Proposal]:
    module = function.module
    if isinstance(call.func, cst.Name) and call.func.value in ("isinstance", "super"):
        return
    for index, argument in enumerate(call.args):
        start, stop = module.span(argument)[0], module.span(argument.value)[1]
        if len(call.args) == 1:
            continue  # `f()` for `f(x)` fails at once everywhere: too plain
        if index == 0:
            edit = Edit(start, module.span(call.args[1])[0], "")
        else:
            edit = Edit(module.span(call.args[index - 1].value)[1], stop, "")
        yield Proposal("drop_call_argument", (edit,))
