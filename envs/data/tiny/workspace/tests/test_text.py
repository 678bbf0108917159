from tinykit.text import is_palindrome, shorten, wrap


def test_short_text_stays():
    assert shorten("abc", 3) == "abc"


def test_long_text_is_cut():
    assert shorten("abcdefgh", 6) == "abc..."


def test_width_smaller_than_the_mark():
    assert shorten("abcdefgh", 2) == ".."


def test_wrap_fills_lines():
    assert wrap("aa bb cc dd", 5) == ["aa bb", "cc dd"]


def test_wrap_long_word():
    assert wrap("a bbbbbbbb c", 4) == ["a", "bbbbbbbb", "c"]


def test_wrap_nothing():
    assert wrap("   ", 4) == []


def test_palindrome():
    assert is_palindrome("Never odd or even")
    assert not is_palindrome("Never odd or seven")
