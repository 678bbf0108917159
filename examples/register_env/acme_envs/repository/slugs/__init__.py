"""Slugs for addresses: short names made of words."""

from slugs.slug import slug, unique

__all__ = ["slug", "unique"]
