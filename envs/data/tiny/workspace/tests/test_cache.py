import pytest

from tinykit.cache import LruCache


def test_forgets_the_oldest():
    cache = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("c", 3)
    assert cache.get("a") is None
    assert cache.get("c") == 3
    assert len(cache) == 2


def test_reading_counts_as_use():
    cache = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert cache.get("a") == 1
    assert cache.get("b") is None


def test_default():
    assert LruCache(1).get("x", 7) == 7


def test_size_must_be_positive():
    with pytest.raises(ValueError):
        LruCache(0)
