"""Order, quotas and choice of tree mutations: pure functions of source, coverage, verdicts and seed."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from pydantic import ValidationError

from swegym.core.errors import ConfigError
from swegym.core.outcome import TestStatus
from swegym.envs.graders.pytest_run import PytestReport
from swegym.envs.tasksets.baseline import Baseline, FileBaseline
from swegym.envs.tasksets.mutate.candidates import MutateOptions, TreeCandidate
from swegym.envs.tasksets.mutate.kinds import CWM_MIX
from swegym.envs.tasksets.mutate.lanes import Lane, LaneQueue, make_lanes, quotas
from swegym.envs.tasksets.verdicts import Rules, Verdict, agreed, limited, verdict_of

FUNCTION = '''
def f{n}(a, b, size={n}):
    """Number {n}."""
    if a is None:
        return b
    total = a + b * {n}
    if total > size and a != b:
        total -= g(a, b)
    return total
'''
SOURCES = {
    "m.py": "".join(FUNCTION.format(n=n) for n in range(12)).encode(),
    "other.py": b"def uncovered(a):\n    return a + 1\n",
}
NUM_LINES = SOURCES["m.py"].count(b"\n")
COVERING = FileBaseline(
    path="t.py", duration_s=0.2, stable=("t.py::x",), lines={"m.py": tuple(range(1, NUM_LINES + 1))}
)
BASELINE = Baseline(files=(COVERING,), num_tests=1, num_unstable=0, suite_s=1.0)
WANTED = {"train": 30, "heldout": 15}


def lanes(seed: int = 0, **options: object) -> list[Lane]:
    return make_lanes(SOURCES, BASELINE, MutateOptions.model_validate(options), wanted=WANTED, seed=seed)


def everything(lane: Lane, limit: int = 40) -> list[TreeCandidate]:
    """The first ones: every one of them is compiled."""
    found: list[TreeCandidate] = []
    while len(found) < limit and (candidate := lane.next()) is not None:
        found.append(candidate)
    return found


@pytest.mark.parametrize(
    ("total", "limits", "expected"),
    [
        (45, {}, {"functions": 7, "arguments": 9, "variables": 6, "statements": 11, "operators": 12}),
        (45, {"operators": 3}, {"functions": 9, "arguments": 11, "variables": 8, "statements": 14, "operators": 3}),
        (0, {}, dict.fromkeys(CWM_MIX, 0)),
        (2, {}, {"functions": 0, "arguments": 0, "variables": 0, "statements": 1, "operators": 1}),
        (9, dict.fromkeys(CWM_MIX, 1), dict.fromkeys(CWM_MIX, 1)),
    ],
)
def test_quotas(total: int, limits: dict[str, int], expected: dict[str, int]) -> None:
    assert quotas(total, CWM_MIX, limits) == expected


def test_every_candidate_compiles_is_covered_and_has_its_own_text() -> None:
    texts = set()
    for lane in lanes():
        for candidate in everything(lane):
            (mutation,) = candidate.mutations
            assert (mutation.path, mutation.kind, candidate.split) == ("m.py", lane.kind, lane.split)
            assert candidate.test_files == (COVERING,)
            assert candidate.edits not in texts
            texts.add(candidate.edits)
    assert len(texts) > 100


def test_no_function_in_both_splits() -> None:
    places: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for lane in lanes(seed=5):
        places[lane.split] |= {candidate.mutations[0].function for candidate in everything(lane)}
    assert places["train"]
    assert places["heldout"]
    assert not places["train"] & places["heldout"]


def test_order_depends_on_the_seed_alone_and_visits_every_function_first() -> None:
    first, again, other = ([item.key for lane in lanes(seed) for item in everything(lane)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    for lane in lanes(seed=1):
        candidates = everything(lane)
        functions = {item.mutations[0].function for item in candidates}
        assert {item.mutations[0].function for item in candidates[: len(functions)]} == functions


def play(seed: int, jobs: int, fate: dict[str, str]) -> list[str]:
    """A build whose verdicts come in any order, `jobs` candidates at a time."""
    rng = random.Random(seed)
    queue = LaneQueue(lanes(), WANTED, CWM_MIX)
    while True:
        under_way: list[TreeCandidate] = []
        while True:
            while len(under_way) < jobs and (candidate := queue.next()) is not None:
                under_way.append(candidate)
            if not under_way:
                break
            candidate = under_way.pop(rng.randrange(len(under_way)))
            status = fate.setdefault(candidate.key, "broken" if int(candidate.key[:2], 16) % 3 == 0 else "survived")
            if candidate.kind == "functions":
                status = "survived"
            queue.record(candidate, Verdict(key=candidate.key, status=status))
        if not queue.deal():
            return [candidate.key for candidate, _ in queue.chosen()]


def test_choice_does_not_depend_on_the_order_of_verdicts() -> None:
    chosen = play(0, 1, {})
    assert len(chosen) == sum(WANTED.values()), "what one kind lacks, the others give"
    for seed, jobs in ((1, 2), (2, 5), (3, 9)):
        assert play(seed, jobs, {}) == chosen


def test_shares_of_a_build_in_which_everything_breaks() -> None:
    queue = LaneQueue(lanes(), WANTED, CWM_MIX)
    while (candidate := queue.next()) is not None:
        queue.record(candidate, Verdict(key=candidate.key, status="broken"))
    assert not queue.deal()
    kinds = [candidate.kind for candidate, _ in queue.chosen()]
    assert {kind: kinds.count(kind) for kind in CWM_MIX} == {
        kind: sum(quotas(number, CWM_MIX)[kind] for number in WANTED.values()) for kind in CWM_MIX
    }


def test_near_duplicates_become_one_task() -> None:
    (lane,) = (lane for lane in lanes() if (lane.kind, lane.split) == ("operators", "train"))
    candidates = everything(lane, 200)
    for candidate in candidates:
        lane.record(Verdict(key=candidate.key, status="broken"))
    picks = [candidate for candidate, _ in lane.picks()]
    assert lane.num_near_duplicates == len(candidates) - len(picks) > 0
    for index, left in enumerate(picks):
        for right in picks[:index]:
            assert len(left.words & right.words) < 0.8 * len(left.words | right.words)


@pytest.mark.parametrize("distance", ["function", "module"])
def test_several_bugs_at_once(distance: str) -> None:
    found = [item for lane in lanes(num_edits=3, distance=distance) for item in everything(lane, 5)]
    assert len(found) > 20
    for candidate in found:
        assert len(candidate.mutations) == len(candidate.parts) == 3
        ranges = sorted((item.first_line, item.last_line) for item in candidate.mutations)
        assert all(left[1] + 1 < right[0] for left, right in pairwise(ranges))
        if distance == "function":
            assert len({item.function for item in candidate.mutations}) == 1
    if distance == "module":
        assert any(len({item.function for item in candidate.mutations}) > 1 for candidate in found)


def test_options_are_checked() -> None:
    bad: list[dict[str, object]] = [
        {"mix": {}},
        {"mix": {"operators": -1.0}},
        {"num_edits": 0},
        {"distance": "far"},
        {"hints": "none"},
    ]
    for values in bad:
        with pytest.raises((ValidationError, ConfigError)):
            MutateOptions.model_validate(values)


def verdict(*failed: str, status: str = "broken") -> Verdict:
    tests = ("a", "b", "c")
    return Verdict(
        key="k", status=status, fail_to_pass=failed, pass_to_pass=tuple(test for test in tests if test not in failed)
    )


def test_two_runs_have_to_agree() -> None:
    both = agreed(verdict("a", "b"), verdict("b", "c"))
    assert (both.status, both.fail_to_pass, both.pass_to_pass) == ("broken", ("b",), ())
    assert agreed(verdict("a"), verdict("b")).status == "flaky"
    assert agreed(verdict("a"), verdict(status="survived")).status == "flaky"
    assert agreed(verdict("a"), verdict(status="timed_out")).status == "timed_out"


def test_difficulty_by_number_of_failing_tests() -> None:
    assert limited(verdict("a"), Rules(min_broken=2)).status == "too_few_fail"
    assert limited(verdict("a", "b"), Rules(max_broken=1)).status == "too_many_fail"
    assert limited(verdict("a", "b"), Rules(min_broken=2, max_broken=2)).status == "broken"


def test_all_files_count_when_they_are_needed() -> None:
    first = FileBaseline(path="a.py", duration_s=0.25, stable=("a.py::x",))
    second = FileBaseline(path="b.py", duration_s=0.5, stable=("b.py::x", "b.py::y"))
    (lane,) = (lane for lane in lanes() if (lane.kind, lane.split) == ("operators", "train"))
    candidate = TreeCandidate(everything(lane)[0].mutations, "train", (first, second), ())
    report = PytestReport(statuses={"b.py::y": TestStatus.PASSED}, exit_code=1, reported_exit_code=1)
    assert not Rules().needs_all(candidate)
    assert Rules(max_broken=1).needs_all(candidate)
    assert Rules().needs_all(replace(candidate, parts=((), ())))
    assert verdict_of(candidate, report).fail_to_pass == ("a.py::x",)
    assert verdict_of(candidate, report, whole=True).fail_to_pass == ("a.py::x", "b.py::x")
    assert verdict_of(candidate, report, whole=True).pass_to_pass == ("b.py::y",)
