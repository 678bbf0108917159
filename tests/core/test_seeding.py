import subprocess
import sys

from swegym.core.records import digest
from swegym.core.seeding import derive_seed


def test_seeds_depend_on_every_label_and_fit_31_bits() -> None:
    seeds = {derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "a", 1), derive_seed(0, 1, "a")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_are_equal_in_another_process() -> None:
    program = "from swegym.core.seeding import derive_seed; print(derive_seed(3, 'turn', 7))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(output) == derive_seed(3, "turn", 7)


def test_digest_tells_the_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("é") == digest("é".encode())
    assert len(digest("x", length=8)) == 8
