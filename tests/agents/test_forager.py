from collections.abc import Sequence

import pytest

from swegym.agents.chat import BOS, chat_message, encode_pieces, stop_token_ids
from swegym.agents.forager import ForagerAgent, ForagerConfig
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.agents.profiles.cwm import CwmProfile
from swegym.agents.profiles.short import ShortProfile
from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.action import Observation, ToolCall
from swegym.core.agent import Agent
from swegym.core.errors import ConfigError, PolicyError, PromptTooLong, UnknownName
from swegym.core.policy import Completion, FinishReason, Message, PolicyRequest, SamplingParams
from swegym.core.task import Task

LS = "<tool: bash>\nls\n</tool>"


class TokenPolicy:
    """Returns given ids; keeps the requests."""

    name = "ids"
    uses_tokens = True

    def __init__(self, tokenizer: BpeTokenizer, turns: Sequence[tuple[Sequence[int], FinishReason]]) -> None:
        self._tokenizer = tokenizer
        self._turns = turns
        self.requests: list[PolicyRequest] = []

    async def sample(self, request: PolicyRequest) -> Completion:
        ids, finish_reason = self._turns[len(self.requests)]
        self.requests.append(request)
        logprobs = tuple(-0.125 * (index + 1) for index in range(len(ids)))
        return Completion(self._tokenizer.decode(list(ids)), finish_reason, tuple(ids), logprobs, (7,) * len(ids))

    async def close(self) -> None:
        """Nothing."""


def begin(agent: ForagerAgent, task: Task, first: Observation, seed: int | None = 0) -> None:
    agent.begin(task, first, episode_id="e", seed=seed)


async def test_ids_trained_are_the_ids_sampled(task: Task, first: Observation, tokenizer: BpeTokenizer) -> None:
    """Rows 54, 55, 57, 59, 66: an unusual tokenisation and a sampled stop token survive as they are."""
    eot, sep = tokenizer.special("<|eot_id|>"), tokenizer.special("<|action_sep|>")
    odd = [token for char in LS for token in tokenizer.encode(char)]  # no merges: encoding the text gives other ids
    assert odd != tokenizer.encode(LS)
    policy = TokenPolicy(tokenizer, [([*odd, eot], "stop"), ([*tokenizer.encode(LS), eot], "stop")])
    agent: Agent = ForagerAgent(policy, tokenizer=tokenizer, profile="short")
    agent.begin(task, first, episode_id="e", seed=0)
    prompt = list(policy_prompt(tokenizer))
    assert (await agent.decide()).action == ToolCall(tool="bash", body="ls")
    agent.observe(Observation(text="", exit_code=0))
    await agent.decide()
    (context,) = agent.contexts()
    assert list(context.tokens) == [*prompt, *odd, eot, sep, *tokenizer.encode(LS), eot]
    num_odd, num_second = len(odd) + 1, len(tokenizer.encode(LS)) + 1
    mask = [0] * len(prompt) + [1] * num_odd + [0] + [1] * num_second
    assert list(context.loss_mask) == list(context.source) == mask
    assert context.rollout_logprobs[len(prompt) + num_odd - 1] == -0.125 * num_odd  # the stop token's own
    assert {v for v, m in zip(context.policy_version, mask, strict=True) if m} == {7}
    assert {v for v, m in zip(context.policy_version, mask, strict=True) if not m} == {-1}
    assert policy.requests[1].prompt_token_ids == context.tokens[: len(prompt) + num_odd + 1]
    assert policy.requests[1].prompt_token_ids[: len(prompt)] == policy.requests[0].prompt_token_ids


def policy_prompt(tokenizer: BpeTokenizer) -> list[int]:
    begin_id, sep = tokenizer.special("<|begin_of_text|>"), tokenizer.special("<|action_sep|>")
    return [begin_id, *tokenizer.encode("if a < b:"), sep]


async def test_a_turn_that_ends_without_a_stop_token_is_closed_by_the_template(
    task: Task, first: Observation, tokenizer: BpeTokenizer
) -> None:
    policy = TokenPolicy(tokenizer, [(tokenizer.encode(LS), "stop")])  # an engine's stop string
    agent = ForagerAgent(policy, tokenizer=tokenizer, profile="short")
    begin(agent, task, first)
    await agent.decide()
    agent.observe(Observation(text="", exit_code=0))
    (context,) = agent.contexts()
    assert context.tokens[-2:] == (tokenizer.special("<|eot_id|>"), tokenizer.special("<|action_sep|>"))
    assert context.loss_mask[-2:] == (0, 0)
    assert context.rollout_logprobs[-2:] == (0.0, 0.0)


LIMITS = [
    # prompt + max_context, max_action, sampled, finish reason -> stop reason, asked for max_tokens
    (1, 10, 1, "length", "context_limit", 1),
    (10, 10, 10, "length", "action_limit", 10),
    (11, 4, 4, "length", "action_limit", 4),
    (4, 10, 4, "length", "context_limit", 4),
    (20, 10, 3, "length", "context_limit", 10),  # the engine's own limit is lower
    (20, 10, 3, "stop", "", 10),  # a short last word is a format error, not a limit (row 78)
]


@pytest.mark.parametrize(("room", "max_action", "num_sampled", "finish", "stop_reason", "asked"), LIMITS)
async def test_table_of_limits(
    task: Task,
    first: Observation,
    tokenizer: BpeTokenizer,
    room: int,
    max_action: int,
    num_sampled: int,
    finish: FinishReason,
    stop_reason: str,
    asked: int,
) -> None:
    """Rows 74, 77, 78, 79: a limit is judged by the finish reason, never by the text or the stop token."""
    length = len(policy_prompt(tokenizer))
    policy = TokenPolicy(tokenizer, [(tokenizer.encode("x y z w v u t s r q")[:num_sampled], finish)])
    config = ForagerConfig(max_context_tokens=length + room, max_action_tokens=max_action)
    agent = ForagerAgent(policy, tokenizer=tokenizer, profile="short", config=config)
    begin(agent, task, first)
    decision = await agent.decide()
    assert (decision.stop_reason, decision.action) == (stop_reason, None)
    assert bool(decision.format_error) == (stop_reason == "")
    assert policy.requests[0].sampling.max_tokens == asked
    assert agent.contexts()[0].num_agent_tokens == num_sampled  # nothing sampled is lost


async def test_a_well_formed_action_cut_at_the_limit_is_not_run(
    task: Task, first: Observation, tokenizer: BpeTokenizer
) -> None:
    ids = tokenizer.encode(LS)
    agent = ForagerAgent(
        TokenPolicy(tokenizer, [(ids, "length")]),
        tokenizer=tokenizer,
        profile="short",
        config=ForagerConfig(max_action_tokens=len(ids)),
    )
    begin(agent, task, first)
    decision = await agent.decide()
    assert (decision.action, decision.stop_reason, decision.finish_reason) == (None, "action_limit", "length")


@pytest.mark.parametrize("extra", [0, -1, -5])
async def test_a_prompt_without_room_for_one_token_is_a_truncation(
    task: Task, first: Observation, tokenizer: BpeTokenizer, extra: int
) -> None:
    policy = TokenPolicy(tokenizer, [])
    config = ForagerConfig(max_context_tokens=len(policy_prompt(tokenizer)) + extra)
    agent = ForagerAgent(policy, tokenizer=tokenizer, profile="short", config=config)
    begin(agent, task, first)
    decision = await agent.decide()
    assert decision.stop_reason == "context_limit"
    assert policy.requests == []
    assert agent.contexts() == ()


async def test_an_observation_that_fills_the_context_truncates_and_the_record_keeps_to_the_limit(
    task: Task, first: Observation, tokenizer: BpeTokenizer
) -> None:
    eot = tokenizer.special("<|eot_id|>")
    sampled = [*tokenizer.encode(LS), eot]
    policy = TokenPolicy(tokenizer, [(sampled, "stop")])
    limit = len(policy_prompt(tokenizer)) + len(sampled) + 5
    agent = ForagerAgent(
        policy,
        tokenizer=tokenizer,
        profile="short",
        config=ForagerConfig(max_context_tokens=limit, max_action_tokens=50),
    )
    begin(agent, task, first)
    await agent.decide()
    agent.observe(Observation(text="q z " * 10, exit_code=1))
    assert (await agent.decide()).stop_reason == "context_limit"
    assert len(agent.contexts()[0].tokens) == limit - 5


async def test_a_format_error_goes_back_as_the_users_words(task: Task, first: Observation) -> None:
    seen: list[PolicyRequest] = []

    def script(request: PolicyRequest) -> str:
        seen.append(request)
        return "I would rather talk." if request.turn == 0 else LS

    agent = ForagerAgent(ScriptedPolicy(script), profile=CwmProfile(is_reasoning=False))
    begin(agent, task, first)
    decision = await agent.decide()
    assert decision.action is None
    assert decision.stop_reason == ""
    assert "no tool call found" in decision.format_error
    agent.observe(Observation(text=decision.format_error))
    assert (await agent.decide()).action == ToolCall(tool="bash", body="ls")
    assert [message.role for message in seen[1].messages] == ["system", "user", "assistant", "user"]
    assert "no tool call found" in seen[1].messages[3].content
    assert seen[0].tools == first.tools
    assert agent.contexts() == ()


async def test_reasoning_is_required_of_token_policies_only(
    task: Task, first: Observation, tokenizer: BpeTokenizer
) -> None:
    thought = f"hmm <tool: bash> not this\n</think>\n{LS}"
    for text, is_token_policy, is_action in [
        (thought, True, True),
        (LS, True, False),
        (thought, False, True),
        (LS, False, True),
    ]:
        policy = ScriptedPolicy([text], tokenizer=tokenizer if is_token_policy else None)
        agent = ForagerAgent(policy, tokenizer=tokenizer, profile="cwm")
        begin(agent, task, first)
        decision = await agent.decide()
        assert (decision.action == ToolCall(tool="bash", body="ls")) == is_action
        assert bool(decision.format_error) != is_action


async def test_cwm_dialogue_is_the_full_render(task: Task, first: Observation, tokenizer: BpeTokenizer) -> None:
    """The conversation written turn by turn has the ids of the whole one rendered at once (row 59)."""
    profile = CwmProfile(is_reasoning=False)
    agent = ForagerAgent(ScriptedPolicy([LS, LS], tokenizer=tokenizer), tokenizer=tokenizer, profile=profile)
    begin(agent, task, first)
    await agent.decide()
    agent.observe(Observation(text="a.py\n", exit_code=0, remaining_turns=5))
    await agent.decide()
    (context,) = agent.contexts()
    text = tokenizer.decode(list(context.tokens))
    budget = text.split("<budget>\n")[1].split("</budget>")[0]
    content = f"<output>\na.py\n\n</output>\n\n<budget>\n{budget}</budget>"
    system, user = profile.render_first(task, first, agent._protocol, agent._budget(agent._running(), first)).messages
    messages = [
        system,
        user,
        Message(role="assistant", content=LS),
        Message(role="tool: bash", content=content),
        Message(role="assistant", content=LS),
    ]
    whole = encode_pieces(tokenizer, [BOS, *(piece for message in messages for piece in chat_message(message))])
    assert list(context.tokens) == whole


async def test_sampling_parameters_reach_the_policy_and_the_record(
    task: Task, first: Observation, tokenizer: BpeTokenizer
) -> None:
    policy = TokenPolicy(tokenizer, [([1], "stop")] * 2)
    sampling = SamplingParams(temperature=0.7, top_p=0.9)
    agent = ForagerAgent(policy, tokenizer=tokenizer, profile="short", config=ForagerConfig(sampling=sampling))
    begin(agent, task, first, seed=5)
    decisions = [await agent.decide()]
    agent.observe(Observation(text=""))
    decisions.append(await agent.decide())
    asked = [request.sampling for request in policy.requests]
    assert [decision.sampling for decision in decisions] == asked
    assert (asked[0].temperature, asked[0].top_p) == (0.7, 0.9)
    assert asked[0].stop_token_ids == stop_token_ids(tokenizer)
    assert asked[0].seed != asked[1].seed
    assert [request.turn for request in policy.requests] == [0, 1]


async def test_an_agent_forgets_the_last_episode(task: Task, first: Observation, tokenizer: BpeTokenizer) -> None:
    agent = ForagerAgent(ScriptedPolicy([LS], tokenizer=tokenizer), tokenizer=tokenizer, profile="short")
    records = []
    for _ in range(2):
        begin(agent, task, first)
        await agent.decide()
        records.append(agent.contexts())
    assert records[0] == records[1]


async def test_an_aborted_completion_is_an_engine_failure(
    task: Task, first: Observation, tokenizer: BpeTokenizer
) -> None:
    agent = ForagerAgent(TokenPolicy(tokenizer, [([1], "abort")]), tokenizer=tokenizer, profile="short")
    begin(agent, task, first)
    with pytest.raises(PolicyError, match="aborted turn 0"):
        await agent.decide()


async def test_the_engines_own_limit_passes_through(task: Task, first: Observation) -> None:
    def script(request: PolicyRequest) -> str:
        raise PromptTooLong("900 tokens")

    agent = ForagerAgent(ScriptedPolicy(script))
    begin(agent, task, first)
    with pytest.raises(PromptTooLong):
        await agent.decide()


async def test_empty_text_is_a_format_error(task: Task, first: Observation, tokenizer: BpeTokenizer) -> None:
    policy = TokenPolicy(tokenizer, [([tokenizer.special("<|eot_id|>")], "stop"), ([], "stop")])
    agent = ForagerAgent(policy, tokenizer=tokenizer, profile=ShortProfile())
    begin(agent, task, first)
    for _ in range(2):
        assert "no tool call found" in (await agent.decide()).format_error
        agent.observe(Observation(text="no tool call found"))
    assert agent.contexts()[0].num_agent_tokens == 1


async def test_misuse_is_refused(tokenizer: BpeTokenizer) -> None:
    with pytest.raises(ConfigError, match="give ForagerAgent a tokenizer"):
        ForagerAgent(ScriptedPolicy([], tokenizer=tokenizer))
    with pytest.raises(UnknownName, match="no profile named 'shrt'; did you mean short"):
        ForagerAgent(ScriptedPolicy([]), profile="shrt")
    with pytest.raises(UnknownName, match="no action protocol named 'xml'"):
        ForagerAgent(ScriptedPolicy([]), protocol="xml")
    with pytest.raises(RuntimeError, match="begin was not called"):
        await ForagerAgent(ScriptedPolicy([])).decide()
