from slugs import unique


def test_unique():
    assert unique("a", set()) == "a"
    assert unique("a", {"a", "a-2"}) == "a-3"
