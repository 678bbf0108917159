"""From mutations to candidates: their order, their test files, and how several become one task. Pure, by seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from swegym.core.records import Record, digest
from swegym.core.seeding import derive_seed
from swegym.core.task import LineEdit
from swegym.envs.tasksets.baseline import FileBaseline
from swegym.envs.tasksets.candidates import MAX_TEST_FILES, SLOW_S
from swegym.envs.tasksets.mutate.kinds import CWM_MIX, check_mix
from swegym.envs.tasksets.mutate.tree import TreeMutation, apply_edits, compiles, line_edits

__all__ = ["CandidateMaker", "Distance", "MutateOptions", "TreeCandidate"]

MAX_PARTNER_TRIES = 60
Distance = Literal["function", "module", "package"]


class MutateOptions(Record):
    """How hard the tasks are to be."""

    mix: dict[str, float] = CWM_MIX
    """Kind -> share."""
    num_edits: int = Field(default=1, ge=1, le=5)
    """Bugs in one task; each of them breaks a test on its own."""
    distance: Distance = "module"
    """How far apart the bugs of one task may lie."""
    min_broken: int = Field(default=1, ge=1)
    """Tests that fail at least."""
    max_broken: int | None = Field(default=None, ge=1)
    """Tests that fail at most, of those that are run."""
    hint: Literal["none", "tests", "file", "line"] = "tests"
    """What the statement gives away; each level holds those before it."""

    @field_validator("mix")
    @classmethod
    def _mix(cls, value: dict[str, float]) -> dict[str, float]:
        check_mix(value)
        return value


@dataclass(frozen=True, slots=True)
class TreeCandidate:
    """One task to validate: a bug, or several at once."""

    mutations: tuple[TreeMutation, ...]
    split: str
    test_files: tuple[FileBaseline, ...]
    edits: tuple[LineEdit, ...]
    parts: tuple[tuple[LineEdit, ...], ...] = ()
    """The edits of each bug, when there are several."""
    words: frozenset[str] = frozenset()
    """Of the changed lines before and after, each with its neighbours."""

    @property
    def kind(self) -> str:
        return self.mutations[0].kind

    @property
    def baseline_s(self) -> float:
        return sum(item.duration_s for item in self.test_files)

    @property
    def key(self) -> str:
        changes = [f"{m.path} {edit.start} {edit.stop} {edit.text}" for m in self.mutations for edit in m.edits]
        return digest("tree", *changes, " ".join(item.path for item in self.test_files))


class CandidateMaker:
    """Candidates from mutations, made when they are asked for: compiling every one of thousands takes minutes."""

    def __init__(
        self,
        sources: Mapping[str, bytes],
        covering: Mapping[tuple[str, int], list[FileBaseline]],
        options: MutateOptions,
        seed: int,
    ) -> None:
        self._sources = sources
        self._covering = covering
        self._options = options
        self._seed = seed
        self._seen: set[str] = set()

    def order(self, mutations: Sequence[TreeMutation]) -> list[TreeMutation]:
        """First one of every function, then a second one of each: operators of a kind in turn, slow tests last."""
        by_function: dict[tuple[str, str], list[TreeMutation]] = {}
        for mutation in mutations:
            by_function.setdefault((mutation.path, mutation.function), []).append(mutation)
        ranked: list[tuple[bool, int, int, TreeMutation]] = []
        for place, members in sorted(by_function.items()):
            rng = random.Random(derive_seed(self._seed, "function", *place, members[0].kind))
            for rank, mutation in enumerate(_in_turn(members, rng)):
                is_slow = sum(item.cost_s for item in self._files_for((mutation,))) > SLOW_S
                ranked.append((is_slow, rank, rng.randrange(2**30), mutation))
        return [mutation for *_, mutation in sorted(ranked, key=lambda item: item[:3])]

    def candidates(
        self, split: str, order: Iterable[TreeMutation], partners: Sequence[TreeMutation]
    ) -> Iterator[TreeCandidate]:
        """Those that compile and whose text no earlier one had."""
        for first in order:
            chosen = self._with_partners(first, partners) if self._options.num_edits > 1 else (first,)
            candidate = self._candidate(split, chosen) if chosen else None
            if candidate is not None:
                yield candidate

    def _with_partners(self, first: TreeMutation, partners: Sequence[TreeMutation]) -> tuple[TreeMutation, ...]:
        chosen = [first]
        rng = random.Random(derive_seed(self._seed, "partners", first.path, *(edit.text for edit in first.edits)))
        near = [item for item in partners if _is_within(first, item, self._options.distance)]
        for _ in range(min(MAX_PARTNER_TRIES, len(near))):
            other = rng.choice(near)
            if all(_is_apart(other, item) for item in chosen) and self._makes_sense((other,)):
                chosen.append(other)
            if len(chosen) == self._options.num_edits:
                return tuple(chosen)
        return ()

    def _makes_sense(self, mutations: Sequence[TreeMutation]) -> bool:
        try:
            return all(compiles(data, path) for path, data in self._changed(mutations).items())
        except ValueError:
            return False  # two ranges of one operator overlap, as those of `f(x)` in `x`

    def _changed(self, mutations: Sequence[TreeMutation]) -> dict[str, bytes]:
        changed = {}
        for path in dict.fromkeys(item.path for item in mutations):
            edits = [edit for item in mutations if item.path == path for edit in item.edits]
            changed[path] = apply_edits(self._sources[path], edits)
        return changed

    def _candidate(self, split: str, mutations: tuple[TreeMutation, ...]) -> TreeCandidate | None:
        if not self._makes_sense(mutations):
            return None
        changed = self._changed(mutations)
        result = digest(*(part for path in sorted(changed) for part in (path, changed[path])))
        if result in self._seen:
            return None
        self._seen.add(result)
        parts = tuple(line_edits(item.path, self._sources[item.path], item.edits) for item in mutations)
        edits = tuple(
            edit
            for path in changed
            for edit in line_edits(
                path, self._sources[path], [edit for item in mutations if item.path == path for edit in item.edits]
            )
        )
        return TreeCandidate(
            mutations=mutations,
            split=split,
            test_files=self._files_for(mutations),
            edits=edits,
            parts=parts if len(parts) > 1 else (),
            words=self._words(edits),
        )

    def _files_for(self, mutations: Sequence[TreeMutation]) -> tuple[FileBaseline, ...]:
        found: dict[str, FileBaseline] = {}
        for mutation in mutations:
            counts: dict[str, FileBaseline] = {}
            for line in range(mutation.probe_lines[0], mutation.probe_lines[1] + 1):
                for item in self._covering.get((mutation.path, line), ()):
                    counts.setdefault(item.path, item)
            ordered = sorted(counts.values(), key=lambda item: item.order)
            found.update((item.path, item) for item in ordered[:MAX_TEST_FILES])
        return tuple(found.values())

    def _words(self, edits: Sequence[LineEdit]) -> frozenset[str]:
        words: set[str] = set()
        for edit in edits:
            lines = self._sources[edit.path].decode().split("\n")[edit.first_line - 1 : edit.last_line]
            for side, text in (("-", "\n".join(lines)), ("+", edit.text)):
                tokens = re.findall(r"\w+|[^\w\s]+", text)
                words.update(f"{side}{edit.first_line} {' '.join(tokens[i : i + 3])}" for i in range(len(tokens)))
        return frozenset(words)


def _in_turn(mutations: Sequence[TreeMutation], rng: random.Random) -> Iterator[TreeMutation]:
    """One of every operator, then another of each: `<` has five replacements, a function's body has one end."""
    by_operator: dict[str, list[TreeMutation]] = {}
    for mutation in mutations:
        by_operator.setdefault(mutation.operator, []).append(mutation)
    queues = [by_operator[name] for name in sorted(by_operator)]
    for queue in queues:
        rng.shuffle(queue)
    while queues:
        rng.shuffle(queues)
        for queue in queues:
            yield queue.pop()
        queues = [queue for queue in queues if queue]


def _is_within(first: TreeMutation, other: TreeMutation, distance: Distance) -> bool:
    if distance == "package":
        return True
    return first.path == other.path and (distance == "module" or first.function == other.function)


def _is_apart(left: TreeMutation, right: TreeMutation) -> bool:
    """Not on the same or on adjoining lines: a patch for one must not touch the other."""
    return left.path != right.path or left.last_line + 1 < right.first_line or right.last_line + 1 < left.first_line
