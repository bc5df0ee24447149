"""How many tokens an episode and a pass of the learner can have at most: pictures at their largest, replies at theirs.

With P tokens of the first prompt, C of the longest episode and G siblings, a group is P + G (C - P) tokens for the
shared reading and G C for the plain one. The words of the prompt are counted with the model's tokenizer where it is at
hand, and as four characters each where not. Law: no episode of the configured world is longer than is said here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visualzoom.agents.pool import parts_of
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.protocols.protocol import MAX_CALLS, WordProtocol
from visualzoom.envs.records import ToolCall
from visualzoom.training.config import TrainConfig, WorldConfig
from visualzoom.training.layout_tree import Row
from visualzoom.training.world import env_maker, open_source

CHARACTERS_PER_TOKEN = 4
SLACK_TOKENS = 64
"""Allowed for questions longer than that of the first task, and for the role tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Tokens of what the environment says."""

    first: int
    """System prompt and question."""
    later: int
    """What follows each reply."""
    many_calls: bool
    """Whether the dialect reads more than one call of a reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeSizes:
    """Tokens of one episode at its longest, and how many there are."""

    view: int
    """Of the first picture."""
    picture: int
    """Of the largest picture."""
    prompt: int
    """Before the first reply, the first picture too."""
    replies: int
    """Sampled."""
    longest: int
    """The whole episode."""
    crops: int
    """Of all later pictures."""
    later: int
    """Of the words between replies."""
    look: int
    """What one turn adds to read: its pictures and its words."""
    tasks: int
    group: int

    @property
    def tail(self) -> int:
        """After the prompt."""
        return self.longest - self.prompt

    @property
    def num_episodes(self) -> int:
        return self.tasks * self.group


@dataclass(frozen=True, kw_only=True, slots=True)
class PassSizes:
    """Tokens of the learner's largest pass, with what must stay alive for it."""

    tokens: int
    """Places that go through the model, those of a prompt that was read before and waits for its gradient too."""
    keys: int
    """Places whose keys and values are held for attention; copies of a prompt count each."""
    mask: int
    """Elements of the attention mask."""
    actions: int
    """Tokens whose probability is wanted."""
    image_tokens: int
    picture: int
    """Tokens of the largest picture."""


def count_words(world: WorldConfig, count_tokens: Callable[[str], int] | None) -> Words:
    """Of the first task.

    Args:
        world: Its environment is made, and reset once.
        count_tokens: How many tokens a text has; None if no tokenizer is at hand.
    """
    count = count_tokens or (lambda text: len(text) // CHARACTERS_PER_TOKEN)
    env = env_maker(world, open_source(world, quiet=True))()
    try:
        observation, info = env.reset(seed=0, options={"task": 0})
        text, _ = parts_of(observation)
    finally:
        env.close()
    return Words(
        first=count(str(info.get("system", ""))) + count(text),
        later=count(text),
        many_calls=_reads_many(open_protocol(world.protocol)),
    )


def _reads_many(protocol: WordProtocol) -> bool:
    call = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [0, 0, 9, 9]})
    try:
        return len(protocol.parse(protocol.render_call(call) * 2).calls) > 1
    except ValueError:  # a dialect that can't say this call
        return True


def episode_sizes(config: TrainConfig, words: Words, *, factor_px: int) -> EpisodeSizes:
    """Of the world of this config.

    Args:
        config: The run.
        words: Of its episodes.
        factor_px: Side of the square of pixels behind one image token.
    """
    world, policy = config.world, config.policy
    view, crop = (most_px // factor_px**2 for most_px in (world.view_max_px, world.crop_max_px))
    prompt = min(view + words.first + SLACK_TOKENS, policy.max_context_tokens)
    replies, looks = policy.max_tokens * world.max_turns, world.max_turns - 1
    each = MAX_CALLS if words.many_calls else 1
    crops = min(world.max_images - 1, looks * each)
    later = looks * (words.later + SLACK_TOKENS)
    longest = min(prompt + replies + later + crops * crop, policy.max_context_tokens)
    return EpisodeSizes(
        view=view,
        picture=max(view, crop),
        prompt=prompt,
        replies=min(replies, longest - prompt),
        crops=min(crops * crop, longest - prompt),
        later=min(later, longest - prompt),
        longest=longest,
        look=min(each, crops) * crop + words.later + SLACK_TOKENS,
        tasks=config.learn.tasks_per_step,
        group=config.learn.group_size,
    )


def largest_pass(config: TrainConfig, sizes: EpisodeSizes) -> PassSizes:
    """The largest that reading.py makes of a step: of episodes at their longest, and full to the brim of its budget."""
    budget = config.learn.micro_batch_tokens
    if config.learn.reading == "plain":
        rows = min(max(1, budget // sizes.longest), sizes.num_episodes)
        most = min(max(budget, sizes.longest), sizes.num_episodes * sizes.longest)
        return _full(sizes, most, tokens=rows * sizes.longest, keys=rows * sizes.longest, mask=0, tails=rows)
    group = sizes.prompt + sizes.group * sizes.tail
    if group <= budget:  # whole groups, as many as fit
        stems = min(sizes.tasks, budget // group)
        tails, most = stems * sizes.group, min(budget, sizes.tasks * group)
    else:  # the prompt waits for its gradient while its tails are read
        stems, tails = 1, min(max(1, budget // sizes.tail), sizes.group)
        most = sizes.prompt + min(max(budget, sizes.tail), sizes.group * sizes.tail)
    each = tails // stems
    row = Row.of(np.full(stems, sizes.prompt), np.full(tails, sizes.tail), np.repeat(np.arange(stems), each))
    long_stems = len(row.long_stems())  # a long prompt stands before all of its tails, a short one before each of them
    short_tails = (stems - long_stems) * each
    seen = short_tails * sizes.tail * sizes.longest
    seen += long_stems * each * sizes.tail * (sizes.prompt + each * sizes.tail)
    keys = (stems + short_tails + long_stems) * sizes.prompt + tails * sizes.tail
    return _full(sizes, most, tokens=row.num_tokens, keys=keys, mask=seen, tails=tails)


def _full(sizes: EpisodeSizes, most_tokens: int, *, tokens: int, keys: int, mask: int, tails: int) -> PassSizes:
    """The pass of this many tails at their longest, brought to the most tokens that shorter ones can fill it with."""
    fill = max(1.0, most_tokens / tokens)
    return PassSizes(
        tokens=round(fill * tokens),
        keys=round(fill * keys),
        mask=round(fill * mask),
        actions=round(fill * tails * sizes.replies),
        image_tokens=min(round(fill * tokens), round(_image_share(sizes) * fill * tokens)),
        picture=sizes.picture,
    )


def _image_share(sizes: EpisodeSizes) -> float:
    """Of the tokens of a group whose replies are empty: no group has a larger one."""
    images = sizes.view + sizes.group * sizes.crops
    return images / (sizes.prompt + sizes.group * (sizes.crops + sizes.later))
