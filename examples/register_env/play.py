"""Solve the task by hand, through Gymnasium: look, run the tests, edit, run them again, submit."""

# ruff: noqa: T201
import gymnasium

EDIT = """slugs/slug.py
<<<<<<< SEARCH
    return separator.join(words.split(" "))
=======
    return separator.join(words.split())
>>>>>>> REPLACE"""

env = gymnasium.make("acme_envs:acme/Slugs-v0", render_mode="ansi")
env.reset(seed=0)
for tool, body in [("bash", "cat slugs/slug.py"), ("pytest", "-q"), ("edit", EDIT), ("pytest", "-q"), ("submit", "")]:
    observation, reward, terminated, truncated, info = env.step({"tool": tool, "body": body})
print(env.render())
print("reward", reward, info["rewards"])
env.close()
