"""Bugs of CWM's five kinds (functions, arguments, variables, statements, operators), put into Python source.

`tree` reads a module into functions with byte positions; one file a kind proposes edits; `kinds` collects them with the
published mix; `lanes` decides what is tried in which order. Every byte outside an edit stays as it was.

Source: CWM (arXiv 2510.02387) section 2.3, mutate-fix.
"""

from swegym.envs.tasksets.mutate.kinds import CWM_MIX, KINDS, find_tree_mutations
from swegym.envs.tasksets.mutate.tree import TreeMutation

__all__ = ["CWM_MIX", "KINDS", "TreeMutation", "find_tree_mutations"]
