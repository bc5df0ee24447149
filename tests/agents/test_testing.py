"""The laws of agents bite: each planted defect is found by its law, and the house's own agents keep them all."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from visualzoom.agents import (
    Agent,
    AgentTurn,
    Completion,
    FinishReason,
    FunctionAgent,
    GenerateRequest,
    OracleAgent,
    RandomAgent,
    Reply,
    Sampling,
    ScriptedAgent,
    TokenLedger,
    VLMAgent,
    open_renderer,
)
from visualzoom.agents import testing as law
from visualzoom.agents.model import VLModel
from visualzoom.agents.testing import agent_parts, check_agent, report_agent
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.envs import StopReason, VisualZoomEnv
from visualzoom.envs.testing import Effort, Law, call_text, first_breach, make_tasks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
ZOOM, ANSWER = call_text(1, 2, 60, 70), "<answer>1</answer>"


def make_env() -> VisualZoomEnv:
    return VisualZoomEnv(tasks=make_tasks(3), max_turns=3)


class Good(ScriptedAgent):
    """Zooms, then answers."""

    def __init__(self) -> None:
        super().__init__(ZOOM, ANSWER)


class Raises(Good):
    """Knows no second turn."""

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return [{0: Reply(text=ZOOM)}[turn.turn] for turn in turns]


class SkipsOne(Good):
    """Replies to the first only."""

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return super().act(turns)[:1]


class Sorts(FunctionAgent):
    """Replies in the order of what it says."""

    def __init__(self) -> None:
        super().__init__(lambda turn: f"<answer>{turn.text[-40:-30]}{turn.seed}</answer>")

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return sorted(super().act(turns), key=lambda reply: reply.text)


class StopsAsAnswered(Good):
    """Claims an end that is the environment's own."""

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return [Reply(text="", stop=StopReason.ANSWERED) for _ in turns]


class SaysNothing(FunctionAgent):
    """A failure of its server is an empty reply."""

    def __init__(self) -> None:
        super().__init__(lambda turn: "")


class GlobalChance(FunctionAgent):
    """Its chance is the process's."""

    def __init__(self) -> None:
        super().__init__(lambda turn: f"<answer>{random.randrange(10**9)}</answer>")


class SharedChance(FunctionAgent):
    """One generator for all episodes."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        super().__init__(lambda turn: f"<answer>{rng.integers(10**9)}</answer>")


class Draws(Good):
    """Draws on the image that it was shown."""

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        for turn in turns:
            for image in turn.images:
                image[0, 0] ^= 255
        return super().act(turns)


class Keeps(Good):
    """Counts the turns of an episode and never forgets one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        replies = []
        for turn in turns:
            self.counts[turn.episode_id] = self.counts.get(turn.episode_id, 0) + 1
            replies.append(Reply(text=ZOOM if self.counts[turn.episode_id] == 1 else ANSWER))
        return replies


TINY = Path(law.__file__).with_name("assets") / "tiny"
RENDERER = open_renderer(TINY)


class Scripted:
    """A policy that zooms at first and answers then, token by token."""

    version = 0

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        return [self.completion(ANSWER if request.ledger.turns[-1] else ZOOM) for request in requests]

    def completion(self, text: str) -> Completion:
        token_ids = (*RENDERER.tokens(text), min(RENDERER.stop_ids))
        num = len(token_ids)
        return Completion(
            token_ids=token_ids, logprobs=(-0.5,) * num, policy_versions=(0,) * num, finish_reason=FinishReason.STOP
        )

    def release(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""


@functools.cache
def tiny_model() -> VLModel:
    return VLModel.open(TINY)


def tiny_agent() -> VLMAgent:
    policy = TransformersPolicy(tiny_model(), stop_ids=RENDERER.stop_ids, banned_ids=RENDERER.banned_ids)
    return VLMAgent(policy, RENDERER, Sampling(max_tokens=24), max_context_tokens=1024)


class WithLedger(VLMAgent):
    """A good one."""

    def __init__(self) -> None:
        super().__init__(Scripted(), RENDERER, Sampling(max_tokens=100), max_context_tokens=4096)


class Rewrites(WithLedger):
    """Hands out a ledger without the last reply."""

    def finish(self, episode_id: str) -> TokenLedger | None:
        ledger = super().finish(episode_id)
        if ledger is None:
            return None
        kept = slice(0, len(ledger.token_ids) - ledger.authors[::-1].index(0))  # the prompt alone
        return TokenLedger(
            token_ids=ledger.token_ids[kept],
            authors=ledger.authors[kept],
            logprobs=ledger.logprobs[kept],
            turns=ledger.turns[kept],
            policy_versions=ledger.policy_versions[kept],
            image_spans=ledger.image_spans[:1],
        )


class Reencodes(WithLedger):
    """The first prompt token of a long episode is another one than that of a short one."""

    def finish(self, episode_id: str) -> TokenLedger | None:
        ledger = super().finish(episode_id)
        if ledger is None or ledger.turns[-1] == 0:
            return ledger
        return dataclasses.replace(ledger, token_ids=(ledger.token_ids[0] + 1, *ledger.token_ids[1:]))


EXHIBITS: dict[str, tuple[Callable[[], Agent], Law]] = {
    "an agent raises on a later turn": (Raises, law.ACTS),
    "a turn gets no reply": (SkipsOne, law.ONE_REPLY),
    "replies in another order": (Sorts, law.ALONE),
    "an agent ends an episode as answered": (StopsAsAnswered, law.KNOWN_STOP),
    "a failure is an empty reply": (SaysNothing, law.SPOKEN),
    "an agent draws from global chance": (GlobalChance, law.SAME_REPLY),
    "one generator for all episodes": (SharedChance, law.ALONE),
    "an agent draws on the image": (Draws, law.UNTOUCHED),
    "a finished episode is kept": (Keeps, law.RELEASED),
    "a ledger without the replies": (Rewrites, law.LEDGER),
    "history is encoded anew": (Reencodes, law.APPEND_ONLY),
}


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_law_finds_the_defect(name: str) -> None:
    make_agent, broken = EXHIBITS[name]
    error = first_breach(agent_parts(make_agent, make_env), broken, Effort(max_examples=20))
    assert error is not None
    assert broken.text in str(error)
    assert row(name) in PAGE.read_text(encoding="utf-8"), f"docs/testing.md wants the row {row(name)}"


def test_every_law_has_its_defect() -> None:
    assert {broken for _, broken in EXHIBITS.values()} == set(law.AGENT_LAWS)


def test_every_law_is_put_to_the_test() -> None:
    report = report_agent(WithLedger, make_env, Effort(max_examples=3))
    assert [row.law.name for row in report.rows if not row.tried] == []


@pytest.mark.parametrize("make_agent", [Good, RandomAgent, OracleAgent, WithLedger])
def test_agents_without_a_model_keep_the_laws(make_agent: Callable[[], Agent]) -> None:
    check_agent(make_agent, make_env, max_examples=8)


def test_an_agent_with_a_model_keeps_the_laws() -> None:
    report = report_agent(tiny_agent, effort=Effort(max_examples=3))
    assert [str(error) for error in report.errors] == []


def row(name: str) -> str:
    return f"| {name} | {EXHIBITS[name][1].name} |"


if __name__ == "__main__":
    print("\n".join(map(row, EXHIBITS)))  # noqa: T201
