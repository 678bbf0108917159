from slugs import slug


def test_words():
    assert slug("Hello World") == "hello-world"
    assert slug("Hello World", "_") == "hello_world"


def test_runs_of_blanks():
    assert slug("a  b, c") == "a-b-c"


def test_edges():
    assert slug("  What now?") == "what-now"
