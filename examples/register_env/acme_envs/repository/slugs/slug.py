"""Titles to slugs."""


def slug(title, separator="-"):
    """Lower-case words of a title, joined."""
    words = "".join(c if c.isalnum() else " " for c in title.lower())
    return separator.join(words.split(" "))


def unique(name, taken):
    """`name`, or the first of name-2, name-3, ... that is not taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
