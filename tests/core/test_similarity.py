"""Patch similarity against hand-computed ratios, and the diff parser against awkward diffs."""

from __future__ import annotations

import pytest

from swegym.core.similarity import parse_patch, patch_similarity


def one_line(path: str, old: str, new: str, start: int = 1) -> str:
    return f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -{start} +{start} @@\n-{old}\n+{new}\n"


def test_equal_patches_at_other_line_numbers_are_alike() -> None:
    assert patch_similarity(one_line("m.py", "a", "b", 9), one_line("m.py", "a", "b", 2)) == 1.0


def test_trailing_blanks_do_not_count() -> None:
    assert patch_similarity(one_line("m.py", "a", "b  "), one_line("m.py", "a", "b")) == 1.0


def test_ratio_by_hand() -> None:
    # "-aa\n+bbb" (8 characters) against "-aa\n+bbc" (8): the longest match "-aa\n+bb" is 7 -> 2 * 7 / 16
    assert patch_similarity(one_line("m.py", "aa", "bbb"), one_line("m.py", "aa", "bbc")) == pytest.approx(14 / 16)


def test_missing_gold_file_counts_zero_and_extra_files_do_not_count() -> None:
    gold = one_line("a.py", "x", "y") + one_line("b.py", "x", "y") + one_line("c.py", "x", "y")
    patch = one_line("a.py", "x", "y") + one_line("other.py", "q", "r")
    assert patch_similarity(patch, gold) == pytest.approx(1 / 3)


@pytest.mark.parametrize("patch", ["", "no diff at all", "diff --git", "@@ -1 +1 @@\n-a\n+b\n"])
def test_no_patch_is_zero(patch: str) -> None:
    assert patch_similarity(patch, one_line("a.py", "x", "y")) == 0.0


def test_binary_files_are_left_out() -> None:
    binary = "diff --git a/x.png b/x.png\nindex 0..1 100644\nGIT binary patch\nliteral 3\nKcmZQzWMT#Y01f~L\n\n"
    gold = binary + one_line("a.py", "x", "y")
    assert patch_similarity(one_line("a.py", "x", "y"), gold) == 1.0
    assert patch_similarity(binary, binary) == 0.0


def test_removed_line_that_looks_like_a_header() -> None:
    patch = "--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,2 @@\n--- old comment\n+++ new comment\n context\n"
    (diff,) = parse_patch(patch)
    assert diff.path == "q.sql"
    assert diff.hunk_lines == ["--- old comment", "+++ new comment", " context"]


def test_names_with_quotes_blanks_and_renames() -> None:
    patch = (
        'diff --git "a/na\\303\\257ve.py" "b/na\\303\\257ve.py"\nnew file mode 100644\n--- /dev/null\n'
        '+++ "b/na\\303\\257ve.py"\n@@ -0,0 +1 @@\n+x\n'
        "diff --git a/with blank.py b/with blank.py\ndeleted file mode 100644\n"
        "diff --git a/old.py b/new.py\nsimilarity index 100%\nrename from old.py\nrename to new.py\n"
    )
    created, deleted, renamed = parse_patch(patch)
    assert (created.old_path, created.new_path) == (None, "naïve.py")
    assert (deleted.old_path, deleted.new_path) == ("with blank.py", None)
    assert renamed.normalised() == "rename old.py new.py"


def test_long_hunks_are_compared_by_lines() -> None:
    lines = "".join(f"+line {number} {'x' * 90}\n" for number in range(300))
    patch = f"--- /dev/null\n+++ b/a.py\n@@ -0,0 +1,300 @@\n{lines}"
    other = patch.replace("line 7 ", "line seven ")
    # 299 of 300 lines are equal: 2 * 299 / 600
    assert patch_similarity(other, patch) == pytest.approx(299 / 300)
