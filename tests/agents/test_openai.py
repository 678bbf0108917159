"""OpenAiPolicy against a real HTTP server on this machine."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.openai import OpenAiPolicy, chat_messages
from swegym.agents.profiles.cwm import CwmProfile
from swegym.core.action import Observation, ToolCall, ToolSpec
from swegym.core.errors import ConfigError, PolicyError, PromptTooLong
from swegym.core.policy import Message, PolicyRequest, SamplingParams
from swegym.core.task import Task

LS = "<tool: bash>\nls\n</tool>"
Answer = tuple[int, dict[str, str], Any]


class Endpoint(ThreadingHTTPServer):
    """Gives the queued answers in order (the last one again and again) and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.received: list[dict[str, Any]] = []
        self.hold = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def say(self, content: str | None, finish_reason: str | None = "stop", calls: list[Any] | None = None) -> None:
        message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        self.answers.append(
            (200, {}, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        )

    def refuse(self, status: int, message: str = "no", headers: dict[str, str] | None = None) -> None:
        self.answers.append((status, headers or {}, {"error": {"message": message, "code": None}}))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(json.loads(body) | {"_path": self.path, "_key": self.headers["authorization"]})
        answers = self.server.answers
        status, headers, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:  # hang until the test is over
            self.server.hold.wait(30)
            return
        if status == -1:  # drop the connection without an answer
            self.close_connection = True
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


def request(*messages: Message, tools: tuple[ToolSpec, ...] = ()) -> PolicyRequest:
    sampling = SamplingParams(temperature=0.5, top_p=0.9, max_tokens=77, seed=3)
    return PolicyRequest(messages or (Message(role="user", content="hi"),), sampling=sampling, tools=tools)


def policy_for(endpoint: Endpoint, **options: Any) -> OpenAiPolicy:
    return OpenAiPolicy("m", base_url=endpoint.url, api_key="k", backoff_s=0.01, **options)


async def test_a_request_carries_everything(endpoint: Endpoint) -> None:
    endpoint.say("hello")
    policy = policy_for(endpoint, max_tokens_field="max_completion_tokens")
    messages = (
        Message(role="system", content="s"),
        Message(role="user", content="u"),
        Message(role="assistant", content=LS),
        Message(role="tool: bash", content="<output>\n</output>"),
    )
    completion = await policy.sample(request(*messages))
    await policy.close()
    await policy.close()
    assert (completion.text, completion.finish_reason, completion.token_ids) == ("hello", "stop", ())
    assert endpoint.received == [
        {
            "_path": "/v1/chat/completions",
            "_key": "Bearer k",
            "model": "m",
            "temperature": 0.5,
            "top_p": 0.9,
            "max_completion_tokens": 77,
            "seed": 3,
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": LS},
                {"role": "user", "content": "<output>\n</output>"},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("reported", "expected"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), (None, "stop"), ("content_filter", "abort")],
)
async def test_finish_reasons(endpoint: Endpoint, reported: str | None, expected: str) -> None:
    endpoint.say("x", reported)
    policy = policy_for(endpoint)
    assert (await policy.sample(request())).finish_reason == expected
    await policy.close()


@pytest.mark.parametrize("content", ["", None])
async def test_empty_and_absent_content_are_the_same(endpoint: Endpoint, content: str | None) -> None:
    """Row 62."""
    endpoint.say(content)
    policy = policy_for(endpoint)
    assert (await policy.sample(request())).text == ""
    await policy.close()


async def test_a_lone_surrogate_cannot_reach_the_disk(endpoint: Endpoint) -> None:
    endpoint.say("a\ud800b")
    policy = policy_for(endpoint)
    assert (await policy.sample(request())).text == "a?b"
    await policy.close()


async def test_429_and_5xx_are_tried_again(endpoint: Endpoint) -> None:
    endpoint.refuse(429, headers={"retry-after": "0.01"})
    endpoint.refuse(503)
    endpoint.refuse(500)
    endpoint.say("at last")
    policy = policy_for(endpoint, max_retries=3)
    assert (await policy.sample(request())).text == "at last"
    assert len(endpoint.received) == 4
    await policy.close()


async def test_retries_are_bounded(endpoint: Endpoint) -> None:
    endpoint.refuse(429, "slow down")
    policy = policy_for(endpoint, max_retries=2)
    with pytest.raises(PolicyError, match=r"HTTP 429 after 3 attempts.*slow down"):
        await policy.sample(request())
    assert len(endpoint.received) == 3
    await policy.close()


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "bad field", PolicyError),
        (422, "bad field", PolicyError),
        (401, "wrong key", ConfigError),
        (404, "no such model", ConfigError),
        (400, "This model's maximum context length is 8192 tokens", PromptTooLong),
    ],
)
async def test_other_refusals_are_not_tried_again(
    endpoint: Endpoint, status: int, message: str, error: type[Exception]
) -> None:
    endpoint.refuse(status, message)
    policy = policy_for(endpoint)
    with pytest.raises(error, match=message[:10]) as caught:
        await policy.sample(request())
    assert type(caught.value) is error
    assert len(endpoint.received) == 1
    await policy.close()


async def test_an_endpoint_that_does_not_answer_is_given_up(endpoint: Endpoint) -> None:
    endpoint.answers.append((0, {}, None))
    policy = policy_for(endpoint, timeout_s=0.3)
    with pytest.raises(PolicyError, match=r"no answer within 0\.3 s"):
        await policy.sample(request())
    await policy.close()


async def test_a_dropped_connection_is_tried_once_more(endpoint: Endpoint) -> None:
    endpoint.answers.append((-1, {}, None))
    endpoint.say("again")
    policy = policy_for(endpoint)
    assert (await policy.sample(request())).text == "again"
    endpoint.answers[:] = [(-1, {}, None)]
    with pytest.raises(PolicyError, match=r"cannot reach http://127\.0\.0\.1"):
        await policy.sample(request())
    await policy.close()


@pytest.mark.parametrize("answer", [b"not json", b'{"choices": []}', b'{"choices": null}', b"[]", b'"x"'])
async def test_nonsense_is_an_engine_failure(endpoint: Endpoint, answer: bytes) -> None:
    endpoint.answers.append((200, {}, answer))
    policy = policy_for(endpoint)
    with pytest.raises(PolicyError):
        await policy.sample(request())
    await policy.close()


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


async def test_a_dialogue_by_function_calls(
    endpoint: Endpoint, task: Task, first: Observation, tools: tuple[ToolSpec, ...]
) -> None:
    endpoint.say("I look.", "tool_calls", [call("bash", '{"command": "ls"}')])
    endpoint.say(None, "tool_calls", [call("bash", '{"cmd": "ls"}')])
    endpoint.say(None, "tool_calls", [call("submit", "{}"), call("submit", "{}")])
    endpoint.say("", "tool_calls", [call("submit", "{}")])
    policy = policy_for(endpoint, protocol="functions")
    agent = ForagerAgent(policy, profile=CwmProfile(is_reasoning=False), protocol="functions")
    agent.begin(task, first, episode_id="e", seed=None)
    assert (await agent.decide()).action == ToolCall(tool="bash", body="ls")
    agent.observe(Observation(text="a.py\n", exit_code=0))
    unknown = await agent.decide()
    assert "unknown arguments ['cmd']" in unknown.format_error
    agent.observe(Observation(text=unknown.format_error))
    assert "2 function calls" in (await agent.decide()).format_error
    agent.observe(Observation(text="2 function calls"))
    assert (await agent.decide()).action == ToolCall(tool="submit")
    await policy.close()
    sent = endpoint.received
    assert [tool["function"]["name"] for tool in sent[0]["tools"]] == ["bash", "create", "submit"]
    assert "seed" not in sent[0]
    assistant, tool = sent[1]["messages"][2:]
    assert assistant["content"] == "I look."
    assert assistant["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"command": "ls"}'}
    assert (tool["role"], tool["tool_call_id"]) == ("tool", assistant["tool_calls"][0]["id"])
    assert "a.py" in tool["content"]
    # what was no well-formed call is sent back as the text it was, with the complaint as the user's words
    assert [message["role"] for message in sent[3]["messages"][4:]] == ["assistant", "user", "assistant", "user"]
    assert "tool_calls" not in sent[3]["messages"][4]
    # rows 58, 61: history is never rewritten, each conversation begins with the one before
    for earlier, later in itertools.pairwise(sent):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]


def test_tool_output_without_a_call_is_a_user_message() -> None:
    messages = [Message(role="assistant", content="no call"), Message(role="tool: bash", content="out")]
    assert chat_messages(messages, with_functions=True)[1] == {"role": "user", "content": "out"}


def test_an_absent_package_is_named_with_its_command() -> None:
    program = (
        "import sys, asyncio; sys.modules['openai'] = None\n"
        "from swegym.agents.policies.openai import OpenAiPolicy\n"
        "from swegym.core.policy import PolicyRequest\n"
        "asyncio.run(OpenAiPolicy('m').sample(PolicyRequest(())))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "DependencyMissing: the openai policy needs the package openai: pip install openai" in result.stderr
