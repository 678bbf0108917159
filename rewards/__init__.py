"""Rewards: pure functions from (task, trajectory, outcome) to named terms."""

if __name__ != "swegym.rewards":
    raise ImportError("import swegym.rewards: 'rewards' is only the folder's name")
