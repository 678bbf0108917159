"""Settings of the training stages: `swegym train rl` and `swegym train sft`. Importing this loads no torch.

Defaults are those of a small model on one CPU; `recipes/paper.toml` holds the published numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from swegym.core.config import Section
from swegym.core.errors import UnknownName
from swegym.core.registry import Registry
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.train.engine.config import EngineConfig

if TYPE_CHECKING:
    from swegym.train.advantages import AdvantageFn

__all__ = [
    "ADVANTAGES",
    "AlgoSection",
    "DataSection",
    "EngineSection",
    "EvalSection",
    "ModelSection",
    "OptimSection",
    "RaySection",
    "RlConfig",
    "RolloutSection",
    "SftConfig",
    "SftDataSection",
    "SftOptimSection",
    "recipe_path",
]

ADVANTAGES: Registry[AdvantageFn] = Registry(
    "advantage",
    {
        "cwm": "swegym.train.advantages:cwm",
        "leave_one_out": "swegym.train.advantages:leave_one_out",
        "mean": "swegym.train.advantages:mean",
    },
    group="swegym.advantages",
)
"""Advantage rules by name; here rather than beside them, so that a name is checked without loading torch."""


class ModelSection(Section):
    """The weights to start from."""

    checkpoint: str = "base"
    """Hugging Face folder of a CWM and its tokenizer; `base` is the tiny checkpoint that ships; `preset:NAME` makes
    random weights of that shape (sft only)."""


class DataSection(Section):
    """The tasks."""

    taskset: str = "tiny"
    """Registered name, folder, or "module:attr"."""
    train_split: str = "train"
    """Tasks with this split label are trained on."""
    heldout_split: str = "heldout"
    """Tasks with this split label are evaluated on, and never trained on."""

    @model_validator(mode="after")
    def _disjoint(self) -> DataSection:
        if self.train_split == self.heldout_split:
            raise ValueError(
                f"train_split and heldout_split are both {self.train_split!r}: that evaluates on training tasks"
            )
        return self


class RolloutSection(Section):
    """How trajectories are collected. The whole distribution is sampled: with top_p below 1 the engine's
    probabilities are renormalised in a way that the trainer cannot reproduce.
    """

    profile: str = "short"
    """Prompt profile."""
    sandbox: str = "auto"
    """Back end; `auto` takes Docker where an engine answers and `local` otherwise."""
    sandbox_options: dict[str, Any] = Field(default_factory=dict)
    """Settings of each worker's back end, such as warm or max_sandboxes: fields of `SandboxConfig`."""
    num_workers: int = Field(default=1, ge=1)
    """Ray actors that run episodes."""
    concurrency: int = Field(default=16, ge=1)
    """Episodes that one worker runs at a time."""
    grading_concurrency: int | None = Field(default=None, ge=1)
    """Gradings that one worker runs beside them; None: as many as the driver's machine has CPUs, but no more than
    `concurrency`."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling; the trainer divides its logits by the same number."""
    max_action_tokens: int = Field(default=64, ge=1)
    """Most tokens of one action."""
    max_context_tokens: int = Field(default=1024, ge=2)
    """Most tokens of one context, actions and observations together."""

    @field_validator("sandbox_options")
    @classmethod
    def _known_sandbox_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "backend" in options:
            raise ValueError("the back end is rollout.sandbox")
        try:
            SandboxConfig(**options)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ValueError("; ".join(problems)) from None
        return options


class AlgoSection(Section):
    """GRPO with CWM's objective."""

    group_size: int = Field(default=8, ge=2)
    """Trajectories per task (G)."""
    tasks_per_step: int = Field(default=16, ge=1)
    """Groups per optimizer step."""
    num_steps: int = Field(default=40, ge=1)
    """Optimizer steps of the run."""
    advantage: str = "cwm"
    """Rule for the baseline: cwm (mean weighted by length), mean, leave_one_out, or a registered one."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float = Field(default=0.25, gt=0)
    """The ratio is clipped above at 1 + clip_high."""
    normalizer: float | Literal["tokens"] = 131_072.0
    """Tokens that the summed loss of a step is divided by: a constant, or "tokens" for the number trained on."""
    max_staleness: int = Field(default=100, ge=0)
    """A trajectory whose newest token is more optimizer steps old is dropped."""
    overlong: Literal["keep", "mask"] = "keep"
    """A trajectory that hit a limit: "keep" trains on its reward, "mask" leaves it out of baseline and loss."""
    gibberish_token_id: int = Field(default=100_000, ge=0)
    """Rare tokens have ids above this; a trajectory with a very unlikely one is dropped."""
    rehearsal_examples: int = Field(default=0, ge=0)
    """Supervised examples, the scripted teacher's, that are mixed into a step."""
    rehearsal_weight: float = Field(default=0.1, ge=0)
    """Factor on the NLL of supervised examples that are mixed into a step."""
    reward: dict[str, float] = Field(default={"tests": 1.0}, min_length=1)
    """Weight of each reward, by registered name."""
    min_mixed_share: float = Field(default=0.0, ge=0, le=1)
    """Stop after the first step when a smaller share of its groups holds both good and bad rewards: there is too little
    to learn from. 0 turns this off."""
    shuffle_rewards: bool = False
    """A control: deal the rewards of each step to its trajectories at random. The pass rate must not rise then."""
    publish_every: int = Field(default=1, ge=1)
    """Optimizer steps between two publications of weights to the engines."""

    @field_validator("advantage")
    @classmethod
    def _known_advantage(cls, name: str) -> str:
        if name not in ADVANTAGES:
            raise UnknownName("advantage", name, ADVANTAGES.names())
        return name

    @field_validator("normalizer")
    @classmethod
    def _positive(cls, normalizer: float | str) -> float | str:
        if not isinstance(normalizer, str) and not 0 < normalizer < float("inf"):
            raise ValueError('must be a positive number of tokens, or "tokens"')
        return normalizer

    @model_validator(mode="after")
    def _publishes_in_time(self) -> AlgoSection:
        if self.publish_every > self.max_staleness + 1:
            raise ValueError(
                f"publish_every {self.publish_every} exceeds max_staleness {self.max_staleness} by more than 1: "
                "every trajectory would be dropped as stale before new weights reach the engines"
            )
        return self


class OptimSection(Section):
    """AdamW, linear warm-up, then a constant rate."""

    lr: float = Field(default=1e-4, ge=0)
    """Learning rate after warm-up."""
    warmup_steps: int = Field(default=5, ge=0)
    """Optimizer steps in which the rate rises linearly to `lr`."""
    grad_clip: float = Field(default=0.1, gt=0)
    """Largest norm of the whole gradient."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's decoupled weight decay, on matrices."""
    token_budget: int = Field(default=16_384, ge=1)
    """Most tokens of one micro-batch; bounds memory and changes no result."""

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be at least 0 and below 1")
        return betas


class EvalSection(Section):
    """Evaluation on held-out tasks."""

    samples_per_task: int = Field(default=8, ge=1)
    """Sampled episodes per task, at the rollout temperature; also the k of pass@k."""
    every: int = Field(default=0, ge=0)
    """Optimizer steps between evaluations during training; 0: only before and after."""
    greedy: bool = True
    """Also run one episode per task at temperature 0."""


class EngineSection(Section):
    """What samples the rollouts."""

    type: Literal["vllm", "torch"] = "vllm"
    """`torch` samples in the rollout worker's own process, for small models and tests."""
    num_engines: int = Field(default=1, ge=1)
    """vLLM engines; each has its own copy of the weights."""
    gather_s: float = Field(default=0.0, ge=0)
    """vLLM: seconds; requests start together at multiples of it. For small models on a CPU (see EnginePolicy)."""
    vllm: EngineConfig = EngineConfig()
    """Settings of each vLLM engine."""


class RaySection(Section):
    """Where actors run. A rollout worker asks Ray for one CPU and for one unit of the resource "sandbox" for each
    sandbox that it may hold at once, so sandboxes are spread over the nodes as CPUs are.
    """

    address: str = "local"
    """`local` starts Ray on this machine for this run; `auto` (RAY_ADDRESS, or the cluster of this machine), HOST:PORT
    or ray://HOST:PORT joins a cluster."""
    sandboxes_per_node: int | None = Field(default=None, ge=1)
    """Sandboxes that may live on this machine at once, when Ray is started here; None: 32 for each CPU but at most 8
    for each GiB of memory, and at least 64."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """Wall time that rollout workers may wait for free resources and start in."""

    @field_validator("address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        if address not in ("local", "auto") and not re.fullmatch(r"(ray://)?[^\s/:]+:\d{1,5}", address):
            raise ValueError("must be local, auto, HOST:PORT or ray://HOST:PORT")
        return address

    @model_validator(mode="after")
    def _declared_once(self) -> RaySection:
        if self.address != "local" and self.sandboxes_per_node is not None:
            raise ValueError(
                "sandboxes_per_node has no effect on a cluster that runs already; declare it where its nodes start: "
                "ray start --resources='{\"sandbox\": N}'"
            )
        return self


class RlConfig(Section):
    """`swegym train rl`."""

    seed: int = Field(default=0, ge=0)
    """Every random choice of the run derives from it."""
    run: Path | None = None
    """Run folder; None: a new one under `runs/`."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Optimizer steps between two checkpoints that a run can resume from."""
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    rollout: RolloutSection = RolloutSection()
    ray: RaySection = RaySection()
    algo: AlgoSection = AlgoSection()
    optim: OptimSection = OptimSection()
    eval: EvalSection = EvalSection()
    engine: EngineSection = EngineSection()

    @model_validator(mode="after")
    def _consistent(self) -> RlConfig:
        if self.rollout.max_action_tokens >= self.rollout.max_context_tokens:
            raise ValueError(
                f"rollout.max_action_tokens {self.rollout.max_action_tokens} leaves no room for a prompt in "
                f"rollout.max_context_tokens {self.rollout.max_context_tokens}"
            )
        if self.engine.type == "torch" and self.engine.num_engines != 1:
            raise ValueError('engine.num_engines has no effect with engine.type = "torch"; set it to 1')
        if self.model.checkpoint.startswith("preset:"):
            raise ValueError(
                "model.checkpoint: random weights earn no reward to learn from; start with `swegym train sft`"
            )
        return self


class SftDataSection(Section):
    """Demonstrations."""

    source: str = "teacher"
    """`teacher`: the scripted teacher's repairs of lines of Python's standard library (train/demonstrations.py); or the
    folder of a run, whose resolved episodes are learned (rejection sampling)."""


class SftOptimSection(Section):
    """AdamW (0.9, 0.95, weight decay 0.1), linear warm-up, then a constant rate."""

    lr: float = Field(default=1e-3, ge=0)
    """Learning rate after warm-up."""
    warmup_steps: int = Field(default=20, ge=0)
    """Optimizer steps in which the rate rises linearly to `lr`."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    token_budget: int = Field(default=4096, ge=1)
    """Most tokens of one micro-batch; bounds memory and changes no result."""


class SftConfig(Section):
    """`swegym train sft`."""

    seed: int = Field(default=0, ge=0)
    """Of the order of examples, the teacher's guesses and random weights."""
    run: Path | None = None
    """Run folder; None: a new one under `runs/`."""
    num_steps: int = Field(default=500, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=48, ge=1)
    """Examples per optimizer step."""
    model: ModelSection = ModelSection(checkpoint="preset:tiny")
    data: SftDataSection = SftDataSection()
    optim: SftOptimSection = SftOptimSection()


def recipe_path(name: str) -> Path:
    """The TOML file of a recipe that ships, such as `demo` or `paper`. Raises UnknownName."""
    folder = Path(__file__).parent / "recipes"
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise UnknownName("recipe", name, sorted(file.stem for file in folder.glob("*.toml")))
    return path
