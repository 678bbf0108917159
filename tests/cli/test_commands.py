"""The commands on the task set that ships, in local sandboxes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from swegym.agents.policies.oracle import apply_patch_command
from swegym.core.store import EpisodeStore
from swegym.envs import resolve_task_set
from tests.cli.conftest import Swegym

TINY = ("--env", "swegym/Tiny-v0", "--sandbox", "local")
SUBMIT = "<tool: submit>\n</tool>"


def episodes(run: Path) -> list[dict[str, object]]:
    return [item.model_dump(mode="json") for item in EpisodeStore(run / "episodes", create=False)]


def test_oracle_solves_everything_and_replays_without_a_difference(swegym: Swegym, tmp_path: Path) -> None:
    done = swegym("eval", *TINY, "--policy", "oracle", "-k", "1", "-k", "2", "--json", "--run", "r")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["num_tasks"], report["pass_rate"]["mean"], report["pass_at_k"]) == (3, 1.0, {"1": 1.0, "2": 1.0})
    assert json.loads((tmp_path / "r" / "summary.json").read_text()) == report
    assert json.loads((tmp_path / "r" / "config.json").read_text())["taskset"] == "tiny"
    episode = str(episodes(tmp_path / "r")[0]["episode_id"])
    replayed = swegym("replay", "r", episode[:10], "--execute")
    assert replayed.returncode == 0, replayed.stderr
    assert "re-executed 2 of 2 turns: no difference" in replayed.stdout


def test_replay_says_where_a_tampered_record_differs(swegym: Swegym, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(f"<tool: bash>\necho out-$((6 * 7))\n</tool>\n---\n{SUBMIT}\n")
    done = swegym("rollout", *TINY, "--policy", "scripted", "--source", "script", "--num-tasks", "1", "--run", "r")
    assert done.returncode == 0, done.stderr
    part = next((tmp_path / "r" / "episodes").glob("part-*.jsonl"))
    assert "out-42" in part.read_text()
    part.write_text(part.read_text().replace("out-42", "out-43"))
    shown = swegym("replay", "r", str(episodes(tmp_path / "r")[0]["episode_id"]), "--turn", "0", "--execute")
    assert shown.returncode == 1, shown.stderr
    assert "turn 0: text differs" in shown.stdout
    assert "+out-42" in shown.stdout


def test_replay_policy_says_the_same_again(swegym: Swegym, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(f"<tool: bash>\necho once\n</tool>\n---\n{SUBMIT}\n")
    assert swegym("rollout", *TINY, "--policy", "scripted", "--source", "script", "--run", "a").returncode == 0
    done = swegym("rollout", *TINY, "--policy", "replay", "--source", "a", "--run", "b")
    assert done.returncode == 0, done.stderr

    def texts(run: str) -> dict[str, list[str]]:
        store = EpisodeStore(tmp_path / run / "episodes", create=False)
        return {item.task_id: [turn.text for turn in item.turns] for item in store}

    assert texts("b") == texts("a")
    assert len(texts("b")) == 3


def test_person_at_the_terminal(swegym: Swegym, tmp_path: Path) -> None:
    taskset = resolve_task_set("tiny")
    cure = apply_patch_command(taskset.secret("tiny-lru").patch)
    typed = f":bash\n{cure}\n.\nsubmit\n"
    done = swegym("rollout", *TINY, "--task", "tiny-lru", "--policy", "human", "--run", "r", stdin=typed)
    assert done.returncode == 0, done.stderr
    (episode,) = EpisodeStore(tmp_path / "r" / "episodes", create=False)
    assert episode.outcome is not None
    assert episode.outcome.resolved


def test_a_person_who_leaves_makes_an_invalid_episode(swegym: Swegym) -> None:
    done = swegym("rollout", *TINY, "--task", "tiny-lru", "--policy", "human", "--run", "r", stdin="ls\n")
    assert done.returncode == 1
    assert "every episode is invalid; the last one: the input ended" in done.stderr
    assert "Traceback" not in done.stderr


def test_regrade_appends_with_another_reward(swegym: Swegym, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SUBMIT)
    assert swegym("rollout", *TINY, "--policy", "scripted", "--source", "script", "--run", "r").returncode == 0
    assert {item["reward"] for item in episodes(tmp_path / "r")} == {0.0}
    done = swegym("regrade", "r", "--reward", "cwm", "--sandbox", "local")
    assert done.returncode == 0, done.stderr
    assert "graded 3 episodes again; 3 results changed" in done.stdout
    assert {item["reward"] for item in episodes(tmp_path / "r")} == {-1.0}


def test_episodes_are_listed_and_selected(swegym: Swegym) -> None:
    assert swegym("rollout", *TINY, "--policy", "oracle", "--samples", "2", "--run", "r").returncode == 0
    listed = swegym("episodes", "ls", "r", "--task", "tiny-wrap", "--resolved", "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["task_id"] for row in rows] == ["tiny-wrap", "tiny-wrap"]
    assert "turns" not in rows[0]
    assert swegym("episodes", "ls", "r", "--no-resolved", "--json").stdout == ""
    table = swegym("episodes", "ls", "r", "--limit", "4").stdout
    assert "the newest 4 of 6" in table


def test_tasks_keep_their_secret_until_asked(swegym: Swegym) -> None:
    public, secret = (
        swegym("tasks", "show", "tiny", "tiny-lru"),
        swegym("tasks", "show", "tiny", "tiny-lru", "--secret"),
    )
    assert json.loads(public.stdout)["task_id"] == "tiny-lru"
    assert "FAIL_TO_PASS" not in public.stdout
    assert "FAIL_TO_PASS" in secret.stdout
    assert "tiny-lru" in swegym("tasks", "list", "tiny", "--split", "heldout").stdout
    assert "swegym/Tiny-v0" in swegym("tasks", "list").stdout


def test_tasks_validate_finds_the_broken_one(swegym: Swegym, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(resolve_task_set("tiny").folder(), tmp_path / "set")
    secrets = (tmp_path / "set" / "secrets.jsonl").read_text().splitlines()
    broken = [json.loads(line) for line in secrets]
    broken[1]["patch"] = broken[0]["patch"]
    (tmp_path / "set" / "secrets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in broken))
    done = swegym("tasks", "validate", "set", "--sandbox", "local")
    assert done.returncode == 1
    assert f"{broken[1]['task_id']}: the gold patch does not solve it" in done.stdout
    assert "2 of 3 tasks are sound" in done.stdout


def test_sandboxes_of_the_dead_are_pruned(swegym: Swegym) -> None:
    assert swegym("sandboxes", "prune").returncode == 0
    assert "orphan" not in swegym("sandboxes", "ls").stdout


def test_dry_run_prints_the_resolved_configuration(swegym: Swegym, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[algo]\ngroup_size = 3\nnum_steps = 7\n")
    done = swegym("train", "rl", "--config", "a.toml", "--algo.group_size=5", "--optim.lr", "0.5", "--dry-run")
    assert done.returncode == 0, done.stderr
    resolved = json.loads(done.stdout)
    assert (resolved["algo"]["group_size"], resolved["algo"]["num_steps"], resolved["optim"]["lr"]) == (5, 7, 0.5)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("stage", "recipe"), [("rl", "demo"), ("rl", "paper"), ("sft", "base")])
def test_recipes_that_ship_are_known_by_name(swegym: Swegym, stage: str, recipe: str) -> None:
    done = swegym("train", stage, "--config", recipe, "--seed=7", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seed"] == 7


def test_doctor_says_what_is_there_and_how_to_add_the_rest(swegym: Swegym, no_engine: dict[str, str]) -> None:
    done = swegym("doctor", "--json", env=no_engine)
    assert done.returncode == 0, done.stderr
    found = {item["name"]: item for item in json.loads(done.stdout)}
    assert found["Python"]["status"] == "ok"
    assert found["bubblewrap"]["status"] == "ok"
    assert found["Docker or Podman"]["status"] == "missing"
    assert "docker" in found["Docker or Podman"]["fix"]
    assert all(item["fix"] for item in found.values() if item["status"] == "missing")
    assert {"git", "GPU", "torch", "vLLM", "flash-attn", "Ray", "disk", "memory", "user namespaces"} <= set(found)
    table = swegym("doctor", env=no_engine)
    assert table.returncode == 0
    assert "To add what is missing:" in table.stdout


class _Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible chat endpoint that first cures the task and then submits."""

    cure = ""
    requests: list[dict[str, object]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        answered = any(message["role"] == "assistant" for message in body["messages"])
        content = SUBMIT if answered else f"Let me mend it.\n<tool: bash>\n{self.cure}\n</tool>"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Endpoint.cure = apply_patch_command(resolve_task_set("tiny").secret("tiny-wrap").patch)
    _Endpoint.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_anyone_with_an_endpoint_can_run_an_agent(swegym: Swegym, tmp_path: Path, endpoint: str) -> None:
    arguments = ("--policy", "openai", "--model", "some-model", "--base-url", endpoint, "--max-action-tokens", "99")
    done = swegym("rollout", *TINY, "--task", "tiny-wrap", *arguments, "--run", "r")
    assert done.returncode == 0, done.stderr
    (episode,) = EpisodeStore(tmp_path / "r" / "episodes", create=False)
    assert episode.policy == "openai:some-model"
    assert episode.outcome is not None
    assert episode.outcome.resolved
    assert [request["max_tokens"] for request in _Endpoint.requests] == [99, 99]


def test_an_endpoint_that_does_not_answer_is_one_line(swegym: Swegym) -> None:
    arguments = ("--policy", "openai", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    done = swegym("rollout", *TINY, "--task", "tiny-wrap", *arguments)
    assert done.returncode == 1
    assert "cannot reach http://127.0.0.1:9/v1" in done.stderr
    assert "Traceback" not in done.stderr
