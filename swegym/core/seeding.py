"""Seeds: one function, so that every random choice can be traced to one number."""

from __future__ import annotations

from swegym.core.records import digest


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 31-bit seed that depends on the seed and the labels only, equal in every process."""
    return int(digest(str(seed), *(str(label) for label in labels), length=8), 16) & 0x7FFF_FFFF
