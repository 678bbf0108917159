"""Which candidates are tried, and which of those that break a test become tasks: a share for every kind. Pure, by seed.

There is one lane for every split and kind, each with its own order and its quota. What is chosen from a lane depends on
the verdicts of its first candidates only, not on the order in which verdicts came in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from swegym.core.seeding import derive_seed
from swegym.envs.tasksets.baseline import Baseline
from swegym.envs.tasksets.candidates import covering_files
from swegym.envs.tasksets.mutate.candidates import CandidateMaker, MutateOptions, TreeCandidate
from swegym.envs.tasksets.mutate.kinds import find_tree_mutations
from swegym.envs.tasksets.mutate.tree import MODULE_LEVEL, TreeMutation
from swegym.envs.tasksets.verdicts import Verdict

__all__ = ["Lane", "LaneQueue", "make_lanes", "quotas"]

NEAR_DUPLICATE = 0.8
"""Jaccard similarity of the changed lines' words from which two bugs of one kind count as one."""
MAX_PER_FUNCTION = 6
"""Tasks of one kind in one function."""


class Lane:
    """Candidates of one split and kind in order, with their verdicts as they come in."""

    def __init__(self, split: str, kind: str, candidates: Iterator[TreeCandidate]) -> None:
        self.split = split
        self.kind = kind
        self.target = 0
        self.is_exhausted = False
        self._candidates = candidates
        self._tried: list[TreeCandidate] = []
        self._verdicts: dict[str, Verdict] = {}
        self._picks: list[tuple[TreeCandidate, Verdict]] | None = None

    def next(self) -> TreeCandidate | None:
        candidate = next(self._candidates, None)
        if candidate is None:
            self.is_exhausted = True
        else:
            self._tried.append(candidate)
        return candidate

    def record(self, verdict: Verdict) -> None:
        self._verdicts[verdict.key] = verdict
        self._picks = None

    @property
    def num_picked(self) -> int:
        return len(self.picks())

    @property
    def num_missing(self) -> int:
        return self.target - self.num_picked

    @property
    def is_open(self) -> bool:
        """Whether it needs more tasks and may have some."""
        return not self.is_exhausted and self.num_missing > 0

    def picks(self) -> list[tuple[TreeCandidate, Verdict]]:
        """Broken ones in order, without near duplicates of earlier ones and at most so many of a function."""
        if self._picks is not None:
            return self._picks
        chosen: list[tuple[TreeCandidate, Verdict]] = []
        counts: Counter[tuple[str, str]] = Counter()
        for candidate in self._tried:
            verdict = self._verdicts.get(candidate.key)
            if verdict is None or verdict.status != "broken":
                continue
            place = (candidate.mutations[0].path, candidate.mutations[0].function)
            if place[1] != MODULE_LEVEL and counts[place] >= MAX_PER_FUNCTION:
                continue
            if not any(_is_near(candidate, other) for other, _ in chosen):
                counts[place] += 1
                chosen.append((candidate, verdict))
        self._picks = chosen
        return chosen

    @property
    def num_near_duplicates(self) -> int:
        """Broken ones that `picks` leaves out."""
        return sum(verdict.status == "broken" for verdict in self._verdicts.values()) - len(self.picks())


def _is_near(left: TreeCandidate, right: TreeCandidate) -> bool:
    union = len(left.words | right.words)
    return bool(union) and len(left.words & right.words) >= NEAR_DUPLICATE * union


class LaneQueue:
    """Hands out candidates of the lane that is furthest behind; what a lane lacks goes to the others, in rounds."""

    def __init__(self, lanes: list[Lane], wanted: Mapping[str, int], shares: Mapping[str, float]) -> None:
        self._lanes = lanes
        self._wanted = dict(wanted)
        self._shares = dict(shares)
        self._by_place = {(lane.split, lane.kind): lane for lane in lanes}
        self.deal()

    def deal(self) -> bool:
        """Set every lane's target anew; False: that changes nothing, so the build is over.

        To be called when no candidate is under way: then it depends on verdicts only.
        """
        before = [lane.target for lane in self._lanes]
        for split, number in self._wanted.items():
            lanes = [lane for lane in self._lanes if lane.split == split]
            limits: dict[str, int] = {}
            while True:
                targets = quotas(number, {lane.kind: self._shares[lane.kind] for lane in lanes}, limits)
                short = {
                    lane.kind: len(lane.picks())
                    for lane in lanes
                    if lane.is_exhausted and lane.kind not in limits and len(lane.picks()) < targets[lane.kind]
                }
                if not short:
                    break
                limits |= short
            for lane in lanes:
                lane.target = targets[lane.kind]
        return before != [lane.target for lane in self._lanes]

    def next(self) -> TreeCandidate | None:
        while True:
            behind = [(lane.num_missing / lane.target, lane) for lane in self._lanes if lane.is_open]
            if not behind:
                return None
            candidate = max(behind, key=lambda item: item[0])[1].next()
            if candidate is not None:
                return candidate

    def record(self, candidate: TreeCandidate, verdict: Verdict) -> None:
        self._by_place[candidate.split, candidate.kind].record(verdict)

    @property
    def num_picked(self) -> int:
        return sum(min(lane.num_picked, lane.target) for lane in self._lanes)

    def chosen(self) -> list[tuple[TreeCandidate, Verdict]]:
        """The tasks: as many of each lane as its target."""
        return [pick for lane in self._lanes for pick in lane.picks()[: lane.target]]


def quotas(total: int, shares: Mapping[str, float], limits: Mapping[str, int] | None = None) -> dict[str, int]:
    """Split a number by shares, largest remainders first.

    Args:
        total: what is given out.
        shares: kind -> weight; not negative.
        limits: kinds that take just so many; the rest goes to the others by their shares.
    """
    given = dict.fromkeys(shares, 0)
    open_kinds = {kind for kind, share in shares.items() if share > 0}
    for kind, limit in (limits or {}).items():
        if kind in open_kinds:
            given[kind] = limit
            open_kinds.discard(kind)
    rest, weight = total - sum(given.values()), sum(shares[kind] for kind in open_kinds)
    if not open_kinds or rest <= 0:
        return given
    exact_shares = {kind: rest * shares[kind] / weight for kind in sorted(open_kinds)}
    for kind, share in exact_shares.items():
        given[kind] = int(share)
    by_remainder = sorted(exact_shares, key=lambda kind: (int(exact_shares[kind]) - exact_shares[kind], kind))
    for kind in by_remainder[: total - sum(given.values())]:
        given[kind] += 1
    return given


def make_lanes(
    sources: Mapping[str, bytes], baseline: Baseline, options: MutateOptions, *, wanted: Mapping[str, int], seed: int
) -> list[Lane]:
    """A lane for every split and kind that has a share.

    A function belongs to one split, so that no held-out task lies where a training task does.

    Args:
        sources: path -> bytes of the files that may be mutated.
        baseline: which test files run which lines.
        options: kinds and difficulty.
        wanted: split -> tasks; decides in which proportion functions go to the splits.
        seed: decides order and split.
    """
    kinds = [kind for kind, share in options.mix.items() if share > 0]
    covering = covering_files(baseline)
    pool: dict[str, list[TreeMutation]] = {}
    for path in sorted(sources):
        for mutation in find_tree_mutations(path, sources[path], kinds):
            if any((path, line) in covering for line in range(mutation.probe_lines[0], mutation.probe_lines[1] + 1)):
                pool.setdefault(_draw_split(mutation, wanted, seed), []).append(mutation)
    maker = CandidateMaker(sources, covering, options, seed)
    lanes = []
    for split in wanted:
        mutations = pool.get(split, [])
        for kind in kinds:
            order = maker.order([item for item in mutations if item.kind == kind])
            lanes.append(Lane(split, kind, maker.candidates(split, order, mutations)))
    return lanes


def _draw_split(mutation: TreeMutation, wanted: Mapping[str, int], seed: int) -> str:
    place = derive_seed(seed, "split", mutation.path, mutation.function) % max(sum(wanted.values()), 1)
    for split, number in wanted.items():
        if place < number:
            return split
        place -= number
    return next(iter(wanted))
