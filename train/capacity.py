"""How many sandboxes a node may hold: Ray's custom resource "sandbox", one unit for each live sandbox.

Ray then schedules environments as it schedules CPUs: a rollout worker asks for as many units as it may hold sandboxes
at once, so a node never gets more workers than it can hold sandboxes for. Pure functions; Ray is not imported here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swegym.core.errors import ConfigError
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.train.config import RolloutSection

__all__ = [
    "SANDBOX_RESOURCE",
    "NodeCapacity",
    "check_capacity",
    "default_sandboxes_per_node",
    "grading_concurrency",
    "node_capacities",
    "sandboxes_per_worker",
]

SANDBOX_RESOURCE = "sandbox"
SANDBOXES_PER_CPU = 32
SANDBOXES_PER_GIB = 8
LEAST_SANDBOXES = 64


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What one node of a Ray cluster has in all, whether in use or not."""

    name: str
    num_cpus: float
    num_sandboxes: float


def default_sandboxes_per_node(num_cpus: int | None = None, memory_bytes: int | None = None) -> int:
    """32 for each CPU but no more than 8 for each GiB of memory, and at least 64 in all; of this machine by default.

    A sandbox mostly waits for its policy: it then costs a few MB and no CPU.
    """
    num_cpus = num_cpus or len(os.sched_getaffinity(0))
    memory_bytes = memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_SANDBOXES, min(SANDBOXES_PER_CPU * num_cpus, SANDBOXES_PER_GIB * memory_bytes // 1024**3))


def grading_concurrency(rollout: RolloutSection) -> int:
    """Gradings that one worker runs at a time."""
    return rollout.grading_concurrency or min(rollout.concurrency, os.cpu_count() or 1)


def sandboxes_per_worker(rollout: RolloutSection) -> int:
    """Sandboxes that one rollout worker may hold at once: its bound if it has one, else one for each episode and for
    each grading, and those that are kept ready.
    """
    options = SandboxConfig(**rollout.sandbox_options)
    if options.max_sandboxes is not None:
        return options.max_sandboxes
    return rollout.concurrency + grading_concurrency(rollout) + (options.max_warm if options.warm else 0)


def node_capacities(nodes: Iterable[Mapping[str, Any]]) -> list[NodeCapacity]:
    """From `ray.nodes()`, the living ones."""
    return [
        NodeCapacity(
            str(node["NodeManagerAddress"]),
            float(node["Resources"].get("CPU", 0)),
            float(node["Resources"].get(SANDBOX_RESOURCE, 0)),
        )
        for node in nodes
        if node["Alive"]
    ]


def check_capacity(
    nodes: Sequence[NodeCapacity], *, num_workers: int, sandboxes_each: int, num_other_cpus: int, is_own: bool
) -> None:
    """Refuse what could never be scheduled, before anything starts.

    Args:
        nodes: the cluster's.
        num_workers: rollout workers; each takes one CPU.
        sandboxes_each: units of "sandbox" that each takes.
        num_other_cpus: CPUs of the learner and the engines.
        is_own: this run started Ray itself, and so decides how much there is.

    Raises:
        ConfigError: names the resource that is missing, how much there is and how to declare more.
    """
    num_fitting = sum(int(min(node.num_cpus, node.num_sandboxes // sandboxes_each)) for node in nodes)
    num_cpus = sum(node.num_cpus for node in nodes)
    if num_fitting >= num_workers and num_cpus >= num_workers + num_other_cpus:
        return
    found = ", ".join(f"{node.name}: {node.num_sandboxes:g} sandbox, {node.num_cpus:g} CPU" for node in nodes)
    wants = (
        f"{num_workers} rollout worker{'s' if num_workers > 1 else ''} with {sandboxes_each} units of the Ray resource "
        f'"{SANDBOX_RESOURCE}" (rollout.concurrency and grading_concurrency) and 1 CPU each'
    )
    wants += f", and {num_other_cpus} CPU for learner and engines" if num_other_cpus else ""
    cure = (
        "raise ray.sandboxes_per_node"
        if is_own
        else f"start the nodes with `ray start --resources='{{\"{SANDBOX_RESOURCE}\": {sandboxes_each}}}'` or more"
    )
    raise ConfigError(
        f"Ray cannot place {wants}: there is room for {num_fitting} worker{'s' if num_fitting != 1 else ''} on the "
        f"nodes ({found or 'none'}); {cure}, or lower rollout.num_workers or rollout.concurrency"
    )
