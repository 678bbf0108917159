"""Options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_TASKS, _POLICY, _RUN = "Tasks", "Policy", "Run"

EnvId = Annotated[
    str | None,
    typer.Option("--env", help="Registered environment; module:ID imports a module first.", rich_help_panel=_TASKS),
]
TaskSetName = Annotated[
    str | None,
    typer.Option("--taskset", help="Task set: a registered name, a folder or module:attr.", rich_help_panel=_TASKS),
]
Split = Annotated[str | None, typer.Option(help="Only tasks with this split label.", rich_help_panel=_TASKS)]
TaskIds = Annotated[
    list[str] | None, typer.Option("--task", help="Only this task; may be given again.", rich_help_panel=_TASKS)
]
NumTasks = Annotated[int | None, typer.Option(min=1, help="Only the first N tasks.", rich_help_panel=_TASKS)]

PolicyName = Annotated[
    str,
    typer.Option(
        "--policy",
        help="openai, scripted, oracle, human, replay, torch, or a registered name.",
        rich_help_panel=_POLICY,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="openai: the endpoint's model name; torch: checkpoint folder.", rich_help_panel=_POLICY),
]
BaseUrl = Annotated[
    str | None, typer.Option(help="openai: address of the endpoint up to and including /v1.", rich_help_panel=_POLICY)
]
Source = Annotated[
    Path | None,
    typer.Option(
        help="scripted: file of texts, one per turn, parted by lines of ---; replay: run folder.",
        rich_help_panel=_POLICY,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(help="Prompt profile: cwm or short. Default: short for torch, else cwm.", rich_help_panel=_POLICY),
]
ActionProtocolName = Annotated[
    str | None,
    typer.Option("--protocol", help="How actions are written: tags, functions, bash_block.", rich_help_panel=_POLICY),
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.", rich_help_panel=_POLICY)]
MaxActionTokens = Annotated[int, typer.Option(min=1, help="Tokens of one completion.", rich_help_panel=_POLICY)]
MaxContextTokens = Annotated[
    int, typer.Option(min=2, help="Tokens of one episode (token policies).", rich_help_panel=_POLICY)
]

SandboxName = Annotated[
    str,
    typer.Option(
        "--sandbox", help="auto (Docker where an engine answers, else local), docker, local.", rich_help_panel=_RUN
    ),
]
SandboxOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--sandbox-option",
        help="KEY=VALUE, a setting of the back end such as warm=4 or max_sandboxes=16; may be given again.",
        rich_help_panel=_RUN,
    ),
]
BaseImage = Annotated[
    str | None,
    typer.Option(
        envvar="SWEGYM_BASE_IMAGE", help="Docker image that task workspaces are put on.", rich_help_panel=_RUN
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes at a time.", rich_help_panel=_RUN)]
Rewards = Annotated[
    list[str] | None, typer.Option("--reward", help="NAME or NAME=WEIGHT; may be given again.", rich_help_panel=_RUN)
]
Seed = Annotated[int, typer.Option(min=0, help="Every random choice derives from it.", rich_help_panel=_RUN)]
RunFolderPath = Annotated[
    Path | None,
    typer.Option("--run", help="Run folder to make. Default: runs/COMMAND-DATE-TIME.", rich_help_panel=_RUN),
]
