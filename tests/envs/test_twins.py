"""Laws of envs/tasks/twins.py, checked on pixels."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualzoom.envs import VisualZoomEnv, iou, open_tasks
from visualzoom.envs.records import Box, Pixels, Task
from visualzoom.envs.tasks.families import SceneFamily
from visualzoom.envs.tasks.scenes import COLOURS, ScenePicture
from visualzoom.envs.tasks.twins import LocateScenes, PresentScenes, SumScenes

TWINS = (LocateScenes, PresentScenes, SumScenes)
INDICES = st.integers(0, 2**32)


def box_of(pixels: Pixels, colour: str) -> Box | None:
    """Where most pixels of that colour are; None if there are few."""
    near = np.abs(pixels.astype(int) - np.array(COLOURS[colour])).sum(axis=2) < 60
    rows, columns = (np.flatnonzero(near.sum(axis=axis) > 12) for axis in (1, 0))
    if len(rows) < 20 or len(columns) < 20:
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def pixels_of(task: Task) -> Pixels:
    return task.pictures[0].pixels()


def colours_in(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in COLOURS]


@given(index=INDICES)
@settings(max_examples=25, deadline=None)
def test_the_card_is_where_the_box_says(index: int) -> None:
    task = LocateScenes().task(index)
    (colour,) = colours_in(task.question)
    found = box_of(pixels_of(task), colour)
    assert found is not None and iou(found, task.evidence[0]) > 0.8
    assert tuple(map(int, task.answer.split(", "))) == task.evidence[0]


@given(index=INDICES)
@settings(max_examples=25, deadline=None)
def test_the_card_is_there_exactly_if_the_answer_is_yes(index: int) -> None:
    task = PresentScenes().task(index)
    (colour,) = colours_in(task.question)
    assert (box_of(pixels_of(task), colour) is not None) == (task.answer == "yes") == bool(task.evidence)


@given(index=INDICES)
@settings(max_examples=25, deadline=None)
def test_the_sum_is_that_of_the_two_cards(index: int) -> None:
    task = SumScenes().task(index)
    picture = task.pictures[0]
    assert isinstance(picture, ScenePicture)
    digits = {card.colour: int(card.marks[0].glyph) for card in picture.scene.cards}
    boxes = {card.colour: card.box for card in picture.scene.cards}
    asked = colours_in(task.question)
    assert len(set(asked)) == 2 and sum(digits[colour] for colour in asked) == int(task.answer)
    assert [boxes[colour] for colour in asked] == list(task.evidence)


@pytest.mark.parametrize("family", TWINS)
@given(index=INDICES, size_px=st.integers(512, 4096))
@settings(max_examples=10, deadline=None)
def test_the_same_index_is_the_same_task(family: type[SceneFamily], index: int, size_px: int) -> None:
    assert family(size_px).task(index) == family(size_px).task(index)


def test_yes_and_no_are_as_frequent_and_all_sums_occur() -> None:
    said = Counter(PresentScenes().task(index).answer for index in range(2000))
    assert abs(said["yes"] - 1000) < 4 * np.sqrt(500) and set(said) == {"yes", "no"}
    assert {SumScenes().task(index).answer for index in range(2000)} == {str(number) for number in range(19)}


@pytest.mark.parametrize("family", TWINS)
def test_the_environment_knows_them_by_name(family: type[SceneFamily]) -> None:
    assert open_tasks(family.family).task(7) == family().task(7)
    env = VisualZoomEnv(family.family)
    env.reset(seed=0)
    assert env.step(f"<answer>{env.task.answer}</answer>")[1] > 0
