"""Which mutations to try, in which order, for which split. Pure and deterministic by seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swegym.core.records import digest
from swegym.core.seeding import derive_seed
from swegym.core.task import LineEdit
from swegym.envs.tasksets.baseline import Baseline, FileBaseline
from swegym.envs.tasksets.mutations import DEFAULT_KINDS, Mutation, find_mutations
from swegym.envs.tasksets.verdicts import Verdict

__all__ = ["Candidate", "TokenQueue", "choose_candidates", "covering_files", "normalise_line"]

MAX_TEST_FILES = 3
"""Covering test files that are run for one mutation: quick ones first, then those that run the fewest lines."""
SLOW_S = 2.0
"""Mutations whose tests take longer are tried last."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One mutation to validate."""

    mutation: Mutation
    split: str
    test_files: tuple[FileBaseline, ...]
    """Covering files, most specific first."""

    @property
    def baseline_s(self) -> float:
        return sum(item.duration_s for item in self.test_files)

    @property
    def kind(self) -> str:
        return self.mutation.kind

    @property
    def edits(self) -> tuple[LineEdit, ...]:
        """The start edit that breaks the tree."""
        change = self.mutation
        line = change.line
        return (LineEdit(path=change.path, first_line=line, last_line=line, text=change.after_line),)

    @property
    def parts(self) -> tuple[tuple[LineEdit, ...], ...]:
        """One bug only: nothing to take apart."""
        return ()

    @property
    def key(self) -> str:
        """Names the mutation and the tests that judge it."""
        change = self.mutation
        files = " ".join(item.path for item in self.test_files)
        return digest(change.path, str(change.line), str(change.column), change.before_line, change.after_line, files)


def normalise_line(line: str) -> str:
    """A line without indentation and with single blanks."""
    return " ".join(line.split())


def choose_candidates(
    sources: Mapping[str, str],
    baseline: Baseline,
    *,
    num_train: int,
    num_heldout: int,
    seed: int,
    kinds: Iterable[str] = DEFAULT_KINDS,
) -> list[Candidate]:
    """One mutation for every covered site, shuffled, those with slow tests last.

    No line, sound or mutated, stands in both splits (compared by `normalise_line`), and no two candidates make the
    same change of the same line.

    Args:
        sources: path -> text of the files that may be mutated.
        baseline: which test files run which lines.
        num_train: tasks wanted; with `num_heldout` it decides in which proportion lines go to the splits.
        num_heldout: tasks wanted.
        seed: decides order, choice and split.
        kinds: keys of `mutations.MUTATORS`.
    """
    sites: dict[tuple[str, int, int], list[Mutation]] = {}
    for path in sorted(sources):
        for mutation in find_mutations(path, sources[path], kinds):
            if mutation.is_sed_safe:
                sites.setdefault((path, mutation.line, mutation.column), []).append(mutation)
    covering = covering_files(baseline)
    owners: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    candidates: list[Candidate] = []
    order = sorted(sites)
    random.Random(derive_seed(seed, "order")).shuffle(order)
    for site in order:
        files = covering.get(site[:2], [])[:MAX_TEST_FILES]
        mutation = random.Random(derive_seed(seed, *site)).choice(sites[site])
        before, after = normalise_line(mutation.before_line), normalise_line(mutation.after_line)
        if not files or (before, after) in seen:
            continue
        split = owners.get(before) or _draw_split(before, num_train, num_heldout, seed)
        if owners.setdefault(after, split) != split:
            continue
        owners[before] = split
        seen.add((before, after))
        candidates.append(Candidate(mutation, split, tuple(files)))
    return sorted(candidates, key=lambda item: sum(file.cost_s for file in item.test_files) > SLOW_S)


def _draw_split(line: str, num_train: int, num_heldout: int, seed: int) -> str:
    total = max(num_train + num_heldout, 1)
    return "train" if derive_seed(seed, "split", line) % total < num_train else "heldout"


def covering_files(baseline: Baseline) -> dict[tuple[str, int], list[FileBaseline]]:
    """(source file, line) -> test files that run it, most specific first."""
    covering: dict[tuple[str, int], list[FileBaseline]] = {}
    for item in sorted(baseline.files, key=lambda file: file.order):
        for path, lines in item.lines.items():
            for line in lines:
                covering.setdefault((path, line), []).append(item)
    return covering


class TokenQueue:
    """Candidates in order, until each split has as many broken ones as wanted."""

    def __init__(self, candidates: list[Candidate], wanted: Mapping[str, int]) -> None:
        self._candidates = candidates
        self._left = iter(candidates)
        self._wanted = dict(wanted)
        self._num_broken = dict.fromkeys(wanted, 0)
        self._verdicts: dict[str, Verdict] = {}

    def next(self) -> Candidate | None:
        for candidate in self._left:
            if self._num_broken[candidate.split] < self._wanted[candidate.split]:
                return candidate
        return None

    def record(self, candidate: Candidate, verdict: Verdict) -> None:
        self._verdicts[candidate.key] = verdict
        self._num_broken[candidate.split] += verdict.status == "broken"

    def deal(self) -> bool:
        """Nothing to share out between lanes."""
        return False

    @property
    def num_picked(self) -> int:
        return min(sum(self._num_broken.values()), sum(self._wanted.values()))

    def chosen(self) -> list[tuple[Candidate, Verdict]]:
        """The first `wanted` broken candidates of each split in order, whatever order their verdicts came in."""
        left = dict(self._wanted)
        chosen: list[tuple[Candidate, Verdict]] = []
        for candidate in self._candidates:
            verdict = self._verdicts.get(candidate.key)
            if verdict is not None and verdict.status == "broken" and left[candidate.split] > 0:
                left[candidate.split] -= 1
                chosen.append((candidate, verdict))
        return chosen
