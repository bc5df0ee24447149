"""Replies that end with the call that they make: what is sampled up to there, and parsed, stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from visualzoom.agents.chat import open_renderer
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Sampling
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.envs.parts import closing_words, open_protocol
from visualzoom.envs.protocols.protocol import PROTOCOLS
from visualzoom.envs.records import ToolCall
from visualzoom.training.assemble import OpenModel, call_end_ids, make_agent, open_model
from visualzoom.training.checks import check_train
from visualzoom.training.config import MachineConfig, PolicyConfig, TrainConfig, UsageError, WorldConfig
from visualzoom.training.world import env_maker, open_source

CALL = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [1, 2, 30, 40]})


@pytest.fixture(scope="module")
def opened() -> Iterator[OpenModel]:
    yield open_model("tiny", MachineConfig())


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"fenced-json"}))
def test_the_words_at_the_end_of_a_call_leave_it_whole(name: str) -> None:
    protocol = open_protocol(name)
    rendered, words = protocol.render_call(CALL), closing_words(protocol)
    assert words.startswith("</")
    cut = rendered[: rendered.index(words) + len(words)]
    assert protocol.parse(cut) == protocol.parse(rendered)
    assert len(protocol.parse(cut).calls) == 1


def test_a_dialect_whose_calls_end_as_they_begin_is_refused() -> None:
    with pytest.raises(UsageError, match="--stop-after-call: a call of FencedJSON has no words of its own at its end"):
        call_end_ids("fenced-json", open_renderer(ASSETS))
    with pytest.raises(UsageError, match=r"--stop-after-call: the tokenizer has no token with '</grounding>'"):
        call_end_ids("mini-o3", open_renderer(ASSETS))


def test_a_run_is_told_before_it_begins(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path / "run", world=WorldConfig(protocol="fenced-json"))
    with pytest.raises(UsageError, match="--stop-after-call"):
        check_train(replace(config, policy=PolicyConfig(stop_after_call=True)))


def test_a_reply_is_the_same_up_to_its_call(opened: OpenModel) -> None:
    ends = call_end_ids("deepeyes-v2", opened.renderer)
    world = WorldConfig()
    make_env = env_maker(world, open_source(world), onlooker=opened.renderer)
    jobs = group_jobs(range(12), group_size=4, seed=3)
    whole, cut = (
        play(
            make_agent(
                "vlm",
                opened.policy(),
                opened.renderer,
                Sampling(max_tokens=48, stop_ids=stop_ids),
                max_context_tokens=1024,
            ),
            make_env,
            jobs,
        )
        for stop_ids in ((), ends)
    )
    num_cut = 0
    for before, after in zip(whole, cut, strict=True):
        assert before.ledger is not None and after.ledger is not None
        said, stopped = _first_reply(before.ledger), _first_reply(after.ledger)
        end = next((at for at, token in enumerate(said, 1) if token in ends), len(said))
        assert stopped == said[:end]
        if end < len(said):
            num_cut += 1
            calls = [one.episode.turns[0].tool_results for one in (before, after)]
            assert calls[0] == calls[1], "the same call was made"
    assert num_cut > 5, "the model calls, and would have said more"


def _first_reply(ledger: TokenLedger) -> list[int]:
    columns = zip(ledger.token_ids, ledger.logprobs, ledger.turns, strict=True)
    return [token for token, logprob, turn in columns if logprob is not None and turn == 0]
