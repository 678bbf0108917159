"""An episode for reading: plain text, or a rich renderable for the terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from swegym.core.errors import ConfigError
from swegym.core.trajectory import Trajectory, Turn

__all__ = ["episode_text", "render_episode"]


def render_episode(trajectory: Trajectory, *, turn: int | None = None, max_chars: int = 20_000) -> RenderableType:
    """Head, first observation, every turn (text, action, observation) and the result.

    Args:
        trajectory: the episode.
        turn: show only this turn.
        max_chars: characters of one text that are shown; the middle of a longer one is left out.

    Raises:
        ConfigError: there is no such turn.
    """
    if turn is not None:
        if not 0 <= turn < len(trajectory.turns):
            last = len(trajectory.turns) - 1
            raise ConfigError(f"episode {trajectory.episode_id} has turns 0..{last}, not {turn}")
        return _turn_panel(trajectory.turns[turn], max_chars)
    parts: list[RenderableType] = [_head(trajectory)]
    parts.append(_panel("observation 0: the task", trajectory.first_observation.text, max_chars, "cyan"))
    parts += [_turn_panel(item, max_chars) for item in trajectory.turns]
    parts.append(_result(trajectory, max_chars))
    return Group(*parts)


def episode_text(trajectory: Trajectory, *, turn: int | None = None, width: int = 100, max_chars: int = 20_000) -> str:
    """The same as plain text without colours, `width` columns wide."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(render_episode(trajectory, turn=turn, max_chars=max_chars))
    return capture.get()


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def _printable(text: str) -> Text:
    """Escape sequences in a recorded output must not reach the terminal of whoever reads it."""
    return Text("".join(char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in text))


def _panel(title: str, text: str, max_chars: int, style: str) -> Panel:
    return Panel(_printable(_cut(text, max_chars)), title=Text(title), title_align="left", border_style=style)


def _head(trajectory: Trajectory) -> Text:
    seed = "" if trajectory.seed is None else f"  seed {trajectory.seed}"
    return Text(
        f"episode {trajectory.episode_id}  task {trajectory.task_id}  env {trajectory.env_id}\n"
        f"policy {trajectory.policy}  agent {trajectory.agent}  sandbox {trajectory.sandbox or 'none'}{seed}  "
        f"{trajectory.started_at}"
    )


def _turn_panel(turn: Turn, max_chars: int) -> RenderableType:
    parts: list[RenderableType] = []
    said = turn.text or (f"{turn.action.tool}\n{turn.action.body}" if turn.action else "")
    parts.append(_panel(f"turn {turn.index}: agent", said, max_chars, "green"))
    if turn.format_error:
        parts.append(Text(f"format error: {turn.format_error}", style="red"))
    if turn.observation is not None:
        code = turn.observation.exit_code
        facts = [f"turn {turn.index}: observation"]
        facts += [f"exit code {code}"] if code is not None else []
        facts += [f"{turn.env_duration_s:.3f} s"] if turn.env_duration_s else []
        facts += [f"{turn.observation.truncated_bytes} bytes left out"] if turn.observation.truncated_bytes else []
        parts.append(_panel(", ".join(facts), turn.observation.text, max_chars, "cyan"))
    return Group(*parts)


def _result(trajectory: Trajectory, max_chars: int) -> RenderableType:
    kind = "terminated" if trajectory.terminated else "truncated" if trajectory.truncated else "running"
    lines = [f"{kind}: {trajectory.end_reason}  turns {len(trajectory.turns)}  tokens {trajectory.num_agent_tokens}"]
    if trajectory.validity.value != "valid":
        lines.append(f"invalid ({trajectory.validity.value}): {trajectory.validity_reason}")
    if trajectory.outcome is not None:
        lines.append(f"resolved: {trajectory.outcome.resolved} ({trajectory.outcome.reason})")
        lines += [f"  {status.value:8} {test}" for test, status in sorted(trajectory.outcome.tests.items())]
        lines += [f"  notice: {notice}" for notice in trajectory.outcome.notices]
    if trajectory.reward is not None:
        terms = "  ".join(f"{name} {value:g}" for name, value in trajectory.rewards.items())
        lines.append(f"reward {trajectory.reward:g}  ({terms})")
    parts: list[RenderableType] = [_panel("result", "\n".join(lines), max_chars, "magenta")]
    if trajectory.submission:
        parts.insert(0, _panel("submission", trajectory.submission, max_chars, "yellow"))
    return Group(*parts)
