"""Gymnasium environments over sandboxed repositories: sandboxes, tools, graders, task sets.

The public names load on first use, so that importing this package costs nothing.
"""

if __name__ != "swegym.envs":
    raise ImportError("import swegym.envs: 'envs' is only the folder's name")

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swegym.envs.graders import SweGrader as SweGrader
    from swegym.envs.sandboxes import make_provider as make_provider
    from swegym.envs.swe_env import SweEnv as SweEnv
    from swegym.envs.tasksets import FolderTaskSet as FolderTaskSet
    from swegym.envs.tasksets import resolve_task_set as resolve_task_set
    from swegym.envs.tasksets.from_repo import RepoTaskSet as RepoTaskSet
    from swegym.envs.tasksets.from_repo import task_set_from_repo as task_set_from_repo

_MODULES = {
    "FolderTaskSet": "swegym.envs.tasksets",
    "RepoTaskSet": "swegym.envs.tasksets.from_repo",
    "SweEnv": "swegym.envs.swe_env",
    "SweGrader": "swegym.envs.graders",
    "make_provider": "swegym.envs.sandboxes",
    "resolve_task_set": "swegym.envs.tasksets",
    "task_set_from_repo": "swegym.envs.tasksets.from_repo",
}

__all__ = [
    "FolderTaskSet",
    "RepoTaskSet",
    "SweEnv",
    "SweGrader",
    "make_provider",
    "resolve_task_set",
    "task_set_from_repo",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
