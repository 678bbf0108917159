"""OpenAiPolicy: any OpenAI-compatible chat endpoint (OpenAI, vLLM, llama.cpp, a gateway ...).

With `protocol="tags"` or `"bash_block"` the conversation is plain text. With `"functions"` the tools are sent as
functions; a call comes back as text `<tool_call>{...}</tool_call>` that FunctionProtocol reads, and is turned into a
function call again when the conversation is sent the next time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from swegym.core.errors import ConfigError, DependencyMissing, PolicyError, PromptTooLong, boundary
from swegym.core.policy import Completion, FinishReason, Message, PolicyRequest

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from openai.types.chat import ChatCompletion

__all__ = ["OpenAiPolicy", "chat_messages", "completion_text"]

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TOO_LONG = re.compile(r"context_length_exceeded|maximum context length|context length|too many tokens", re.IGNORECASE)
_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "None": "stop",  # some endpoints leave it out
    "length": "length",
}


class OpenAiPolicy:
    """A text policy. Create it once and share it: it holds one connection pool and no conversation."""

    uses_tokens = False

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        protocol: Literal["tags", "functions", "bash_block"] = "tags",
        timeout_s: float = 600.0,
        max_retries: int = 5,
        backoff_s: float = 1.0,
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
    ) -> None:
        """Describe an endpoint; nothing is sent yet.

        Args:
            model: the endpoint's name of the model.
            base_url: the endpoint, up to and including `/v1`; None reads OPENAI_BASE_URL, else OpenAI's own.
            api_key: None reads OPENAI_API_KEY; endpoints without keys take anything.
            protocol: `functions` sends the tools as functions, the others as text.
            timeout_s: wall time of one attempt.
            max_retries: further attempts after HTTP 429 and 5xx only; a dropped connection is tried once more.
            backoff_s: first pause, doubled each time; the endpoint's Retry-After header wins.
            max_tokens_field: what the endpoint calls the limit of new tokens.
        """
        self.name = f"openai:{model}"
        self._model = model
        self._base_url = base_url
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._sends_functions = protocol == "functions"
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._max_tokens_field = max_tokens_field
        self._client: AsyncOpenAI | None = None
        self._jitter = random.Random()

    async def sample(self, request: PolicyRequest) -> Completion:
        """One chat completion.

        Raises:
            DependencyMissing: the package openai is absent.
            ConfigError: wrong key or no such model.
            PromptTooLong: the endpoint says that the conversation exceeds its context.
            PolicyError: everything else, retries used up.
        """
        arguments = self._arguments(request)
        with boundary(PolicyError, f"{self.name}: the answer cannot be read"):  # the client does not check its shape
            answer = await self._send(arguments)
            if not answer.choices:
                raise PolicyError(f"{self.name}: the answer holds no choice")
            choice = answer.choices[0]
            finish_reason = _FINISH_REASONS.get(str(choice.finish_reason), "abort")
            return Completion(text=completion_text(choice.message), finish_reason=finish_reason)

    async def close(self) -> None:
        """Close the connections; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _arguments(self, request: PolicyRequest) -> dict[str, Any]:
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": chat_messages(request.messages, with_functions=self._sends_functions),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._max_tokens_field: sampling.max_tokens,
        }
        if sampling.seed is not None:
            arguments["seed"] = sampling.seed
        if self._sends_functions and request.tools:
            arguments["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                }
                for tool in request.tools
            ]
        return arguments

    def _connect(self) -> AsyncOpenAI:
        if self._client is None:
            try:
                from openai import AsyncOpenAI
            except ImportError as error:
                raise DependencyMissing("the openai policy needs the package openai: pip install openai") from error
            self._client = AsyncOpenAI(
                api_key=self._api_key, base_url=self._base_url, timeout=self._timeout_s, max_retries=0
            )
        return self._client

    async def _send(self, arguments: dict[str, Any]) -> ChatCompletion:
        client = self._connect()
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        attempt = num_dropped = 0
        while True:
            try:
                answer: ChatCompletion = await client.chat.completions.create(**arguments)
                return answer
            except APITimeoutError as error:
                raise PolicyError(f"{self.name}: no answer within {self._timeout_s:g} s") from error
            except APIConnectionError as error:
                num_dropped += 1  # an idle connection that the server closed meanwhile
                if num_dropped > 1:
                    cause = error.__cause__ or error
                    raise PolicyError(f"{self.name}: cannot reach {client.base_url}: {cause}") from error
            except APIStatusError as error:
                pause_s = self._pause_s(error, attempt)
                attempt += 1
                await asyncio.sleep(pause_s)
            except APIError as error:
                raise PolicyError(f"{self.name}: {error}") from error

    def _pause_s(self, error: APIStatusError, attempt: int) -> float:
        """Seconds until the next attempt; raises when there must be none."""
        status, text = error.status_code, str(error)
        if status in (401, 403, 404):
            raise ConfigError(
                f"{self.name}: the endpoint refuses the key or does not know the model: {text}"
            ) from error
        if status in (400, 413, 422) and _TOO_LONG.search(text):
            raise PromptTooLong(f"{self.name}: {text}") from error
        if (status != 429 and status < 500) or attempt >= self._max_retries:
            raise PolicyError(f"{self.name}: HTTP {status} after {attempt + 1} attempts: {text}") from error
        try:
            return float(error.response.headers["retry-after"])
        except (KeyError, ValueError):  # absent, or given as a date
            backoff_s: float = self._backoff_s * 2**attempt * (1 + 0.25 * self._jitter.random())
            return backoff_s


def completion_text(message: Any) -> str:
    """Text of an answer, its function calls written as `<tool_call>{...}</tool_call>`; None counts as empty."""
    parts = [message.content or ""]
    for call in message.tool_calls or ():
        function = {"name": call.function.name, "arguments": call.function.arguments}
        parts.append(f"<tool_call>\n{json.dumps(function)}\n</tool_call>")
    text = "\n".join(part for part in parts if part)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate could not be written to disk


def chat_messages(messages: Sequence[Message], *, with_functions: bool) -> list[dict[str, Any]]:
    """Our messages in the endpoint's form. Without functions a tool's output is a user message."""
    sent: list[dict[str, Any]] = []
    call_id = ""
    for index, message in enumerate(messages):
        calls = _CALL.findall(message.content) if with_functions and message.role == "assistant" else []
        if message.role.startswith("tool: "):
            answer = {"role": "tool", "tool_call_id": call_id} if call_id else {"role": "user"}
            sent.append(answer | {"content": message.content})
            call_id = ""
        elif len(calls) == 1 and _is_answered(messages, index):
            call_id = f"call_{index:06d}"
            function = json.loads(calls[0])
            text = _CALL.sub("", message.content).strip()
            tool_call = {"id": call_id, "type": "function", "function": function}
            sent.append({"role": "assistant", "content": text or None, "tool_calls": [tool_call]})
        else:
            sent.append({"role": message.role, "content": message.content})
    return sent


def _is_answered(messages: Sequence[Message], index: int) -> bool:
    """A call that was malformed is followed by a complaint from the user, and stays text."""
    return index + 1 < len(messages) and messages[index + 1].role.startswith("tool: ")
