"""Half-open ranges of whole numbers, as (start, stop) pairs."""

from __future__ import annotations

Range = tuple[int, int]


def overlaps(left: Range, right: Range) -> bool:
    """Whether two ranges share at least one number."""
    return left[0] < right[1] and right[0] < left[1]


def merge(ranges: list[Range]) -> list[Range]:
    """Join ranges that overlap or touch; sorted."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def total(ranges: list[Range]) -> int:
    """How many different numbers the ranges hold."""
    return sum(stop - start for start, stop in merge(ranges))
