"""Counting what an episode may use: turns and time."""

from __future__ import annotations

import time

from swegym.core.task import TaskLimits

__all__ = ["EpisodeBudget"]

MIN_COMMAND_S = 0.5
MAX_MARGIN_S = 2.0
"""The last command ends this long before the episode's time does. Who runs the episode may cancel it at that time, and
a command cancelled in the middle costs the sandbox, and with it the work that could still be handed in."""


class EpisodeBudget:
    """What is left of one episode's limits. Time runs from its making."""

    def __init__(self, limits: TaskLimits) -> None:
        self.limits = limits
        self.num_turns = 0
        margin_s = min(MAX_MARGIN_S, limits.episode_timeout_s / 10)
        self._deadline = time.monotonic() + limits.episode_timeout_s - margin_s

    @property
    def remaining_turns(self) -> int:
        return max(0, self.limits.max_turns - self.num_turns)

    def spend_turn(self) -> TaskLimits:
        """Count one action. Returns the limits of its command: no command outlives the episode."""
        self.num_turns += 1
        left_s = max(MIN_COMMAND_S, self.remaining_s)
        if left_s >= self.limits.command_timeout_s:
            return self.limits
        return self.limits.model_copy(update={"command_timeout_s": left_s})

    @property
    def remaining_s(self) -> float:
        """Wall time that is left; negative when it is over."""
        return self._deadline - time.monotonic()

    def fork(self, remaining_s: float) -> EpisodeBudget:
        """A budget with as many turns left as this one, and the given wall time from now on."""
        forked = EpisodeBudget(self.limits)
        forked.num_turns = self.num_turns
        forked._deadline = time.monotonic() + remaining_s
        return forked

    def end_reason(self) -> str:
        """Which limit is hit; "" while none is."""
        if self.num_turns >= self.limits.max_turns:
            return "turn_limit"
        return "episode_timeout" if self.remaining_s <= 0 else ""
