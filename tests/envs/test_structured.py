"""Actions with structure: each is one reply, and an episode played with them is the one played with the texts."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st
from own_environment import WhichHalf

from visualzoom.envs import PROTOCOLS, Episode, VisualZoomEnv, function_schema
from visualzoom.envs.records import ToolCall
from visualzoom.envs.testing import make_tasks
from visualzoom.envs.tools.arguments import typed
from visualzoom.envs.tools.sight import Outcome, Sight
from visualzoom.envs.wrappers.argument_spaces import Choice, Maybe, Ranges, arguments_space, element, plain
from visualzoom.envs.wrappers.structured import StructuredActions

ID = "visualzoom.envs:VisualZoom-v0"
SEEDS = st.integers(0, 2**31 - 1)
UNREADABLE = {"bad_json", "unknown_tool", "bad_arguments", "non_finite"}
TOOLS_OF = dict.fromkeys(PROTOCOLS, ("zoom-choose-image", "image_rotate_tool")) | {"mini-o3": ("zoom-choose-image",)}
"""What each dialect has words for."""


class Spot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    x: float
    y: Annotated[int, msgspec.Meta(ge=-5, le=5)] = 0


class EveryKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    box: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]
    spot: Spot
    word: Annotated[str, msgspec.Meta(min_length=1, max_length=5)]
    way: Literal["left", "right"]
    turn: Literal[90, 180]
    sure: bool
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    above: Annotated[int, msgspec.Meta(ge=100)]
    below: Annotated[int, msgspec.Meta(le=-100)]
    must: int | None
    pair: tuple[int, str]
    names: list[str] = []
    note: str | msgspec.UnsetType = msgspec.UNSET
    near: Spot | None = None


class Everything:
    """A tool with an argument of every kind; it says what it was given."""

    name = "everything"
    arguments = EveryKind

    def schema(self) -> Mapping[str, object]:
        return function_schema(self.name, "Anything.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, EveryKind)
        return Outcome(error="empty_box", message="Nothing is shown.")


def everything_space() -> spaces.Dict[Any]:
    return arguments_space(Everything().schema(), Ranges())


def make_env(**settings: Any) -> StructuredActions:
    given_settings: dict[str, Any] = {"tasks": make_tasks(), "max_turns": 3}
    return StructuredActions(VisualZoomEnv(**(given_settings | settings)))


def errors(step: tuple[Any, ...]) -> set[str]:
    return {result["error"] for result in step[4]["tool_results"]} - {None}


def equal(one: Any, other: Any) -> bool:
    return data_equivalence(one, other, exact=True)


@given(SEEDS)
def test_every_element_fits_the_schema_and_comes_back(seed: int) -> None:
    space = everything_space()
    space.seed(seed)
    sample: Any = space.sample()
    assert sample in space
    values = json.loads(json.dumps(plain(space, sample)))
    assert isinstance(typed(values, EveryKind), EveryKind)
    again = element(space, values)
    assert again in space
    assert plain(space, again) == values


@given(SEEDS)
def test_json_and_back_is_the_identity(seed: int) -> None:
    space = everything_space()
    space.seed(seed)
    samples: list[Any] = [space.sample() for _ in range(3)]
    back: list[Any] = space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples))))
    assert all(sample in space for sample in back)
    assert [plain(space, one) for one in back] == [plain(space, one) for one in samples]


@given(SEEDS)
def test_the_same_seed_gives_the_same_arguments(seed: int) -> None:
    drawn = []
    for _ in range(2):
        space = everything_space()
        space.seed(seed)
        drawn.append([plain(space, space.sample()) for _ in range(3)])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "space", [Choice(["a", 1, True, None]), Maybe(Choice([1])), Maybe(spaces.Discrete(3), as_null=True)]
)
def test_a_space_survives_pickling_and_is_written_as_it_is_made(space: Any) -> None:
    assert pickle.loads(pickle.dumps(space)) == space == copy.deepcopy(space)
    assert eval(repr(space), {"Choice": Choice, "Maybe": Maybe, "Discrete": spaces.Discrete}) == space
    assert not space.is_np_flattenable


def test_a_choice_is_strict_about_types() -> None:
    assert 1 in Choice([1])
    assert True not in Choice([1])
    assert Choice([1]) != Choice([True])
    with pytest.raises(ValueError, match="at least one"):
        Choice([])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "a+"},
        {"type": "number", "multipleOf": 2},
        {"type": "array", "items": {"type": "number"}, "maxItems": 3},
        {"anyOf": [{"type": "string"}, {"type": "number"}]},
        {"type": ["string", "null"]},
        {"type": "object", "properties": {"inner": {}}},
        {"$ref": "#/$defs/Self"},
    ],
)
def test_what_no_space_stands_for_is_refused_by_name(schema: dict[str, object]) -> None:
    parameters = {"properties": {"part": schema}, "$defs": {"Self": {"$ref": "#/$defs/Self"}}}
    with pytest.raises(ValueError, match=r"no space stands for the argument 'part.*arguments=\{tool name"):
        arguments_space({"function": {"parameters": parameters}}, Ranges())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(seed=SEEDS)
def test_every_action_is_read_as_just_that(protocol: str, seed: int) -> None:
    env = make_env(protocol=protocol, tools=TOOLS_OF[protocol])
    env.reset(seed=seed)
    env.action_space.seed(seed)
    action: Any = env.action_space.sample()
    assert action in env.action_space
    step = env.step(action)
    end = step if step[2] else env.step(env.answer("2"))
    record = cast(Episode, end[4]["record"])
    assert record.turns[0].reply == env.action(action)
    if action[0] == 0:
        assert record.answer == action[1]
    else:
        assert not errors(step) & UNREADABLE
        assert [result.name for result in record.turns[0].tool_results] == [action[1]["tool"]]


def test_an_argument_of_every_kind_reaches_the_tool() -> None:
    env = make_env(tools=[Everything()])
    for seed in range(20):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        action: Any = env.action_space.sample()
        if action[0] == 1:
            assert errors(env.step(action)) == {"empty_box"}


@given(SEEDS, st.lists(st.tuples(*[st.floats(-50, 200)] * 4), max_size=3))
def test_an_episode_of_actions_equals_that_of_texts(seed: int, boxes: list[tuple[float, ...]]) -> None:
    acting = make_env(max_turns=9)
    world = VisualZoomEnv(tasks=make_tasks(), max_turns=9)
    steps: list[tuple[Any, Any]] = [(acting.reset(seed=seed), world.reset(seed=seed))]
    for box in boxes:
        text = world.protocol.render_call(ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": list(box)}))
        steps.append((acting.step(acting.call("image_zoom_in_tool", bbox_2d=box)), world.step(text)))
    steps.append((acting.step(acting.answer("2")), world.step("<answer>2</answer>")))
    assert all(equal(one, other) for one, other in steps)


def test_a_call_is_an_element_and_leaves_out_what_is_not_given() -> None:
    env = make_env()
    call = env.call("image_zoom_in_tool", bbox_2d=[1, 2, 30, 40])
    assert call in env.action_space
    assert json.loads(env.action(call).split(">")[1].split("<")[0]) == {
        "name": "image_zoom_in_tool",
        "arguments": {"bbox_2d": [1, 2, 30, 40]},
    }
    assert '"label": "door"' in env.action(env.call("image_zoom_in_tool", bbox_2d=[1, 2, 30, 40], label="door"))
    assert env.answer("seven") in env.action_space


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("<answer>1</answer>", r"give \(0, text\) or"),
        ((0, 7), r"give \(0, text\) or"),
        ((2, {"tool": "image_zoom_in_tool", "arguments": {}}), r"or \(1 to 1, "),
        ((1, {"tool": "zoom", "arguments": {}}), "number 1 is the tool 'image_zoom_in_tool'"),
        ((1, {"tool": "image_zoom_in_tool"}), "number 1 is the tool"),
        ((1, "text"), r"give \(0, text\) or"),
        (
            (1, {"tool": "image_zoom_in_tool", "arguments": {"label": None}}),
            "they must be bbox_2d, label, None for one",
        ),
    ],
)
def test_what_is_no_action_is_refused_with_the_form(action: Any, message: str) -> None:
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(TypeError, match=message):
        env.step(action)
    assert env.step(env.answer("1"))[2], "the refusal changed nothing"


def test_a_call_of_what_is_not_there_is_refused() -> None:
    env = make_env()
    with pytest.raises(LookupError, match="Did you mean 'image_zoom_in_tool'"):
        env.call("image_zoom_tool", bbox_2d=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="Did you mean 'bbox_2d'"):
        env.call("image_zoom_in_tool", bbox=[1, 2, 3, 4])


def test_a_space_of_your_own_replaces_the_one_that_is_made() -> None:
    own = spaces.Dict({"bbox_2d": spaces.Box(0, 10, (4,), np.float64)})
    env = StructuredActions(VisualZoomEnv(tasks=make_tasks()), arguments={"image_zoom_in_tool": own})
    space: Any = env.action_space
    assert space[1]["arguments"] == own
    with pytest.raises(ValueError, match="a space is given for zoom; the tools are image_zoom_in_tool"):
        StructuredActions(VisualZoomEnv(tasks=make_tasks()), arguments={"zoom": own})


def test_another_environment_is_refused() -> None:
    with pytest.raises(TypeError, match=r"WhichHalf has no tools.*wrap a visualzoom\.envs\.VisualZoomEnv"):
        StructuredActions(WhichHalf())


def test_the_spec_makes_it_again_and_a_vector_takes_its_actions() -> None:
    env = StructuredActions(gymnasium.make(ID))
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, StructuredActions)
    assert again.action_space == env.action_space
    envs = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="sync", wrappers=[StructuredActions])
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = envs.action_space.sample()
    assert actions in envs.action_space
    envs.step(actions)
    envs.close()
