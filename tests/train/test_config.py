from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swegym.core.config import known_keys, load_config, parse_override
from swegym.core.errors import ConfigError, UnknownName
from swegym.train.config import RlConfig, SftConfig, recipe_path

RECIPES: dict[str, type[RlConfig] | type[SftConfig]] = {"base": SftConfig, "demo": RlConfig, "paper": RlConfig}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name: str) -> None:
    section = RECIPES[name]
    config = load_config(section, [recipe_path(name)])
    assert config != section()
    assert load_config(section, [recipe_path(name)], ["--seed=4"]).seed == 4


def test_every_recipe_that_ships_is_tested() -> None:
    assert sorted(path.stem for path in recipe_path("demo").parent.glob("*.toml")) == sorted(RECIPES)


def test_the_paper_s_numbers() -> None:
    config = load_config(RlConfig, [recipe_path("paper")])
    algo, optim = config.algo, config.optim
    assert (algo.group_size, algo.clip_low, algo.clip_high, algo.max_staleness) == (8, 0.2, 0.25, 100)
    assert algo.normalizer == 131_072 * 64
    assert (algo.publish_every, algo.rehearsal_weight, algo.advantage) == (4, 0.1, "cwm")
    assert (optim.lr, optim.warmup_steps, optim.grad_clip) == (2.5e-7, 100, 0.1)
    assert config.rollout.max_context_tokens == 131_072


def test_there_are_few_fields_and_each_says_what_it_is() -> None:
    for section in (RlConfig, SftConfig):
        assert len(known_keys(section)) <= 80
        for name, field in section.model_fields.items():
            if field.annotation is not None and hasattr(field.annotation, "model_fields"):
                for inner, described in field.annotation.model_fields.items():
                    assert described.description, f"{name}.{inner}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.group_sise=4", "--algo.group_sise: unknown key 'algo.group_sise', did you mean 'algo.group_size'?"),
        ("algo.group_size=1", "algo.group_size: Input should be greater than or equal to 2"),
        ("algo.normalizer=0", "must be a positive number of tokens"),
        ("algo.normalizer=batch", "algo.normalizer"),
        ("algo.publish_every=200", "every trajectory would be dropped as stale"),
        ("rollout.max_action_tokens=2000", "leaves no room for a prompt"),
        ("rollout.temperature=0", "rollout.temperature: Input should be greater than 0"),
        ("data.heldout_split=train", "evaluates on training tasks"),
        ("optim.betas=[0.9, 1.0]", "optim.betas: both must be at least 0 and below 1"),
        ("model.checkpoint=preset:tiny", "random weights earn no reward"),
        ('engine={"type": "torch", "num_engines": 2}', "engine.num_engines has no effect"),
    ],
)
def test_mistakes_are_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(RlConfig, overrides=[override])
    assert message in str(caught.value)
    assert parse_override(override)[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_list_what_is_known() -> None:
    with pytest.raises(UnknownName, match="no recipe named 'demi'; did you mean demo"):
        recipe_path("demi")
    with pytest.raises(UnknownName, match="no advantage named 'x'; known: cwm, leave_one_out, mean"):
        load_config(RlConfig, overrides=["algo.advantage=x"])


def test_reading_a_config_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from swegym.core.config import load_config\n"
        "from swegym.train.config import RlConfig, recipe_path\n"
        "load_config(RlConfig, [recipe_path('paper')])\n"
        "print([name for name in ('torch', 'vllm', 'ray') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_resolved_config_reads_back(tmp_path: Path) -> None:
    config = load_config(RlConfig, [recipe_path("demo")], [f"run={tmp_path}"])
    assert RlConfig.model_validate_json(config.model_dump_json()) == config
