from __future__ import annotations

import pytest

from swegym.cli.train import overrides_from
from swegym.core.errors import ConfigError


def test_both_spellings_of_a_setting() -> None:
    assert overrides_from(["--algo.group_size=4", "--run", "a b", "--optim.lr=1e-4"]) == [
        "--algo.group_size=4",
        "--run=a b",
        "--optim.lr=1e-4",
    ]


def test_a_value_may_hold_an_equals_sign_and_be_negative() -> None:
    assert overrides_from(["--model.checkpoint=a=b", "--optim.lr", "-1"]) == [
        "--model.checkpoint=a=b",
        "--optim.lr=-1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo.group_size=4"], "unexpected argument 'algo.group_size=4'"),
        (["--algo.group_size"], "'--algo.group_size' has no value"),
        (["--algo.group_size", "--seed=1"], "'--algo.group_size' has no value"),
    ],
)
def test_anything_else_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        overrides_from(arguments)
