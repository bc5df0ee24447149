"""Laws of agents/first_look.py: what is put into an agent's mouth is its own reply from then on, and has no loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_server import FaultyServer, good

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.api_records import ServerSettings
from visualzoom.agents.chat import open_renderer
from visualzoom.agents.first_look import FirstLook
from visualzoom.agents.ledger import Author
from visualzoom.agents.model import VLModel
from visualzoom.agents.openai_agent import OpenAIAgent
from visualzoom.agents.openai_server import OpenAIServer
from visualzoom.agents.records import Sampling
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.scripted import OracleAgent, ScriptedAgent
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.envs.boxes import iou
from visualzoom.envs.zoom_env import VisualZoomEnv

ASSETS = Path(__file__).parents[2] / "agents" / "assets" / "tiny"


@pytest.fixture(scope="module")
def agent() -> Iterator[VLMAgent]:
    renderer = open_renderer(ASSETS)
    policy = TransformersPolicy(VLModel.open(ASSETS), stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
    yield VLMAgent(policy, renderer, Sampling(temperature=0.0, max_tokens=48), max_context_tokens=1024)


def test_the_agent_goes_on_after_a_look_at_the_evidence(agent: VLMAgent) -> None:
    looking = FirstLook(agent, OracleAgent(max_calls=1))
    played = play(looking, lambda: VisualZoomEnv("digit", max_turns=3), group_jobs(range(12), group_size=1, seed=0))
    for one in played:
        assert one.ledger is not None
        first = one.episode.turns[0]
        assert first.tool_results[0].executed_box is not None
        assert iou(first.tool_results[0].executed_box, one.episode.task.evidence[0]) > 0.15
        by_policy = [position for position, author in enumerate(one.ledger.authors) if author is Author.POLICY]
        assert one.ledger.num_sampled and len(one.ledger.images) == sum(len(turn.images) for turn in one.episode.turns)
        replies = agent.renderer.reply_text([one.ledger.token_ids[position] for position in by_policy])
        assert replies == "".join(turn.reply for turn in one.episode.turns[1:])
        assert {one.ledger.turns[position] for position in by_policy} == {*range(len(one.episode.turns) - 1)}
    right = sum(one.episode.answer == one.episode.task.answer for one in played)
    assert right >= 8, "it reads what it is shown, without any training"


def test_two_pieces_of_evidence_are_two_looks_and_the_last_reply_is_its_own(agent: VLMAgent) -> None:
    looking = FirstLook(agent, OracleAgent(max_calls=2), max_looks=2)
    played = play(looking, lambda: VisualZoomEnv("sign", max_turns=4), group_jobs(range(6), group_size=1, seed=0))
    for one in played:
        assert one.problem is None and one.ledger is not None and one.ledger.num_sampled
        boxes = [result.executed_box for result in one.episode.tool_results[:2]]
        assert all(
            box is not None and iou(box, truth) > 0.15
            for box, truth in zip(boxes, one.episode.task.evidence, strict=True)
        )
        own = "".join(turn.reply for turn in one.episode.turns[2:])
        by_policy = [place for place, author in enumerate(one.ledger.authors) if author is Author.POLICY]
        assert agent.renderer.reply_text([one.ledger.token_ids[place] for place in by_policy]) == own


def test_a_put_reply_reads_as_one_that_was_sampled(agent: VLMAgent) -> None:
    """The history of tokens is the same, whoever wrote them."""
    jobs = group_jobs(range(6), group_size=1, seed=0)
    forced = VLMAgent(
        agent.policy, agent.renderer, agent.sampling, max_context_tokens=1024, forced_prefix="<tool_call>"
    )
    sampled = play(forced, VisualZoomEnv, jobs)
    for job, one in zip(jobs, sampled, strict=True):
        said = one.episode.turns[0].reply
        again = FirstLook(agent, ScriptedAgent(said))
        (two,) = play(again, VisualZoomEnv, [job])
        assert two.ledger is not None and one.ledger is not None
        assert two.ledger.token_ids == one.ledger.token_ids and two.episode.answer == one.episode.answer


def test_without_evidence_nothing_is_put(agent: VLMAgent) -> None:
    task = dataclasses.replace(VisualZoomEnv().tasks.task(3), evidence=())
    jobs = group_jobs([0], group_size=1, seed=0)
    plain, looked = (
        play(one, lambda: VisualZoomEnv([task]), jobs)[0] for one in (agent, FirstLook(agent, OracleAgent()))
    )
    assert plain.episode.turns == looked.episode.turns


def test_a_model_behind_a_server_is_told_the_look_as_its_own() -> None:
    with FaultyServer(usual=good("<answer>7</answer>")) as house:
        server = OpenAIServer(ServerSettings(url=house.url, model="large"))
        agent = FirstLook(OpenAIAgent(server, Sampling(temperature=0.0)), OracleAgent(max_calls=1))
        played = play(agent, VisualZoomEnv, group_jobs(range(5), group_size=1, seed=0))
        server.close()
    assert [one.episode.num_crops for one in played] == [1] * 5
    roles = [[message["role"] for message in body["messages"]] for body in house.bodies]
    assert roles == [["system", "user", "assistant", "user"]] * 5
    assert all("<tool_call>" in body["messages"][2]["content"] for body in house.bodies)
