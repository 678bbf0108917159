"""The grading stage: (task, patch) -> Outcome, in a fresh sandbox that trusts nothing the agent touched.

The threat model is in docs/design/grading.md.
"""

from swegym.envs.graders.swe import SweGrader

__all__ = ["SweGrader"]
