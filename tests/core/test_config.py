from pathlib import Path

import pytest
from pydantic import Field

from swegym.core.config import Section, known_keys, load_config, parse_override, read_toml
from swegym.core.errors import ConfigError


class Algo(Section):
    group_size: int = Field(default=8, ge=2)
    names: tuple[str, ...] = ()


class Config(Section):
    seed: int = 0
    algo: Algo = Algo()


def write(folder: Path, text: str, name: str = "a.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_layers_override_from_left_to_right(tmp_path: Path) -> None:
    first = write(tmp_path, "seed = 1\n[algo]\ngroup_size = 3\nnames = ['x']\n")
    second = write(tmp_path, "[algo]\ngroup_size = 5\n", "b.toml")
    config = load_config(Config, [first, second], ["--seed=7"])
    assert (config.seed, config.algo.group_size, config.algo.names) == (7, 5, ("x",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--algo.group_size=4", ("algo.group_size", 4)),
        ("algo.names=[1, 2]", ("algo.names", [1, 2])),
        ("--run=runs/a=b", ("run", "runs/a=b")),
        ("--flag=true", ("flag", True)),
        ("--empty=", ("empty", "")),
    ],
)
def test_overrides_are_json_or_text(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["--seed", "=3", "--", ""])
def test_malformed_overrides_say_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--section\.key=value"):
        parse_override(text)


def test_unknown_key_names_the_flag_and_a_near_key() -> None:
    with pytest.raises(ConfigError, match=r"--algo\.group_sise: unknown key .*did you mean 'algo.group_size'"):
        load_config(Config, overrides=["--algo.group_sise=4"])


def test_wrong_value_names_the_file_the_key_and_the_value(tmp_path: Path) -> None:
    path = write(tmp_path, "[algo]\ngroup_size = 1\n")
    with pytest.raises(ConfigError, match=r"a\.toml: algo\.group_size: .*greater than or equal to 2 \(got 1\)"):
        load_config(Config, [path])


def test_missing_and_malformed_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        read_toml(write(tmp_path, "a = 1\nb = = 2\n"))
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path)


def test_known_keys_lists_subsections() -> None:
    assert known_keys(Config) == ["seed", "algo", "algo.group_size", "algo.names"]
