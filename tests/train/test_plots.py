from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swegym.core.errors import ConfigError
from swegym.train.plots import plot_rewards


def rows(reward_of: float) -> list[dict[str, Any]]:
    """Six training steps and two evaluations; the reward is `reward_of` above the pass rate."""
    training = [
        {"step": n, "rollout/pass_rate": n / 10, "reward/mean": n / 10 + reward_of, "loss/policy": 0.5}
        for n in range(1, 7)
    ]
    evaluations = [
        {"step": n, "eval/pass_rate": 0.1 + n / 20, "eval/pass_rate_low": 0.05, "eval/pass_rate_high": 0.6}
        for n in (0, 6)
    ]
    return [evaluations[0], *training, evaluations[1] | {"eval/greedy_pass_rate": 0.5}]


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_reward_other_than_the_pass_rate_gets_its_own_panel(tmp_path: Path) -> None:
    one = size(plot_rewards(rows(0.0), tmp_path / "new" / "same.png"))
    two = size(plot_rewards(rows(0.2), tmp_path / "own.png"))
    assert one == (1200, 675)
    assert two == (1200, 960)


@pytest.mark.parametrize(
    "some",
    [
        [{"step": 1, "reward/mean": 0.5}],
        [{"step": 0, "eval/pass_rate": 0.25}],
        [{"step": 3, "rollout/pass_rate": 0.0}, {"step": 4, "loss/policy": 1.0}],
    ],
)
def test_any_part_alone_can_be_drawn(tmp_path: Path, some: list[dict[str, Any]]) -> None:
    assert size(plot_rewards(some, tmp_path / "plot.png"))[0] == 1200


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no metrics row has a reward or a pass rate"):
        plot_rewards([{"step": 1, "loss/policy": 0.1}], tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write plot"):
        plot_rewards(rows(0.0), tmp_path / "file" / "plot.png")
