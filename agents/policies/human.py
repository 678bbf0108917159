"""HumanPolicy: a person at the terminal takes the actions."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TextIO

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from swegym.core.action import ToolCall
from swegym.core.errors import PolicyError
from swegym.core.policy import Completion, Message, PolicyRequest
from swegym.core.registries import protocols

__all__ = ["HumanPolicy"]

_HELP = (
    "One line is a bash command; `submit` hands in. For another tool write `:NAME`, then its body, then a line with "
    "only a full stop. End of input gives up."
)


class HumanPolicy:
    """Shows each new message and reads one action."""

    name = "human"
    uses_tokens = False

    def __init__(
        self, *, input_stream: TextIO | None = None, console: Console | None = None, protocol: str = "tags"
    ) -> None:
        """Args: input_stream: where actions come from (default stdin). console: where messages go (default stderr)."""
        self._input = input_stream
        self._console = console or Console(stderr=True)
        self._render = protocols.get(protocol)().render
        self._num_shown: dict[str, int] = {}

    async def sample(self, request: PolicyRequest) -> Completion:
        """Raises PolicyError: the input ended."""
        if request.turn == 0:
            self._num_shown = {request.episode_id: 0}
            self._console.print(Text(_HELP, style="dim"))
        shown = self._num_shown.get(request.episode_id, 0)
        for message in request.messages[shown:]:
            if message.role != "assistant":
                self._show(message)
        self._num_shown[request.episode_id] = len(request.messages)
        call = await self._read_in_thread()
        return Completion(text=self._render(call), finish_reason="stop")

    async def close(self) -> None:
        """Nothing to release."""

    async def _read_in_thread(self) -> ToolCall:
        """Other episodes go on while a person thinks. A daemon thread: Ctrl-C must not wait for the next line."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ToolCall] = loop.create_future()

        def settle(call: ToolCall | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if call is not None:
                answer.set_result(call)
            elif error is not None:
                answer.set_exception(error)

        def read() -> None:
            try:
                call, error = self._read_action(), None
            except Exception as caught:  # noqa: BLE001 - handed over to the waiting coroutine, whatever it is
                call, error = None, caught
            loop.call_soon_threadsafe(settle, call, error)

        threading.Thread(target=read, name="human-policy", daemon=True).start()
        return await answer

    def _show(self, message: Message) -> None:
        self._console.print(Panel(Text(message.content), title=message.role, title_align="left"))

    def _read_line(self) -> str:
        self._console.print(Text("> ", style="bold"), end="")
        line = (self._input or sys.stdin).readline()
        if not line:
            raise PolicyError("the input ended before the episode did")
        return line.rstrip("\n")

    def _read_action(self) -> ToolCall:
        line = ""
        while not line.strip():
            line = self._read_line()
        if line.strip() == "submit":
            return ToolCall(tool="submit")
        if not line.startswith(":"):
            return ToolCall(tool="bash", body=line)
        body = []
        while (more := self._read_line()) != ".":
            body.append(more)
        return ToolCall(tool=line[1:].strip(), body="\n".join(body))
