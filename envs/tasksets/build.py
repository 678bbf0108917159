"""Mutate-fix tasks from one package: stage, measure, mutate, validate, write.

Source: CWM (arXiv 2510.02387) section 2.3, its mutate-fix data. `build_tasks` makes all its kinds; `build_mutate_fix`
one wrong token a task, which is what the demo's tiny model can learn to mend.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from swegym.core.errors import ConfigError
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import SweSecret, Task
from swegym.envs.tasksets.build_steps import BuildSteps, Progress
from swegym.envs.tasksets.candidates import Candidate, TokenQueue, choose_candidates
from swegym.envs.tasksets.discover.discovery import discover_recipe, why_not_buildable
from swegym.envs.tasksets.mutate.candidates import MutateOptions, TreeCandidate
from swegym.envs.tasksets.mutate.lanes import LaneQueue, make_lanes
from swegym.envs.tasksets.mutate.tasks import TOKEN_BUILDER, TREE_BUILDER, token_task, tree_task
from swegym.envs.tasksets.mutations import DEFAULT_KINDS
from swegym.envs.tasksets.recipe import Recipe, read_recipe, write_recipe
from swegym.envs.tasksets.report import BuildReport
from swegym.envs.tasksets.sources import SourceTree
from swegym.envs.tasksets.staging import Staged, stage
from swegym.envs.tasksets.verdicts import Rules, Verdict

__all__ = ["BuildReport", "build_mutate_fix", "build_tasks"]

RECIPE_NAME = "recipe.toml"


async def build_mutate_fix(
    source: str,
    out_folder: str | Path,
    num_train: int,
    num_heldout: int,
    seed: int,
    jobs: int,
    provider: SandboxProvider,
    progress: Progress | None = None,
    *,
    requirements: tuple[str, ...] = (),
    kinds: tuple[str, ...] = DEFAULT_KINDS,
) -> BuildReport:
    """Build a validated task set of one-token bugs in a folder; equal for equal arguments.

    An interrupted build is taken up again by calling it again with the same folder.

    Args:
        source: a package such as `boltons==26.2.0`, fetched as an sdist, a repository, or the path of a source folder.
        out_folder: becomes the task set; its `build/` holds the journal.
        num_train: training tasks wanted.
        num_heldout: held-out tasks wanted. Fewer of either are made when the package does not yield more.
        seed: decides sites, mutations, order and split.
        jobs: sandboxes at a time.
        provider: where everything of the package runs.
        progress: called with (stage, done, total).
        requirements: what the tests need besides pytest and the package's own requirements.
        kinds: of mutations, keys of `mutations.MUTATORS`.

    Raises:
        ConfigError: no such package, no network, no tests, no mutation that a test notices.
        TaskError: the suite does not run.
    """
    wanted = {"train": num_train, "heldout": num_heldout}
    build = BuildSteps(source, out_folder, wanted, jobs, provider, progress)
    await build.stage(lambda tree, out: stage(tree, out, requirements))
    candidates = choose_candidates(
        {path: data.decode() for path, data in build.sources().items()},
        build.baseline,
        num_train=num_train,
        num_heldout=num_heldout,
        seed=seed,
        kinds=kinds,
    )
    await build.validate(TokenQueue(candidates, wanted), Rules())
    build.report.num_candidates = len(candidates)
    description = f"One wrong operator or word in {build.name} (seed {seed})."

    def record(candidate: Candidate, verdict: Verdict) -> tuple[Task, SweSecret]:
        return token_task(build.staged, candidate, verdict)

    return await build.finish(record, description, TOKEN_BUILDER)


async def build_tasks(
    source: str,
    out_folder: str | Path,
    num_train: int,
    num_heldout: int,
    seed: int,
    jobs: int,
    provider: SandboxProvider,
    progress: Progress | None = None,
    *,
    options: MutateOptions | None = None,
    requirements: tuple[str, ...] = (),
    recipe: Path | None = None,
) -> BuildReport:
    """Build a validated task set with bugs of CWM's five kinds in a folder; equal for equal arguments.

    How the package is installed and tested is found in its files and written to recipe.toml in the folder. There it
    can be edited: a build takes it up again. An interrupted build goes on when it is called again.

    Args:
        source: a package such as `boltons==26.2.0`, fetched as an sdist, a repository, or the path of a source folder.
        out_folder: becomes the task set; its `build/` holds the journal.
        num_train: training tasks wanted.
        num_heldout: held-out tasks wanted. Fewer of either are made when the package does not yield more.
        seed: decides order and split.
        jobs: sandboxes at a time.
        provider: where everything of the package runs.
        progress: called with (stage, done, total).
        options: kinds and difficulty; default: CWM's mix, one bug a task.
        requirements: what the tests need besides what is found.
        recipe: a recipe.toml to use instead of looking.

    Raises:
        ConfigError: no such package, no network, no tests, compiled parts, no mutation that a test notices.
        TaskError: the suite does not run.
    """
    options = options or MutateOptions()
    wanted = {"train": num_train, "heldout": num_heldout}
    build = BuildSteps(source, out_folder, wanted, jobs, provider, progress)

    def make(tree: SourceTree, out: Path) -> Staged:
        found = _recipe(tree, out, recipe, requirements)
        build.requirements = found.found
        try:
            return stage(tree, out, (), found)
        except ConfigError as error:
            raise ConfigError(
                f"{error} (what is installed stands in {out / RECIPE_NAME}, which you can edit)"
            ) from None

    await build.stage(make)
    lanes = await asyncio.to_thread(make_lanes, build.sources(), build.baseline, options, wanted=wanted, seed=seed)
    rules = Rules(confirm=True, min_broken=options.min_broken, max_broken=options.max_broken)
    await build.validate(LaneQueue(lanes, wanted, options.mix), rules)
    build.report.num_near_duplicates = sum(lane.num_near_duplicates for lane in lanes)
    total = sum(options.mix.values())
    build.report.shares = {kind: 100 * share / total for kind, share in options.mix.items()}
    description = f"Bugs of CWM's kinds in {build.name} (seed {seed}; {options.model_dump_json()})."

    def record(candidate: TreeCandidate, verdict: Verdict) -> tuple[Task, SweSecret]:
        return tree_task(build.staged, candidate, verdict, options)

    return await build.finish(record, description, TREE_BUILDER)


def _recipe(tree: SourceTree, out: Path, path: Path | None, requirements: tuple[str, ...]) -> Recipe:
    """The user's, else the folder's, else one from the package's files."""
    kept = out / RECIPE_NAME
    if path is not None or kept.exists():
        recipe = read_recipe(path or kept)
        missing = tuple(item for item in requirements if item not in recipe.requirements)
        recipe = recipe.model_copy(update={"requirements": (*recipe.requirements, *missing)})
    else:
        if reason := why_not_buildable(tree.folder):
            raise ConfigError(
                f"{tree.name}: {reason}; if its tests pass without them, write a recipe and give it with --recipe"
            )
        recipe = discover_recipe(tree.folder, extra_requirements=requirements, runtime=tree.requires)
    write_recipe(kept, recipe, f"{tree.name} {tree.version}".strip())
    return recipe
