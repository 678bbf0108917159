"""`swegym sandboxes`: what is listed and what is removed, and settings of the back end on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Swegym

OWNER = """
import asyncio, sys
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes import make_provider
async def main():
    provider = make_provider("local", temp_folder=sys.argv[1], warm=1, labels={"run": "eval-7"})
    spec = SandboxSpec(image="", workspace=sys.argv[2], labels={"task": "tiny-lru"})
    await (await provider.create(spec)).snapshot()
    while provider.num_ready < 1:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_sandboxes_of_a_run(swegym: Swegym, no_engine: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    folder = ("--temp-folder", str(tmp_path / "s"))

    def states(*arguments: str) -> list[str]:
        done = swegym("sandboxes", "ls", "--json", *folder, *arguments, env=no_engine)
        assert done.returncode == 0, done.stderr
        return sorted(json.loads(line)["state"] for line in done.stdout.splitlines())

    command = [sys.executable, "-c", OWNER, str(tmp_path / "s"), str(tmp_path / "w")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        assert states() == states("--run", "eval-7") == ["in use", "ready", "snapshot"]
        assert states("--run", "eval-8") == []
        table = swegym("sandboxes", "ls", *folder, env=no_engine).stdout
        assert f"process {owner.pid}" in table
        assert all(word in table for word in ("eval-7", "tiny-lru", "in use", "ready", "snapshot", "local", " s "))
        assert swegym("sandboxes", "prune", *folder, env=no_engine).stdout == "removed 0 sandboxes\n"
        assert swegym("sandboxes", "prune", "--all", "--run", "x", *folder, env=no_engine).stdout.endswith(
            " 0 sandboxes\n"
        )
        owner.kill()
    assert states() == ["orphan"] * 3
    done = swegym("sandboxes", "prune", "--run", "eval-7", *folder, env=no_engine)
    assert done.stdout == "removed 2 sandboxes and 1 snapshots\n"
    assert swegym("sandboxes", "ls", *folder, env=no_engine).stdout == "no sandboxes\n"


def test_settings_of_the_back_end(swegym: Swegym, tmp_path: Path) -> None:
    arguments = ("eval", "--env", "swegym/Tiny-v0", "--sandbox", "local", "--policy", "oracle", "--run", "r")
    settings = ("--sandbox-option", "warm=2", "--sandbox-option", "max_sandboxes=3", "--sandbox-option")
    done = swegym(*arguments, *settings, f"temp_folder={tmp_path / 's'}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pass_rate"]["mean"] == 1.0
    recorded = json.loads((tmp_path / "r" / "config.json").read_text())["sandbox_options"]
    assert recorded == {"warm": 2, "max_sandboxes": 3, "temp_folder": str(tmp_path / "s")}
    assert list((tmp_path / "s").glob("swegym-*")) == []
    for setting, message in (
        ("wram=2", "unknown key 'wram', did you mean 'warm'?"),
        ("warm", "KEY=VALUE"),
        ("warm=-1", "warm: Input should be greater than or equal to 0"),
        ("backend=docker", "use --sandbox"),
        ("base_image=x", "use --base-image"),
    ):
        done = swegym(*arguments, "--sandbox-option", setting)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
