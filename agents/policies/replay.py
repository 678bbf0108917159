"""ReplayPolicy: says what the policy of a recorded episode said."""

from __future__ import annotations

from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.errors import ConfigError
from swegym.core.policy import Tokenizer
from swegym.core.registries import protocols
from swegym.core.trajectory import Trajectory, Turn

__all__ = ["ReplayPolicy"]


class ReplayPolicy(ScriptedPolicy):
    """The recorded texts in order. Where a turn has no text (it was acted by hand), its action is written out."""

    def __init__(self, trajectory: Trajectory, *, tokenizer: Tokenizer | None = None, protocol: str = "tags") -> None:
        """Raises ConfigError: the episode has no turns."""
        if not trajectory.turns:
            raise ConfigError(f"episode {trajectory.episode_id} has no turns to replay")
        render = protocols.get(protocol)().render

        def text_of(turn: Turn) -> str:
            return turn.text or (render(turn.action) if turn.action else "")

        super().__init__([text_of(turn) for turn in trajectory.turns], tokenizer=tokenizer, name="replay")
