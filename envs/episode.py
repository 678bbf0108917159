"""The state and the record of one running episode of SweEnv."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from swegym.core.action import Observation, ToolCall
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory, Turn
from swegym.envs.limits import EpisodeBudget

__all__ = ["Episode"]


@dataclass(slots=True)
class Episode:
    """Made by `SweEnv.start`."""

    task: Task
    sandbox: Sandbox
    start_commit: str
    budget: EpisodeBudget
    first_observation: Observation
    turns: list[Turn] = field(default_factory=list)
    patch: str | None = None
    """What was handed in, or the work tree's diff taken after the end."""
    terminated: bool = False
    truncated: bool = False
    end_reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated

    def fork(self, sandbox: Sandbox, remaining_s: float) -> Episode:
        """The same episode in a copy of the sandbox, with that much wall time left."""
        return replace(self, sandbox=sandbox, budget=self.budget.fork(remaining_s), turns=list(self.turns))

    def add_turn(self, call: ToolCall | None, error: str, observation: Observation, info: dict[str, Any]) -> None:
        kept = {key: info[key] for key in ("tests", "killed_by") if key in info}
        self.turns.append(
            Turn(index=len(self.turns), action=call, format_error=error, observation=observation, info=kept)
        )

    def trajectory(self, env_id: str, seed: int | None) -> Trajectory:
        """The env's own view: what a reward may read of actions and observations, without a policy's tokens."""
        return Trajectory(
            episode_id=uuid.uuid4().hex[:16],
            task_id=self.task.task_id,
            task_fingerprint=self.task.fingerprint,
            env_id=env_id,
            first_observation=self.first_observation,
            turns=tuple(self.turns),
            submission=self.patch,
            terminated=self.terminated,
            truncated=self.truncated,
            end_reason=self.end_reason,
            seed=seed,
            sandbox=self.sandbox.backend,
        )

    def transcript(self) -> str:
        """The episode as text for a terminal."""
        parts = [f"task {self.task.task_id}", self.first_observation.text]
        for turn in self.turns:
            call = turn.action
            head = f"[{turn.index + 1}] {call.tool}: {call.body}" if call else f"[{turn.index + 1}] (malformed action)"
            parts += [head.rstrip(), turn.observation.text if turn.observation else ""]
        if self.is_over:
            parts.append(f"{'terminated' if self.terminated else 'truncated'}: {self.end_reason}")
        return "\n".join(part.rstrip("\n") for part in parts if part) + "\n"
