"""Pure search and replace, against bytes written by hand."""

from __future__ import annotations

import pytest

from swegym.core.errors import FormatError
from swegym.envs.tools.search_replace import Block, find_block, parse_block, replace_block, split_lines


def apply(data: bytes, search: tuple[str, ...], replace: tuple[str, ...]) -> bytes:
    lines = split_lines(data)
    (index,) = find_block(lines, search)
    return replace_block(lines, index, Block(search, replace)).data


def block(search: str, replace: str) -> str:
    return f"<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE"


def test_parse_keeps_every_blank() -> None:
    text = block("\ta  \n\n", "  b\n")
    assert parse_block(text) == Block(("\ta  ", ""), ("  b",))
    assert parse_block("\n" + text + "\n\n") == Block(("\ta  ", ""), ("  b",))
    assert parse_block(block("a\n", "")) == Block(("a",), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line '<<<<<<< SEARCH'"),
        ("<<<<<<< SEARCH\na\n>>>>>>> REPLACE", "no line '======='"),
        ("<<<<<<< SEARCH\na\n=======\nb", "no line '>>>>>>> REPLACE'"),
        ("=======\n<<<<<<< SEARCH\na\n>>>>>>> REPLACE", "in order"),
        (block("a\n", "b\n") + "\n" + block("c\n", "d\n"), "more than one SEARCH/REPLACE block"),
        (block("a\n=======\n", "b\n"), "more than one line"),
        ("before\n" + block("a\n", "b\n"), "text outside it: 'before'"),
        (block("a\n", "b\n") + "\nafter", "text outside it: 'after'"),
        (block("", "b\n"), "SEARCH part is empty"),
        (block("a\n", "a\n"), "same text"),
    ],
)
def test_parse_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_block(text)


def test_only_whole_lines_match() -> None:
    lines = split_lines(b"xx = 1\nx = 1\nx = 11\n")
    assert find_block(lines, ("x = 1",)) == [1]
    assert find_block(lines, ("x = ",)) == []
    assert find_block(lines, ("x = 1", "x = 11", "")) == []


def test_overlapping_matches_all_count() -> None:
    assert find_block(split_lines(b"a\na\na\n"), ("a", "a")) == [0, 1]


def test_tabs_and_other_lines_stay_byte_for_byte() -> None:
    """swe-failures E1: an edit expanded every TAB of the file."""
    data = b"all:\n\tcc\ta.c\t \n\ttouch x\n"
    assert apply(data, ("\ttouch x",), ("\ttouch y", "\ttouch z")) == b"all:\n\tcc\ta.c\t \n\ttouch y\n\ttouch z\n"


def test_crlf_file_keeps_its_line_ends() -> None:
    """E2: CRLF became LF in the whole file."""
    assert apply(b"a\r\nb\r\nc\r\n", ("b",), ("B", "BB")) == b"a\r\nB\r\nBB\r\nc\r\n"
    assert apply(b"a\r\nb\nc\r\n", ("b",), ("B",)) == b"a\r\nB\nc\r\n"
    assert apply(b"a\r\nb", ("b",), ("B", "C")) == b"a\r\nB\r\nC"


def test_line_ends_alone_can_be_changed() -> None:
    """E5: a change of CRLF only reported success and changed nothing."""
    assert apply(b"a\r\nb\r\n", ("a\r",), ("a",)) == b"a\nb\r\n"
    assert apply(b"a\nb\n", ("b",), ("b\r",)) == b"a\nb\r\n"


def test_byte_order_mark_survives() -> None:
    """E2: the mark was dropped, or kept line 1 from matching."""
    assert apply(b"\xef\xbb\xbfa\nb\n", ("a",), ("A", "AA")) == b"\xef\xbb\xbfA\nAA\nb\n"
    assert apply(b"\xef\xbb\xbfa\nb\n", ("a",), ()) == b"\xef\xbb\xbfb\n"
    assert apply(b"\xef\xbb\xbfa\nb\n", ("\ufeffa",), ("a",)) == b"a\nb\n"


def test_missing_final_newline_stays_missing() -> None:
    assert apply(b"a\nb", ("b",), ("B", "C")) == b"a\nB\nC"
    assert apply(b"a\nb", ("a",), ("A",)) == b"A\nb"
    assert apply(b"a\nb", ("b",), ()) == b"a\n"


def test_bytes_that_are_no_utf8_survive() -> None:
    """E2: a latin-1 file was written back as UTF-8, and invalid bytes as something else."""
    assert apply(b"caf\xe9\nx\n\xff\xfe\n", ("x",), ("é",)) == b"caf\xe9\n\xc3\xa9\n\xff\xfe\n"


def test_only_newline_ends_a_line() -> None:
    """E6: U+2028 and form feed were counted as line ends."""
    data = "a\u2028b\x0cc\rd\nx\n".encode()
    assert len(split_lines(data)) == 2
    assert apply(data, ("x",), ("y",)) == "a\u2028b\x0cc\rd\ny\n".encode()


def test_numbers_of_the_replacement() -> None:
    """E4: line numbers were off by one."""
    lines = split_lines(b"1\n2\n3\n4\n5")
    found = replace_block(lines, 2, Block(("3", "4"), ("a", "b", "c")))
    assert (found.first_line, found.num_new_lines, found.num_total_lines) == (3, 3, 6)
    assert split_lines(b"") == []
