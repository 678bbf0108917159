from typing import Any

import pytest
from pydantic import ValidationError

from swegym.core.outcome import Validity
from swegym.core.trajectory import TokenContext, Trajectory

GOOD: dict[str, Any] = {
    "tokens": (5, 6, 7),
    "source": (0, 1, 1),
    "rollout_logprobs": (0.0, -1.0, -2.0),
    "loss_mask": (0, 1, 0),
    "policy_version": (-1, 2, 3),
}


@pytest.mark.parametrize("field", ["source", "rollout_logprobs", "loss_mask", "policy_version"])
def test_arrays_of_different_length_are_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="differ in length"):
        TokenContext(**(GOOD | {field: GOOD[field][:-1]}))


def test_loss_on_a_token_that_was_not_sampled_is_refused() -> None:
    with pytest.raises(ValidationError, match="did not sample"):
        TokenContext(**(GOOD | {"loss_mask": (1, 1, 0)}))


def test_counts_over_contexts(make_trajectory: Any) -> None:
    context = TokenContext(**GOOD)
    trajectory: Trajectory = make_trajectory(contexts=(context, context, TokenContext()))
    assert context.num_agent_tokens == 2
    assert trajectory.num_agent_tokens == 4
    assert trajectory.newest_policy_version == 3
    assert make_trajectory(contexts=()).newest_policy_version == -1


def test_json_round_trip_is_exact(make_trajectory: Any) -> None:
    trajectory: Trajectory = make_trajectory(validity=Validity.GRADER, seed=2**31 - 1)
    again = Trajectory.model_validate_json(trajectory.model_dump_json())
    assert again == trajectory
    assert again.contexts[0].rollout_logprobs == (0.0, -0.25, -1e-7)


def test_records_are_immutable_and_strict(make_trajectory: Any) -> None:
    trajectory: Trajectory = make_trajectory()
    with pytest.raises(ValidationError):
        trajectory.reward = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        make_trajectory(score=1.0)
