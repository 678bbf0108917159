"""The same grading over the other back end: image built from the recipe, root-owned grader folder."""

from __future__ import annotations

import os

import pytest

from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets import FolderTaskSet, sandbox_spec
from swegym.envs.workspace import extract_patch, prepare_workspace

BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")


@pytest.mark.docker
async def test_fix_made_in_a_container_is_resolved_in_another(tiny: FolderTaskSet) -> None:
    provider = make_provider("docker", base_image=BASE_IMAGE)
    grader = SweGrader(provider, tiny)
    try:
        task = tiny.get("tiny-merge")
        sandbox = await provider.create(sandbox_spec(task, tiny))
        try:
            commit = await prepare_workspace(sandbox, task)
            await sandbox.run("sed -i 's/start < merged/start <= merged/' tinykit/ranges.py; echo note > note.txt")
            patch = await extract_patch(sandbox, task, commit)
        finally:
            await sandbox.close()
        assert "note.txt" in patch
        assert (await grader.grade(task, patch)).resolved
        outcome = await grader.grade(
            task, patch.replace("+        if merged and start <=", "+        if merged and start >=")
        )
        assert outcome.reason == "tests_failed"
    finally:
        await grader.close()
        await provider.close()
