"""The demo over seeds, and the two controls: does the pass rate rise, and only when there is something to learn?

    python benchmarks/demo.py --json demo.json [--quick] [--seeds 0 1 2] [--folder runs/benchmark]

A row compares the held-out pass rate after training with the one before; for a control the ratio should be about 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from swegym.core.progress import PlainProgress
from swegym.train.demo import run_demo

CONTROLS = (
    ("learning rate 0", "lr-0", "--optim.lr=0"),
    ("rewards shuffled within the batch", "shuffled", "--algo.shuffle_rewards=true"),
)
QUICK = ["--algo.num_steps=3", "--eval.samples_per_task=2"]


def row(measure: str, summary: dict[str, Any]) -> dict[str, Any]:
    """One row of the results."""
    before, after = summary["pass_rate_before"], summary["pass_rate_after"]
    return {
        "measure": measure,
        "ours": after,
        "against": before,
        "peer": "the same model before training",
        "unit": "held-out pass rate",
        "ratio": round(after / before, 3) if before else None,
        "summary": summary,
    }


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed, three steps: checks the script, not learning")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--control-steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    extra = QUICK if arguments.quick else []
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    rows: list[dict[str, Any]] = []

    def run(measure: str, name: str, seed: int, overrides: list[str], tasks: Path | None = None) -> None:
        folder = arguments.folder / name
        print(f"== {measure}: {folder}", flush=True)
        _, summary = run_demo(seed=seed, run=folder, tasks=tasks, progress=PlainProgress(30.0), overrides=overrides)
        rows.append(row(measure, summary))
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")

    for seed in seeds:
        run(f"demo, seed {seed}", f"seed-{seed}", seed, extra)
    tasks = arguments.folder / f"seed-{seeds[0]}" / "tasks"
    for name, short, override in CONTROLS:
        steps = [] if arguments.quick else [f"--algo.num_steps={arguments.control_steps}"]
        run(f"control: {name}", f"control-{short}", seeds[0], [*extra, *steps, override], tasks)


if __name__ == "__main__":
    main()
