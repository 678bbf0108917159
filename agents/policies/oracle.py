"""OraclePolicy applies a patch and submits. For validation and upper bounds; its caller holds the secret half."""

from __future__ import annotations

import base64

from swegym.agents.policies.scripted import complete_text
from swegym.core.action import ToolCall
from swegym.core.policy import Completion, PolicyRequest, Tokenizer
from swegym.core.records import digest
from swegym.core.registries import protocols

__all__ = ["OraclePolicy", "apply_patch_command"]


def apply_patch_command(patch: str) -> str:
    """A bash command that applies the patch at the current directory, whatever bytes the patch holds."""
    if not patch.strip():
        return "true"
    marker = f"PATCH_{digest(patch)}"
    is_plain = patch.endswith("\n") and not any(
        text in patch for text in (marker, "\r", "\0", "<tool", "</tool", "```")
    )
    if is_plain:
        return f"git apply --whitespace=nowarn <<'{marker}'\n{patch}{marker}"
    encoded = base64.b64encode(patch.encode()).decode()
    lines = "\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    return f"base64 -d <<'{marker}' | git apply --whitespace=nowarn\n{lines}\n{marker}"


class OraclePolicy:
    """Two turns: apply, submit. One object per task."""

    name = "oracle"

    def __init__(self, patch: str, *, tokenizer: Tokenizer | None = None, protocol: str = "tags") -> None:
        """Take a patch.

        Args:
            patch: unified diff against the start state; empty does nothing and submits.
            tokenizer: given, it acts as a token policy.
            protocol: how its actions are written; `tags` or `bash_block`.
        """
        self.uses_tokens = tokenizer is not None
        self._tokenizer = tokenizer
        render = protocols.get(protocol)().render
        apply = ToolCall(tool="bash", body=apply_patch_command(patch))
        self._texts = (render(apply), render(ToolCall(tool="submit")))

    async def sample(self, request: PolicyRequest) -> Completion:
        """Apply on the first turn, submit on every later one."""
        return complete_text(self._texts[min(request.turn, 1)], request, self._tokenizer)

    async def close(self) -> None:
        """Nothing to release."""
