"""The registries: what can be chosen by name, and where it lives. Nothing is imported before it is used."""

from __future__ import annotations

from typing import Any

from swegym.core.registry import Registry

__all__ = ["policies", "profiles", "protocols", "rewards", "sandboxes", "tasksets", "tools"]

tasksets: Registry[Any] = Registry(
    "task set", {"tiny": "swegym.envs.tasksets.folder:tiny_task_set"}, group="swegym.tasksets"
)
sandboxes: Registry[Any] = Registry("sandbox", group="swegym.sandboxes")
rewards: Registry[Any] = Registry(
    "reward",
    {"cwm": "swegym.rewards.cwm:CwmReward", "tests": "swegym.rewards.tests:TestsReward"},
    group="swegym.rewards",
)
policies: Registry[Any] = Registry(
    "policy",
    {
        "human": "swegym.agents.policies.human:HumanPolicy",
        "openai": "swegym.agents.policies.openai:OpenAiPolicy",
        "oracle": "swegym.agents.policies.oracle:OraclePolicy",
        "replay": "swegym.agents.policies.replay:ReplayPolicy",
        "scripted": "swegym.agents.policies.scripted:ScriptedPolicy",
    },
    group="swegym.policies",
)
"""Name -> factory of a Policy; its arguments are its own."""
profiles: Registry[Any] = Registry(
    "profile",
    {"cwm": "swegym.agents.profiles.cwm:CwmProfile", "short": "swegym.agents.profiles.short:ShortProfile"},
    group="swegym.profiles",
)
"""Name -> prompt profile class; its defaults are usable."""
protocols: Registry[Any] = Registry(
    "action protocol",
    {
        "tags": "swegym.agents.parse:TagProtocol",
        "functions": "swegym.agents.parse:FunctionProtocol",
        "bash_block": "swegym.agents.parse:BashBlockProtocol",
    },
    group="swegym.protocols",
)
"""Name -> class that finds the one tool call in a model's text."""
tools: Registry[Any] = Registry(
    "tool",
    {
        "bash": "swegym.envs.tools.bash:BashTool",
        "create": "swegym.envs.tools.create:CreateTool",
        "edit": "swegym.envs.tools.edit:EditTool",
        "pytest": "swegym.envs.tools.pytest_run:PytestTool",
        "submit": "swegym.envs.tools.submit:SubmitTool",
    },
    group="swegym.tools",
)
"""Name -> class (or function) without arguments that makes a `swegym.envs.tools.base.Tool`."""
