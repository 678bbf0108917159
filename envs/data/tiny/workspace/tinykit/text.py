"""Words and lines."""

from __future__ import annotations


def shorten(text: str, width: int, mark: str = "...") -> str:
    """Cut text to at most `width` characters, `mark` included."""
    if len(text) <= width:
        return text
    if width < len(mark):
        return mark[:width]
    return text[: width - len(mark)] + mark


def wrap(text: str, width: int) -> list[str]:
    """Break text into lines of at most `width` characters; a longer word gets a line of its own."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        lines.append(line)
    return lines


def is_palindrome(text: str) -> bool:
    """Whether the letters read the same both ways; case and everything else is ignored."""
    letters = [letter.lower() for letter in text if letter.isalpha()]
    return letters == letters[::-1]
