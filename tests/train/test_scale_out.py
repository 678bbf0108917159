"""Rollout workers on two Ray nodes (two node processes on this machine), with real sandboxes and real graders."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from swegym.agents.parse import TagProtocol
from swegym.agents.policies.oracle import apply_patch_command
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.action import ToolCall
from swegym.core.config import load_config
from swegym.core.errors import ConfigError, TrainingError
from swegym.core.outcome import Validity
from swegym.core.policy import Policy, PolicyRequest
from swegym.core.store import EpisodeStore
from swegym.core.trajectory import Trajectory
from swegym.envs.sandboxes.identity import OWNER_FILE
from swegym.envs.tasksets.folder import resolve_task_set
from swegym.train.capacity import (
    NodeCapacity,
    check_capacity,
    default_sandboxes_per_node,
    sandboxes_per_worker,
)
from swegym.train.cluster import check_placement
from swegym.train.collector import Collector
from swegym.train.config import RlConfig
from swegym.train.ray_runtime import ray_runtime, start_ray
from swegym.train.rollout_workers import RolloutWorkers
from swegym.train.start import BASE_CHECKPOINT

GIB = 1024**3
CONCURRENCY, NUM_GRADINGS = 3, 1
UNITS = CONCURRENCY + NUM_GRADINGS


def test_default_capacity_of_a_node() -> None:
    assert default_sandboxes_per_node(16, 128 * GIB) == 16 * 32
    assert default_sandboxes_per_node(64, 64 * GIB) == 64 * 8  # memory is what is short
    assert default_sandboxes_per_node(1, 2 * GIB) == 64
    assert default_sandboxes_per_node() >= 64


def check(nodes: Sequence[NodeCapacity], workers: int, each: int, others: int = 1, *, is_own: bool = False) -> None:
    check_capacity(nodes, num_workers=workers, sandboxes_each=each, num_other_cpus=others, is_own=is_own)


def test_what_cannot_be_placed_is_refused_with_what_is_missing() -> None:
    nodes = [NodeCapacity("10.0.0.1", 8, 40), NodeCapacity("10.0.0.2", 2, 40), NodeCapacity("10.0.0.3", 8, 0)]
    check(nodes, 4, 20)
    check(nodes, 2, 40)
    with pytest.raises(ConfigError, match=r"5 rollout workers with 20 units .* room for 4 workers .*10\.0\.0\.2: 40"):
        check(nodes, 5, 20)
    with pytest.raises(ConfigError, match=r"room for 0 workers .*ray start --resources='\{\"sandbox\": 41\}'"):
        check(nodes, 1, 41)
    with pytest.raises(ConfigError, match="room for 6 workers"):
        check(nodes, 7, 10)  # 8 fit by their sandboxes, but the second node has no more than 2 CPUs
    with pytest.raises(ConfigError, match="16 CPU for learner and engines"):
        check(nodes, 4, 20, others=16)
    with pytest.raises(ConfigError, match=r"raise ray\.sandboxes_per_node"):
        check([NodeCapacity("here", 4, 8)], 1, 16, is_own=True)
    with pytest.raises(ConfigError, match=r"the nodes \(none\)"):
        check([], 1, 1)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="declare it where its nodes start"):
        load_config(RlConfig, overrides=["--ray.sandboxes_per_node=4", "--ray.address=auto"])
    with pytest.raises(ConfigError, match="must be local, auto, HOST:PORT or ray://HOST:PORT"):
        load_config(RlConfig, overrides=["--ray.address=http://here"])
    assert sandboxes_per_worker(configure().rollout) == UNITS
    ready = configure("--rollout.sandbox_options.warm=2", "--rollout.sandbox_options.max_warm=5").rollout
    assert sandboxes_per_worker(ready) == UNITS + 5
    assert sandboxes_per_worker(configure("--rollout.sandbox_options.max_sandboxes=2").rollout) == 2


@pytest.mark.ray
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_no_cluster_at_the_address(address: str) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster answers there .*ray start --head"):
        start_ray(1, address=address)


@pytest.mark.ray
def test_a_ray_of_our_own_declares_sandboxes_and_refuses_more() -> None:
    with ray_runtime(4, num_sandboxes=2 * UNITS - 1):
        check_placement(configure("--rollout.num_workers=1"))
        with pytest.raises(ConfigError, match="room for 1 worker on"):
            check_placement(configure("--rollout.num_workers=2"))


def configure(*overrides: str) -> RlConfig:
    return load_config(
        RlConfig,
        overrides=[
            "--rollout.sandbox=local",
            "--rollout.profile=cwm",
            f"--rollout.concurrency={CONCURRENCY}",
            f"--rollout.grading_concurrency={NUM_GRADINGS}",
            "--engine.type=torch",
            *overrides,
        ],
    )


def say(tool: str, body: str = "") -> str:
    return TagProtocol().render(ToolCall(tool=tool, body=body))


class Versioned(ScriptedPolicy):
    """Its name says which weights it was given last."""

    def update_weights(self, state_dict: object, version: int) -> None:
        assert state_dict
        self.name = f"version {version}"


def open_scripted(pause_s: float = 0.0, dies_on: str = "") -> Callable[[], tuple[Policy, None]]:
    """A policy that solves episodes with an odd seed, after a pause in the sandbox; it kills its worker on one task."""
    taskset = resolve_task_set("tiny")
    patches = {taskset.get(item).statement: taskset.secret(item).patch for item in taskset.ids()}
    deadly = taskset.get(dies_on).statement if dies_on else "no task"

    def script(request: PolicyRequest) -> str:
        text = "\n".join(message.content for message in request.messages)
        if deadly in text:
            os._exit(1)
        if request.turn == 0:
            return say("bash", f"sleep {pause_s}")
        is_good = request.sampling.seed is not None and request.sampling.seed % 2
        if request.turn == 1 and is_good:
            return say("bash", next(apply_patch_command(patch) for task, patch in patches.items() if task in text))
        return say("submit")

    return lambda: (Versioned(script), None)


class Nodes:
    """Two Ray nodes with room for one worker each."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folders = [folder / "a", folder / "b"]
        for item in self.folders:
            item.mkdir()
        self.cluster = Cluster(initialize_head=True, head_node_args=self._options(self.folders[0], {"sandbox": UNITS}))
        self.second = self.cluster.add_node(**self._options(self.folders[1], {"sandbox": UNITS}))
        self.cluster.wait_for_nodes()
        self.address: str = self.cluster.address

    @staticmethod
    def _options(temp_folder: Path, resources: dict[str, float]) -> dict[str, Any]:
        return {
            "num_cpus": 2,
            "resources": resources,
            "object_store_memory": 80 * 1024**2,
            "include_dashboard": False,
            "env_vars": {"TMPDIR": str(temp_folder)},
        }

    def sandboxes(self) -> dict[int, list[tuple[str, int]]]:
        """Node -> (sandbox, process that owns it) of what is there now."""
        found: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for node, folder in enumerate(self.folders):
            for owner in folder.glob(f"swegym-*/swegym-*/{OWNER_FILE}"):
                try:
                    found[node].append((owner.parent.name, int(owner.read_text().partition(":")[0])))
                except (OSError, ValueError):
                    continue  # removed, or being made
        return found

    def close(self) -> None:
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("n"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def mortal_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("n"))
    try:
        yield made
    finally:
        made.close()


class Watch:
    """Looks at the nodes' sandboxes all the time; may do something once a condition holds."""

    def __init__(self, nodes: Nodes, when: Callable[[dict[int, Any]], bool], then: Callable[[], Any]) -> None:
        self.most: dict[int, int] = defaultdict(int)
        self.owners: dict[int, set[int]] = defaultdict(set)
        self.seen: dict[int, set[str]] = defaultdict(set)
        self.has_acted = False
        self._nodes, self._when, self._then = nodes, when, then
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.01):
            found = self._nodes.sandboxes()
            for node, sandboxes in found.items():
                self.most[node] = max(self.most[node], len(sandboxes))
                self.owners[node] |= {owner for _, owner in sandboxes}
                self.seen[node] |= {sandbox for sandbox, _ in sandboxes}
            if not self.has_acted and self._when(found):
                self.has_acted = True
                self._then()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def run(workers: RolloutWorkers, task_ids: Sequence[str] | None = None) -> list[Trajectory]:
    ids = task_ids or resolve_task_set("tiny").ids()
    return workers.collect(ids, 4, temperature=1.0, seed=5, label="test")


def facts(trajectories: Sequence[Trajectory]) -> list[tuple[Any, ...]]:
    """What has to be the same wherever an episode ran."""
    return [
        (item.task_id, item.group_id, item.seed, item.end_reason, item.reward, item.submission, len(item.turns))
        for item in trajectories
    ]


async def run_here(folder: Path) -> list[Trajectory]:
    """The same episodes in this process."""
    policy, _ = open_scripted()()
    collector = Collector(configure(), policy, None, EpisodeStore(folder))
    try:
        return await collector.collect(resolve_task_set("tiny").ids(), 4, 1.0, 5, "test")
    finally:
        await collector.close()


def never(_: object) -> bool:
    return False


@pytest.mark.ray
def test_sandboxes_live_on_the_node_of_their_worker_and_never_exceed_its_capacity(nodes: Nodes, tmp_path: Path) -> None:
    import ray

    config = configure("--rollout.num_workers=2", f"--ray.address={nodes.address}")
    with ray_runtime(1, address=nodes.address):
        with pytest.raises(ConfigError, match="room for 2 workers"):
            check_placement(configure("--rollout.num_workers=3", f"--ray.address={nodes.address}"))
        check_placement(config)
        workers = RolloutWorkers(config, open_scripted(pause_s=0.2), tmp_path / "run")
        workers.start()
        assert len({place.node_id for place in workers.places}) == 2
        assert ray.available_resources().get("sandbox", 0) == 0  # every unit is in use
        with Watch(nodes, never, print) as watch:
            found = run(workers)
        workers.close()
        wait_until(lambda: ray.available_resources().get("sandbox", 0) == 2 * UNITS)
    process_ids = {place.process_id for place in workers.places}
    assert watch.owners[0] | watch.owners[1] == process_ids
    assert len(watch.owners[0]) == len(watch.owners[1]) == 1  # each node's sandboxes belong to the worker there
    assert min(watch.most[0], watch.most[1]) >= 2
    assert max(watch.most[0], watch.most[1]) <= UNITS
    assert {(item.reward, "git apply" in item.turns[1].text) for item in found} == {(0.0, False), (1.0, True)}
    assert all(item.validity is Validity.VALID for item in found)
    assert facts(found) == facts(asyncio.run(run_here(tmp_path / "here")))
    assert sorted(EpisodeStore(tmp_path / "run" / "episodes").ids()) == sorted(item.episode_id for item in found)
    assert not nodes.sandboxes()


@pytest.mark.ray
@pytest.mark.chaos
def test_a_lost_node_loses_no_episode_and_gives_no_reward(mortal_nodes: Nodes, tmp_path: Path) -> None:
    nodes = mortal_nodes
    config = configure("--rollout.num_workers=2", f"--ray.address={nodes.address}")
    with ray_runtime(1, address=nodes.address):
        workers = RolloutWorkers(config, open_scripted(pause_s=1.0), tmp_path / "run")
        workers.start()
        with Watch(
            nodes,
            when=lambda found: len(found[1]) > 1,
            then=lambda: nodes.cluster.remove_node(nodes.second, allow_graceful=False),
        ) as watch:
            found = run(workers)
        assert watch.has_acted
        assert len(found) == 12
        assert all(item.validity is Validity.VALID for item in found)
        assert len({item.group_id for item in found}) == 3
        assert {(item.reward, "git apply" in item.turns[1].text) for item in found} == {(0.0, False), (1.0, True)}
        workers.close()
    wait_until(lambda: not [item for item in nodes.sandboxes()[0] if item])


@pytest.mark.ray
@pytest.mark.chaos
def test_a_killed_worker_is_restarted_and_its_sandboxes_are_reaped(nodes: Nodes, tmp_path: Path) -> None:
    config = configure(f"--ray.address={nodes.address}")
    with ray_runtime(1, address=nodes.address):
        workers = RolloutWorkers(config, open_scripted(pause_s=1.0), tmp_path / "run")
        workers.start()
        workers.update_weights(BASE_CHECKPOINT, 3)
        victim = workers.places[0].process_id
        with Watch(
            nodes,
            when=lambda found: sum(map(len, found.values())) > 1,
            then=lambda: os.kill(victim, signal.SIGKILL),
        ) as watch:
            found = run(workers)
        assert watch.has_acted
        assert all(item.validity is Validity.VALID for item in found)
        assert len(found) == 12
        assert {item.policy for item in found} == {"version 3"}  # the restarted worker was given the newest weights
        wait_until(lambda: victim not in {owner for part in nodes.sandboxes().values() for _, owner in part})
        workers.close()
    assert not nodes.sandboxes()


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.slow
def test_an_episode_that_keeps_killing_its_worker_is_a_failure_of_the_infrastructure(
    nodes: Nodes, tmp_path: Path
) -> None:
    with ray_runtime(1, address=nodes.address):
        config = configure(f"--ray.address={nodes.address}")
        workers = RolloutWorkers(config, open_scripted(dies_on="tiny-wrap"), tmp_path / "run")
        workers.start()
        found = run(workers, ["tiny-wrap"])
        assert [item.validity for item in found] == [Validity.INFRASTRUCTURE] * 4
        assert {(item.reward, item.outcome, item.end_reason) for item in found} == {(None, None, "error:ActorLost")}
        assert len({item.group_id for item in found}) == 1
        assert len(EpisodeStore(tmp_path / "run" / "episodes").ids()) == 4
        assert {item.validity for item in run(workers, ["tiny-lru"])} == {Validity.VALID}
        workers.close()


@pytest.mark.ray
def test_what_keeps_a_worker_from_starting_is_told(nodes: Nodes, tmp_path: Path) -> None:
    with ray_runtime(1, address=nodes.address):
        wrong = configure("--data.taskset=no-such-set", f"--ray.address={nodes.address}")
        workers = RolloutWorkers(wrong, open_scripted(), tmp_path / "run")
        with pytest.raises(LookupError, match="no-such-set"):
            workers.start()
        workers.close()
        busy = configure("--rollout.num_workers=3", f"--ray.address={nodes.address}", "--ray.start_timeout_s=0.5")
        workers = RolloutWorkers(busy, open_scripted(), tmp_path / "busy")
        with pytest.raises(TrainingError, match=r"of 3 rollout workers .*4 units of 'sandbox'.* 0 units free"):
            workers.start()
        workers.close()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come true within 30 s")
