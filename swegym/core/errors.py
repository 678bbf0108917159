"""Every exception that swegym raises on purpose.

    SwegymError
      ConfigError (ValueError)           a key, flag, file or argument is wrong              -> exit status 2
      UnknownName (LookupError)          no such env, sandbox, tool, reward, task ...        -> exit status 2
      DependencyMissing (ImportError)    an optional package or engine is absent             -> exit status 2
      RolloutError                       recorded on the trajectory; the run goes on
        SandboxError                     the sandbox failed, not the agent's command
          SandboxLost                    the sandbox is gone; the episode cannot go on
          ImageMissing                   the image is neither here nor buildable
        PolicyError                      the engine or endpoint failed
          PromptTooLong                  the prompt leaves no room for an action: a truncation, not a failure
        FormatError                      the model's text is not an action; goes back to the model
        TaskError                        the task's own files are broken: quarantine it
        RewardError                      a reward function failed or left its declared range
      TrainingError                      stops the run
        WeightSyncError, CheckpointError

An infrastructure failure (SandboxError, PolicyError, TaskError, RewardError) makes a trajectory invalid. It never
becomes a reward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DependencyMissing",
    "FormatError",
    "ImageMissing",
    "PolicyError",
    "PromptTooLong",
    "RewardError",
    "RolloutError",
    "SandboxError",
    "SandboxLost",
    "SwegymError",
    "TaskError",
    "TrainingError",
    "UnknownName",
    "WeightSyncError",
    "boundary",
]


class SwegymError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(SwegymError, ValueError):
    """Raised when the user's input is wrong: says what, where and how to mend it."""

    exit_code = 2


class UnknownName(SwegymError, LookupError):
    """Raised when a name is not registered: lists near and known names."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        near = get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; known: {', '.join(sorted(known)) or 'none'}"
        super().__init__(f"no {kind} named {name!r}{hint}")
        self.kind, self.name, self.known = kind, name, known

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return (type(self), (self.kind, self.name, self.known))  # Ray pickles errors across processes


class DependencyMissing(SwegymError, ImportError):
    """Raised when an optional package or engine is absent: holds the command that adds it."""

    exit_code = 2


class RolloutError(SwegymError):
    """Base of everything that spoils one episode but not the run."""


class SandboxError(RolloutError):
    """Raised when the sandbox itself fails."""


class SandboxLost(SandboxError):
    """Raised when the sandbox no longer exists or no longer answers."""


class ImageMissing(SandboxError):
    """Raised when an image is neither present nor buildable."""

    exit_code = 2


class PolicyError(RolloutError):
    """Raised when a policy's engine or endpoint fails."""


class PromptTooLong(PolicyError):
    """Raised when the context has no room left for an action; ends the episode as truncated."""


class FormatError(RolloutError):
    """Raised when the model's text holds no well-formed action; its message is shown to the model."""


class TaskError(RolloutError):
    """Raised when a task's own files or hidden tests are broken."""

    exit_code = 2


class RewardError(RolloutError):
    """Raised when a reward function fails or leaves its declared range."""


class TrainingError(SwegymError):
    """Raised when training cannot go on."""


class WeightSyncError(TrainingError):
    """Raised when an engine did not take an update whole."""


class CheckpointError(TrainingError):
    """Raised when a checkpoint cannot be written or read."""

    exit_code = 2


@contextmanager
def boundary(error: type[SwegymError], what: str) -> Iterator[None]:
    """Attribute whatever escapes the block to one boundary; our own errors pass as they are."""
    try:
        yield
    except SwegymError:
        raise
    except Exception as cause:
        raise error(f"{what}: {type(cause).__name__}: {cause}") from cause
