"""The two spaces that Gymnasium lacks: any Unicode text, and a tool call. Neither knows a model or a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from gymnasium.spaces import Space

from swegym.core.errors import ConfigError

__all__ = ["ToolAction", "ToolCallSpace", "UnicodeText"]

# Letters, digits and little else: what is sampled is run in a shell, and two equal runs must answer alike.
_SAMPLE_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ./_-\nàπ"


class ToolAction(TypedDict):
    """A value of the action space."""

    tool: str
    body: str


class UnicodeText(Space[str]):
    """Every string of at most `max_length` characters (code points), the empty one included."""

    def __init__(
        self, max_length: int, *, sample_length: int = 32, seed: int | np.random.Generator | None = None
    ) -> None:
        """Args: max_length and sample_length (the longest string that `sample` makes) in characters."""
        if max_length < 1:
            raise ConfigError(f"max_length must be at least 1, got {max_length}")
        self.max_length = max_length
        self.sample_length = min(sample_length, max_length)
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A short random string. Masks have no meaning here and are refused."""
        if mask is not None or probability is not None:
            raise ConfigError("UnicodeText cannot sample with a mask or a probability")
        length = int(self.np_random.integers(0, self.sample_length + 1))
        return "".join(_SAMPLE_ALPHABET[i] for i in self.np_random.integers(0, len(_SAMPLE_ALPHABET), size=length))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length


class ToolCallSpace(Space[ToolAction]):
    """`{"tool": NAME, "body": TEXT}` with a known name and any text."""

    def __init__(
        self, tool_names: Sequence[str], *, max_length: int = 2**22, seed: int | np.random.Generator | None = None
    ) -> None:
        """Args: tool_names in the order shown to agents; max_length of a body, in characters."""
        if not tool_names or len(set(tool_names)) != len(tool_names):
            raise ConfigError(f"an environment needs one tool or more, each named once; got {list(tool_names)}")
        self.tool_names = tuple(tool_names)
        self.body = UnicodeText(max_length)
        super().__init__(dtype=object, seed=seed)

    def seed(self, seed: int | None = None) -> int | None:
        """Seed the tool's and the body's generator from one number."""
        used = super().seed(seed)
        self.body.seed(seed)
        return used if isinstance(used, int) else None

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> ToolAction:
        """A random tool with a short random body. Masks have no meaning here and are refused."""
        if mask is not None or probability is not None:
            raise ConfigError("ToolCallSpace cannot sample with a mask or a probability")
        tool = self.tool_names[int(self.np_random.integers(len(self.tool_names)))]
        return {"tool": tool, "body": self.body.sample()}

    def contains(self, x: Any) -> bool:
        return (
            isinstance(x, dict)
            and set(x) == {"tool", "body"}
            and x["tool"] in self.tool_names
            and x["body"] in self.body
        )

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"ToolCallSpace({list(self.tool_names)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToolCallSpace) and (other.tool_names, other.body) == (self.tool_names, self.body)
