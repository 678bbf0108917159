"""What every benchmark shares: interleaved sampling, rows of results, the table and the JSON file.

A row compares one number of ours with one of a peer, both taken in this run. `ratio` above 1 means that we are better.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Action", "Results", "Row", "WrongAnswer", "interleave", "same_output"]

Action = Callable[[], Awaitable[float]]
"""Does the thing once and returns its duration in seconds; what is set up and checked around it is not in there."""


class WrongAnswer(Exception):
    """Two contenders disagree about an output: then neither's time means anything."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ours` and `against` are medians where `samples` says so."""

    measure: str
    ours: float | None
    against: float | None
    peer: str
    unit: str
    ratio: float | None
    """Above 1: we are better. None: there is nothing to compare with, see `left_out`."""
    aim: float | None = None
    """The ratio that is aimed at."""
    samples: tuple[int, int] | None = None
    """Number of samples of ours and of the peer."""
    left_out: str = ""
    """Why there is no number of the peer."""


async def interleave(
    actions: Mapping[str, Action],
    rounds: int,
    *,
    every: Mapping[str, int] | None = None,
    burst: int = 1,
    num_warmups: int = 2,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Sample each action once a round, in a new random order, so that the machine's drifts hit all of them alike.

    Args:
        actions: by name.
        rounds: how often each has its turn.
        every: names of slow actions that only take part in each n-th round.
        burst: samples taken in a row at each turn.
        num_warmups: calls of each before the first round, which are not counted.
        seed: of the order.

    Returns:
        Durations in seconds by name.
    """
    for action in actions.values():
        for _ in range(num_warmups):
            await action()
    order = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        present = [name for name in actions if number % (every or {}).get(name, 1) == 0]
        order.shuffle(present)
        for name in present:
            samples[name] += [await actions[name]() for _ in range(burst)]
    return samples


def same_output(expected: bytes, output: bytes, what: str) -> None:
    """Raises WrongAnswer when two outputs differ in more than line ends and white space at the end."""
    first, second = (data.replace(b"\r\n", b"\n").rstrip() for data in (expected, output))
    if first != second:
        at = next(
            (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, (first, second)))
        )
        raise WrongAnswer(
            f"{what}: outputs of {len(first)} and {len(second)} bytes differ at byte {at}: "
            f"{first[at : at + 60]!r} and {second[at : at + 60]!r}"
        )


class Results:
    """Rows as they come; printed at once, written after each section so that an interrupted run keeps what it has."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: list[Row] = []
        self.leaks: list[str] = []
        """What should not have been there any more at the end."""

    def compare(
        self,
        measure: str,
        ours: Sequence[float] | float,
        against: Sequence[float] | float,
        peer: str,
        unit: str,
        *,
        aim: float | None = None,
        more_is_better: bool = False,
    ) -> None:
        """Add a row from samples (their medians are compared) or from two numbers."""
        samples = None
        if not isinstance(ours, float | int) and not isinstance(against, float | int):
            samples = (len(ours), len(against))
        a, b = (value if isinstance(value, float | int) else statistics.median(value) for value in (ours, against))
        ratio = a / b if more_is_better else b / a
        self._add(Row(measure, rounded(a), rounded(b), peer, unit, rounded(ratio), aim, samples))

    def leave_out(self, measure: str, peer: str, reason: str) -> None:
        """Say that a comparison is missing, and why."""
        self._add(Row(measure, None, None, peer, "", None, left_out=reason))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print("  " + line(row), flush=True)

    def write(self) -> None:
        """Replace the JSON file, if there is to be one."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps([asdict(row) for row in self.rows], indent=2) + "\n")

    def print_summary(self) -> None:
        """The missed aims and what was left out, at the end where one sees it."""
        missed = [row for row in self.rows if row.aim and row.ratio is not None and row.ratio < row.aim]
        with_aim = [row for row in self.rows if row.aim and row.ratio is not None]
        print(f"\n{len(self.rows)} rows; {len(with_aim) - len(missed)} of {len(with_aim)} aims met")
        for row in missed:
            print(f"  missed: {line(row)}")


def line(row: Row) -> str:
    """One row as a line of the table."""
    if row.left_out:
        return f"{row.measure:<28} left out: {row.peer}: {row.left_out}"
    aim = f"  aim {row.aim:g}" if row.aim else ""
    samples = f"  n={row.samples[0]}/{row.samples[1]}" if row.samples else ""
    numbers = f"{row.ours:>10g} {row.against:>10g} {row.unit:<12} {row.ratio:>8g}x"
    return f"{row.measure:<28} {numbers}  {row.peer}{aim}{samples}"


def rounded(value: float) -> float:
    """Three significant digits and a bit: more would only pretend."""
    return float(f"{value:.4g}")
