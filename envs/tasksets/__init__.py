"""Task sets: folders of tasks, where they come from, and how they are built.

`folder` reads and writes them, `dependencies` prepares what their tests import, `sources` fetches packages, `discover`
finds how they are installed and tested, `mutate` and `mutations` find bugs to inject, `build` makes a validated set.
"""

from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.folder import FolderTaskSet, Manifest, resolve_task_set, sandbox_spec, save_task_set

__all__ = ["FolderTaskSet", "Manifest", "ensure_dependencies", "resolve_task_set", "sandbox_spec", "save_task_set"]
