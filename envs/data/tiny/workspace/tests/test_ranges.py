import pytest

from tinykit.ranges import merge, overlaps, total


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [((0, 2), (1, 3), True), ((0, 2), (2, 3), False), ((4, 9), (5, 6), True), ((7, 8), (1, 2), False)],
)
def test_overlaps(left, right, expected):
    assert overlaps(left, right) is expected


def test_merge_joins_touching_ranges():
    assert merge([(5, 7), (0, 2), (2, 4)]) == [(0, 4), (5, 7)]


def test_merge_keeps_the_wider_stop():
    assert merge([(0, 9), (1, 3)]) == [(0, 9)]


def test_total_counts_once():
    assert total([(0, 3), (2, 5), (10, 11)]) == 6
