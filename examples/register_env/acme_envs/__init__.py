"""One repository, one bug, one environment: `gymnasium.make("acme_envs:acme/Slugs-v0")`."""

from pathlib import Path

import swegym
from swegym.envs import RepoTaskSet, task_set_from_repo

HERE = Path(__file__).parent


def task_set() -> RepoTaskSet:
    return task_set_from_repo(
        HERE / "repository",
        name="acme-slugs",
        statement=(HERE / "statement.md").read_text(),
        gold_patch=HERE / "gold.patch",
        fail_to_pass=["tests/test_slug.py::test_runs_of_blanks", "tests/test_slug.py::test_edges"],
        pass_to_pass=["tests/test_slug.py::test_words", "tests/test_unique.py::test_unique"],
    )


swegym.register("acme/Slugs-v0", taskset="acme_envs:task_set", reward="cwm")
