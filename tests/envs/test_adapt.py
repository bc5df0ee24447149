"""Worlds of others in words: any text is a step, the world is stepped as it asks to be, and pays what it pays alone."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs import Episode, Observation, StopReason, ViewRule
from visualzoom.envs.foreign.adapt import IMPOSSIBLE, UNREADABLE, AdaptedEnv, adapt
from visualzoom.envs.foreign.show_parse import BadReply, Choices, ShowRender, ShowText, World
from visualzoom.envs.testing import check_environment
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.zoom_env import Step

OUTSIDE = [reason for reason in StopReason if not reason.terminated]
NEVER = 10**9
ENTRY = "visualzoom.envs.foreign.adapt:AdaptedEnv"


class Walk(gymnasium.Env[Any, Any]):
    """A walk to -3 or 3 with a wind; pays by chance, and minds what is done to it."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    observation_space = spaces.Discrete(7, start=-3)
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, *, windy: bool = True, patience: int = 6, render_mode: str | None = None) -> None:
        self.windy, self.patience, self.render_mode = windy, patience, render_mode
        self.is_over, self.num_steps, self.place = True, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.is_over, self.num_steps = False, 0
        self.place = int(self.np_random.integers(-1, 2)) if options is None else options["place"]
        return self.place, {"left": np.int64(self.patience), "map": np.zeros(3)}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert not self.is_over, "stepped after its end"
        assert action in self.action_space, "an action that is none"
        self.num_steps += 1
        wind = int(self.np_random.integers(-1, 2)) if self.windy else 0
        self.place = max(-3, min(3, self.place + action + wind))
        at_end, out_of_patience = abs(self.place) == 3, self.num_steps == self.patience
        self.is_over = at_end or out_of_patience
        return self.place, float(self.np_random.normal()), at_end, out_of_patience, {"left": 0}

    def render(self) -> Any:
        return None if self.render_mode is None else np.full((30, 60, 3), self.place + 3, dtype=np.uint8)


def show(observation: int, info: Mapping[str, Any], world: World) -> Observation:
    return {"text": f"at {observation}", "images": (np.full((10, 20, 3), observation + 3, dtype=np.uint8),)}


def make_env(**changes: Any) -> AdaptedEnv:
    given: dict[str, Any] = {"env": Walk, "show": show, "parse": int, "max_turns": NEVER, "max_bad_replies": NEVER}
    return adapt(**(given | changes))


def walk_spec() -> EnvSpec:
    return EnvSpec("Walk-v0", entry_point=ENTRY, kwargs={"env": Walk, "show": show, "parse": int})


def patience_of(index: int) -> dict[str, int]:
    return {"patience": 1 + index}


def play(env: gymnasium.Env[Any, str], replies: Sequence[str], **reset: Any) -> list[Any]:
    """Everything that an episode shows and gives, in comparable form."""
    observation, info = env.reset(**reset)
    seen: list[Any] = [observation["text"], [image.tobytes() for image in observation["images"]], info]
    for reply in replies:
        observation, *rest = env.step(reply)
        seen += [observation["text"], [image.tobytes() for image in observation["images"]], *rest]
        if rest[1] or rest[2]:
            break
    return seen


def steps_of(env: AdaptedEnv, replies: Sequence[str], *, task: int = 0) -> list[Step]:
    """The steps up to the end."""
    env.reset(options={"task": task})
    steps: list[Step] = []
    for reply in replies:
        steps.append(env.step(reply))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def said(step: Step) -> tuple[str, bool, bool]:
    return step[4]["stop_reason"], step[2], step[3]


moves = st.sampled_from(["-1", "0", "1", " 1 "])
replies_of_models = st.lists(moves | vz.texts | st.sampled_from(["2", "9" * 5000, "nan", "", "1e3"]), max_size=20)


@given(replies=replies_of_models, task=st.integers(0, 5), max_bad=st.integers(1, 4), max_turns=st.integers(1, 9))
def test_any_text_gives_a_step_until_the_one_end(replies: list[str], task: int, max_bad: int, max_turns: int) -> None:
    env = make_env(max_bad_replies=max_bad, max_turns=max_turns, bad_reply_reward=-0.25)
    steps = steps_of(env, replies, task=task)
    for number, (observation, reward, terminated, truncated, info) in enumerate(steps, start=1):
        assert observation in env.observation_space
        assert math.isfinite(reward)
        assert (terminated or truncated) == (number == len(steps) and "stop_reason" in info)
        assert not (terminated and truncated)
    if not steps or "stop_reason" not in steps[-1][4]:
        return
    record = steps[-1][4]["record"]
    assert isinstance(record, Episode) and record.reward is not None
    assert [turn.reply for turn in record.turns] == [_whole(reply) for reply in replies[: len(steps)]]
    assert record.reward.total == pytest.approx(sum(step[1] for step in steps))
    assert record.reward.total == sum(record.reward.parts.values())
    assert record.task == env.task
    assert record.stop_reason.terminated == steps[-1][2]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("0")


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


@given(replies=replies_of_models, task=st.integers(0, 5))
def test_it_pays_and_ends_as_the_world_does_alone(replies: list[str], task: int) -> None:
    env = make_env()
    alone = Walk()
    place, _ = alone.reset(seed=task)
    assert env.reset(options={"task": task})[0]["text"] == f"at {place}"
    for reply, step in zip(replies, steps_of(env, replies, task=task), strict=False):
        if "bad_reply" in step[4]:
            assert step[1:4] == (0.0, False, False)
            continue
        place, paid, at_end, out_of_patience, _ = alone.step(int(reply))
        assert step[1:4] == (paid, at_end, out_of_patience and not at_end)
        assert step[0]["text"] == ("" if at_end or out_of_patience else f"at {place}")


@given(replies=replies_of_models, seed=st.integers(0, 3), before=replies_of_models)
def test_the_same_seed_is_the_same_episode_also_in_a_used_environment(
    replies: list[str], seed: int, before: list[str]
) -> None:
    used = make_env(per_task=patience_of, max_turns=9)
    play(used, before, seed=7)
    assert play(used, replies, seed=seed) == play(make_env(per_task=patience_of, max_turns=9), replies, seed=seed)


@given(task=st.integers(0, 2**31 + 500), seeds=st.lists(st.integers(0, 2**62), min_size=2, max_size=2))
def test_siblings_play_one_world(task: int, seeds: list[int]) -> None:
    one, other = (play(make_env(), ["1"] * 6, seed=seed, options={"task": task}) for seed in seeds)
    assert one == other


def test_tasks_differ() -> None:
    assert len({repr(play(make_env(), ["1"] * 6, options={"task": task})) for task in range(20)}) == 20


@pytest.mark.parametrize("task", [0, 4, 1])
def test_a_world_is_made_for_each_task(task: int) -> None:
    env = make_env(env=functools.partial(Walk, windy=False), per_task=patience_of)
    env.reset(options={"task": 2})
    assert len(steps_of(env, ["0"] * 9, task=task)) == 1 + task


def test_other_options_go_to_the_world() -> None:
    assert make_env().reset(options={"task": 1, "place": 2})[0]["text"] == "at 2"


def test_a_bad_reply_is_a_turn_and_a_message_and_no_step_of_the_world() -> None:
    env = make_env(parse=Choices(("back", "stay", "on"), first=-1), bad_reply_reward=-0.5)
    env.reset(options={"task": 0})
    observation, reward, terminated, truncated, info = env.step("sideways")
    assert dict(observation) == {"text": "Answer with one of these: back, stay, on.", "images": ()}
    assert (reward, terminated, truncated, info) == (-0.5, False, False, {"bad_reply": observation["text"]})
    assert env.world.unwrapped.num_steps == 0  # type: ignore[attr-defined]
    assert env.step("<answer>stay</answer>")[0]["text"].startswith("at")


@pytest.mark.parametrize(("reply", "message"), [("left", UNREADABLE), ("5", IMPOSSIBLE)])
def test_the_words_of_a_library_are_not_shown(reply: str, message: str) -> None:
    env = make_env()
    env.reset(seed=0)
    assert env.step(reply)[0]["text"] == message


def test_half_of_a_surrogate_pair_is_recorded_as_a_question_mark() -> None:
    record = steps_of(make_env(parse=str, env=Walk, max_bad_replies=1), ["1\ud800"])[-1][4]["record"]
    assert (record.stop_reason, record.turns[0].reply) == (StopReason.MALFORMED, "1?")


def test_a_defect_of_parse_is_no_bad_reply() -> None:
    env = make_env(parse=lambda reply: reply.number)  # the defect
    env.reset(seed=0)
    with pytest.raises(AttributeError):
        env.step("2")


def test_a_world_that_is_made_already_is_refused() -> None:
    with pytest.raises(TypeError, match="give a Gymnasium id, or what makes a world"):
        make_env(env=gymnasium.make("CartPole-v1"))


def test_a_word_that_a_table_of_words_does_not_know_is_a_bad_reply() -> None:
    env = make_env(parse={"1": 1}.__getitem__)
    env.reset(seed=0)
    observation, *_, info = env.step("2")
    assert info["bad_reply"] == observation["text"] and "'2'" not in observation["text"]


@pytest.mark.parametrize(
    ("changes", "reason", "num_steps"),
    [
        ({"max_bad_replies": 3}, "malformed", 3),
        ({"max_turns": 2}, "max_turns", 2),
        ({"max_characters": 1}, "max_characters", 1),
    ],
)
def test_bad_replies_end_the_episode(changes: dict[str, Any], reason: str, num_steps: int) -> None:
    steps = steps_of(make_env(**changes), ["??"] * 9)
    assert len(steps) == num_steps
    assert said(steps[-1]) == (reason, reason == "malformed", reason != "malformed")
    assert [result.error for result in steps[-1][4]["record"].tool_results] == ["bad_reply"] * num_steps


@given(num_bad=st.integers(0, 3), cut=st.sampled_from(["max_tokens", "max_characters", None]))
def test_to_be_cut_off_is_never_cheaper_than_to_go_on(num_bad: int, cut: str | None) -> None:
    env = make_env(max_bad_replies=4, max_characters=9, bad_reply_reward=-0.5)
    steps_of(env, ["?"] * num_bad)
    end = {"max_tokens": lambda: env.stop("max_tokens", "long"), "max_characters": lambda: env.step("?" * 10)}
    step = end[cut]() if cut else [env.step("?") for _ in range(4 - num_bad)][-1]
    assert step[4]["reward_parts"] == {"environment": 0.0, "bad_replies": -2.0}


@pytest.mark.parametrize("reason", OUTSIDE)
def test_it_can_be_stopped_from_outside(reason: StopReason) -> None:
    env = make_env()
    paid = steps_of(env, ["0"])[0][1]
    step = env.stop(reason, "half a rep")
    assert said(step) == (reason.value, False, True)
    assert step[4]["record"].turns[-1].reply == "half a rep"
    assert step[1] == 0
    assert _total(step[4]["record"]) == (None if reason.failed else paid)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.stop(reason)


def _total(record: Episode) -> float | None:
    return None if record.reward is None else record.reward.total


@pytest.mark.parametrize("reason", ["answered", "malformed", "max_turn"])
def test_only_a_truncation_stops_it(reason: str) -> None:
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="max_turns"):
        env.stop(reason)


def test_the_record_tells_what_was_shown() -> None:
    env = make_env(system="Walk.", view=ViewRule(factor_px=10, min_px=200, max_px=200))
    observation, info = env.reset(options={"task": 3})
    assert info == {"system": "Walk.", "world": {"left": 6}}
    assert [image.shape for image in observation["images"]] == [(10, 20, 3)]
    assert not observation["images"][0].flags.writeable
    assert (env.task.id, env.task.family, env.task.question) == ("Walk-3", "Walk", observation["text"])
    record = steps_of(env, ["0"] * 9, task=3)[-1][4]["record"]
    assert record.system == "Walk."
    assert (record.turns[0].text, record.turns[0].images[0].width_px) == (observation["text"], 20)
    assert np.array_equal(record.task.pictures[0].pixels(), observation["images"][0])


def test_what_the_world_answers_to_is_the_answer() -> None:
    env = make_env(env=functools.partial(Walk, windy=False, patience=99))
    record = steps_of(env, ["1"] * 9)[-1][4]["record"]
    assert (record.stop_reason, record.answer) == (StopReason.ANSWERED, "1")
    assert steps_of(env, ["0"] * 99)[-1][4]["record"].answer is None


def test_words_alone_will_do() -> None:
    env = make_env(env="Blackjack-v1", show=ShowText("{0[0]} against {0[1]}"), parse=Choices(("stick", "hit")))
    observation, _ = env.reset(seed=1)
    assert (observation["images"], observation["text"].count(" against ")) == ((), 1)
    steps = steps_of(env, ["hit"] * 30)
    assert steps[-1][1] in (-1.0, 0.0)
    assert steps[-1][4]["record"].task.pictures[0].width_px == 28


def test_a_world_that_draws_itself_is_shown_as_a_picture() -> None:
    env = make_env(show=ShowRender("{left} left"), render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    assert observation["text"] == "6 left"
    assert [image.shape for image in observation["images"]] == [(112, 112, 3)]
    assert np.array_equal(env.render(), env.world.render())  # type: ignore[arg-type]
    assert (env.render_mode, env.metadata) == ("rgb_array", Walk.metadata)
    with pytest.raises(TypeError, match="rgb_array"):
        make_env(show=ShowRender()).reset(seed=0)


@given(reply=vz.texts | st.sampled_from(["<answer> ON</answer>", "so: <answer>no</answer> <answer>on</answer>.", "on"]))
def test_choices_are_total(reply: str) -> None:
    try:
        assert Choices(("no", "on"))(reply) in (0, 1)
    except BadReply as problem:
        assert str(problem) == "Answer with one of these: no, on."


@pytest.mark.parametrize(
    "reply", ["on", "\n On ", "<answer>on</answer>", "no <answer>no</answer> <answer>oN </answer> o"]
)
def test_a_choice_is_the_last_answer_or_all_there_is(reply: str) -> None:
    assert Choices(("no", "on"), first=-1)(reply) == 0


@pytest.mark.parametrize(
    ("changes", "problem", "words"),
    [
        ({"env": "FrozenLak-v1"}, gymnasium.error.NameNotFound, "FrozenLake"),
        ({"show": "nowhere:show"}, LookupError, "nowhere"),
        ({"parse": 7}, LookupError, "parse"),
        ({"max_turns": 0}, ValueError, "max_turns is 0"),
        ({"max_bad_replies": 0}, ValueError, "max_bad_replies is 0"),
        ({"bad_reply_reward": 0.1}, ValueError, "0 or less"),
        ({"bad_reply_reward": math.nan}, ValueError, "0 or less"),
    ],
)
def test_what_can_not_be_is_refused_when_it_is_made(
    changes: dict[str, Any], problem: type[Exception], words: str
) -> None:
    with pytest.raises(problem, match=words):
        make_env(**changes)


@pytest.mark.parametrize("task", [-1, True, "3", 1.0])
def test_a_task_is_an_index(task: object) -> None:
    with pytest.raises(ValueError, match="index"):
        make_env().reset(options={"task": task})


def test_gymnasiums_checker_is_content() -> None:
    check_env(gymnasium.make(walk_spec(), render_mode="rgb_array", max_turns=9).unwrapped)


def test_the_kit_finds_nothing() -> None:
    make = functools.partial(make_env, max_turns=4, max_bad_replies=2, bad_reply_reward=-0.1)
    check_environment(make, actions=moves | vz.texts, max_examples=20)


def test_a_registered_world_has_a_spec_of_plain_json_and_pickles() -> None:
    names = {name: f"frozen_lake:{name}" for name in ("show", "parse")}
    kwargs = {"env": "FrozenLake-v1", "per_task": "frozen_lake:lake", **names}
    spec = EnvSpec("Lake-v0", entry_point=ENTRY, kwargs=kwargs)
    made = [gymnasium.make(spec), gymnasium.make(EnvSpec.from_json(spec.to_json()))]
    made.append(pickle.loads(pickle.dumps(made[0])))
    first, second, third = (play(env, ["6", "2", "?"], seed=3) for env in made)
    assert first == second == third


@pytest.mark.parametrize(("mode", "options"), [("sync", {}), ("async", {"shared_memory": False})])
def test_a_vector_plays_as_each_alone(mode: str, options: dict[str, Any]) -> None:
    vector = gymnasium.make_vec(walk_spec(), num_envs=2, vectorization_mode=mode, vector_kwargs=options)
    try:
        shown, _ = vector.reset(seed=[4, 5])  # type: ignore[arg-type]  # Gymnasium takes lists, and says so nowhere
        alone = [make_env() for _ in range(2)]
        assert shown["text"] == tuple(env.reset(seed=seed)[0]["text"] for env, seed in zip(alone, [4, 5], strict=True))
        rewards = vector.step(("1", "?"))[1]
        assert rewards.tolist() == [alone[0].step("1")[1], 0.0]
    finally:
        vector.close()
