"""No pass of the learner is larger than is said before it, whatever the episodes of a step come to."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import composite

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import observe, open_ledger, random_image, random_module, reply
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.training.config import LearnConfig, PolicyConfig, TrainConfig, WorldConfig
from visualzoom.training.memory.episode import EpisodeSizes, count_words, episode_sizes, largest_pass
from visualzoom.training.pack import pack
from visualzoom.training.reading import Reader

MODEL = VLModel(random_module("qwen3_vl"))
MARKS, ANSWER = 2, (9, 9)


@composite
def steps(draw: st.DrawFn) -> tuple[list[TokenLedger], list[int], EpisodeSizes, LearnConfig]:
    """Groups of one or two turns, with pictures or without, within sizes that are said of them."""
    tasks, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    words, cells, most = draw(st.integers(1, 30)), draw(st.integers(1, 6)), draw(st.integers(1, 12))
    crop = draw(st.integers(1, 4))
    ledgers, groups = [], []
    for task in range(tasks):
        opened = open_ledger(random_image(task, 1, cells), *([8 + task] * words))
        for _ in range(group):
            ledger = reply(opened, [9] * draw(st.integers(1, most)))
            if draw(st.booleans()):
                ledger = reply(observe(ledger, random_image(50, 1, crop)), [9] * draw(st.integers(1, most)))
            ledgers.append(ledger)
            groups.append(task)
    prompt = cells + MARKS + words
    sizes = EpisodeSizes(
        view=cells,
        picture=max(cells, crop),
        prompt=prompt,
        replies=2 * most,
        crops=crop,
        later=MARKS,
        longest=prompt + 2 * most + crop + MARKS,
        look=crop + MARKS,
        tasks=tasks,
        group=group,
    )
    reading: Literal["shared", "plain"] = "shared" if draw(st.booleans()) else "plain"
    budget = draw(st.integers(1, 120))
    learn = LearnConfig(tasks_per_step=tasks, group_size=group, micro_batch_tokens=budget, reading=reading)
    return ledgers, groups, sizes, learn


@given(step=steps())
def test_no_pass_is_larger_than_is_said(step: tuple[list[TokenLedger], list[int], EpisodeSizes, LearnConfig]) -> None:
    ledgers, groups, sizes, learn = step
    batch = pack(ledgers, [0.0] * len(ledgers), groups)
    said = largest_pass(TrainConfig(learn=learn), sizes)
    reader = Reader(MODEL, budget_tokens=learn.micro_batch_tokens, reading=learn.reading)
    for layout in reader.passes(batch.stems):
        waiting = 0 if layout.prompt is None else batch.stems[0].num_prefix
        assert layout.placed.token_ids_BN.numel() + waiting <= said.tokens
        assert sum(span.stop - span.start for _, span in layout.placed.spans) <= said.tokens


def test_the_episodes_of_the_built_in_run_are_not_longer_than_is_said() -> None:
    from visualzoom.agents.chat import open_renderer

    renderer = open_renderer(ASSETS)
    world, policy = WorldConfig(), PolicyConfig()
    words = count_words(world, lambda text: len(renderer.tokens(text)))
    sizes = episode_sizes(TrainConfig(world=world, policy=policy), words, factor_px=28)
    assert not words.many_calls  # the dialect reads the last call
    assert sizes.view == 16 and sizes.crops == 4 and sizes.replies == 96
    assert sizes.view + words.first <= sizes.prompt <= sizes.longest <= policy.max_context_tokens


def test_a_dialect_of_many_calls_shows_as_many_pictures_as_are_allowed() -> None:
    world = WorldConfig(protocol="qwen3", max_images=6)
    words = count_words(world, None)
    assert words.many_calls
    assert episode_sizes(TrainConfig(world=world), words, factor_px=28).crops == 5 * 4
