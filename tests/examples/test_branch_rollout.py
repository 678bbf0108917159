"""The example, run as a user runs it: the cure wins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "branch_rollout.py"


def test_the_best_branch_wins() -> None:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    answer = subprocess.run(
        [sys.executable, str(EXAMPLE), "local"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert answer.stderr == ""
    assert answer.stdout.splitlines()[1:] == [
        "nothing        3 turns  reward -1.0",
        "always break   4 turns  reward +0.0",
        "greater than   4 turns  reward +1.0",
        "best: greater than",
    ]
