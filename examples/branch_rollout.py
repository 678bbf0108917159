"""Branch a rollout: from one state of an episode try three continuations; the one with the best reward wins.

CWM's reward is -1 for nothing, 0 for a patch that looks like the reference, +1 when the hidden tests pass.
"""

# ruff: noqa: T201
import asyncio
import sys

import swegym
from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.envs import SweEnv, make_provider, resolve_task_set
from swegym.envs.graders import SweGrader
from swegym.run.episode import run_episode
from swegym.run.regrade import regrade


def bash(command: str) -> str:
    return f"<tool: bash>\n{command}\n</tool>"


SUBMIT = "<tool: submit>\n\n</tool>"
TRUNK = [bash("sed -n 10,30p tinykit/text.py"), bash("FILE=tinykit/text.py LINE=20")]
BRANCHES = {
    "nothing": [SUBMIT],
    "always break": [bash('sed -i "${LINE}s/if line and .*:/if line:/" $FILE'), SUBMIT],
    "greater than": [bash('sed -i "${LINE}s/>=/>/" $FILE'), SUBMIT],
}


def agent(texts: list[str]) -> ForagerAgent:
    """Scripted here; a policy that samples is used in just the same way."""
    return ForagerAgent(ScriptedPolicy(texts))


async def main(backend: str) -> None:
    taskset = resolve_task_set("tiny")
    task = taskset.get("tiny-wrap")
    provider = make_provider(backend)
    grader = SweGrader(provider, taskset)
    env = SweEnv(taskset=taskset, sandbox=provider, grade="deferred")

    trunk = await run_episode(task, env, agent(TRUNK), stop_after=len(TRUNK))
    rewards = {}
    for name, texts in BRANCHES.items():
        fork = await env.afork()  # files, shell variables, turns: all as the trunk left them
        branch = await run_episode(task, fork, agent([*TRUNK, *texts]), prefix=trunk)
        await fork.aclose()
        graded = await regrade(branch, task, grader, {"cwm": 1.0})
        if graded.reward is None:  # an infrastructure failure is no reward
            sys.exit(f"{name}: {graded.validity_reason}")
        rewards[name] = graded.reward
        print(f"{name:<14} {len(graded.turns)} turns  reward {rewards[name]:+.1f}")
    print("best:", max(rewards, key=lambda name: rewards[name]))

    await env.aclose()
    await grader.close()
    await provider.close()


if __name__ == "__main__":
    print("swegym", swegym.__version__)
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "auto"))
