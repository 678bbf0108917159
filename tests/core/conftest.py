from collections.abc import Callable

import pytest

from swegym.core.action import Observation, ToolCall
from swegym.core.trajectory import TokenContext, Trajectory, Turn

MakeTrajectory = Callable[..., Trajectory]


@pytest.fixture
def make_trajectory() -> MakeTrajectory:
    def make(episode_id: str = "aaaa", **values: object) -> Trajectory:
        fields: dict[str, object] = {
            "episode_id": episode_id,
            "task_id": "task",
            "env_id": "swegym/Swe-v0",
            "first_observation": Observation(text='mend "it"\nnaïve \u2028 \x00 end', hints={"line": "3"}),
            "contexts": (
                TokenContext(
                    tokens=(1, 7, 9), source=(0, 1, 1), rollout_logprobs=(0.0, -0.25, -1e-7), loss_mask=(0, 1, 1),
                    policy_version=(-1, 4, 5),
                ),
            ),
            "turns": (
                Turn(index=0, text="t", action=ToolCall(tool="bash", body="ls"), observation=Observation(text="o")),
            ),
        }  # fmt: skip
        return Trajectory.model_validate(fields | values)

    return make
