"""Spaces for texts and pictures: samples are contained, seeds repeat, JSON comes back."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.spaces import ImageTuple, UnicodeText

SEEDS = st.integers(0, 2**31 - 1)


def observation_space(max_images: int = 3) -> Any:
    return spaces.Dict({"text": UnicodeText(), "images": ImageTuple(max_images)})


@given(SEEDS, st.none() | st.integers(0, 200))
def test_a_sampled_text_is_contained(seed: int, max_characters: int | None) -> None:
    space = UnicodeText(max_characters, seed=seed)
    assert all(space.sample() in space for _ in range(5))


@given(SEEDS, st.integers(0, 4))
def test_sampled_images_are_contained(seed: int, max_images: int) -> None:
    space = ImageTuple(max_images, seed=seed)
    assert all(space.sample() in space for _ in range(3))


@given(SEEDS)
def test_the_same_seed_gives_the_same_samples(seed: int) -> None:
    one, other = observation_space(), observation_space()
    one.seed(seed)
    other.seed(seed)
    for _ in range(3):
        a, b = one.sample(), other.sample()
        assert a["text"] == b["text"]
        assert len(a["images"]) == len(b["images"])
        assert all(np.array_equal(x, y) for x, y in zip(a["images"], b["images"], strict=True))


@given(SEEDS)
def test_json_and_back_is_the_identity(seed: int) -> None:
    space = observation_space()
    space.seed(seed)
    samples = [space.sample() for _ in range(3)]
    back = space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples))))
    for sample, found in zip(samples, back, strict=True):
        assert found in space
        assert found["text"] == sample["text"]
        assert all(np.array_equal(x, y) for x, y in zip(found["images"], sample["images"], strict=True))


@given(st.text(st.characters(), max_size=20))
def test_every_text_that_is_short_enough_and_can_be_written_is_contained(text: str) -> None:
    can_be_written = not any("\ud800" <= character <= "\udfff" for character in text)
    assert (text in UnicodeText(10)) == (can_be_written and len(text) <= 10)


@pytest.mark.parametrize(
    "stranger",
    [
        [np.zeros((2, 2, 3), np.uint8)],
        (np.zeros((2, 2, 3), np.float32),),
        (np.zeros((2, 2), np.uint8),),
        (np.zeros((2, 2, 4), np.uint8),),
        (np.zeros((0, 2, 3), np.uint8),),
        ("image",),
        (np.zeros((2, 2, 3), np.uint8),) * 3,
        None,
    ],
)
def test_what_is_no_tuple_of_at_most_two_pictures_is_not_contained(stranger: object) -> None:
    assert stranger not in ImageTuple(2)


@pytest.mark.parametrize("stranger", [None, 3, b"text", ["text"]])
def test_what_is_no_text_is_not_contained(stranger: object) -> None:
    assert stranger not in UnicodeText()


@pytest.mark.parametrize("space", [UnicodeText(5), UnicodeText(), ImageTuple(2)])
def test_a_space_survives_pickling_and_is_written_as_it_is_made(space: UnicodeText | ImageTuple) -> None:
    assert pickle.loads(pickle.dumps(space)) == space
    assert eval(repr(space), {"UnicodeText": UnicodeText, "ImageTuple": ImageTuple}) == space


def test_other_bounds_are_another_space() -> None:
    assert UnicodeText(5) != UnicodeText(6)
    assert ImageTuple(1) != ImageTuple(2)
    assert UnicodeText(1) != ImageTuple(1)


def test_bad_bounds_and_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 characters"):
        UnicodeText(-1)
    with pytest.raises(ValueError, match="-1 images"):
        ImageTuple(-1)
    with pytest.raises(ValueError, match="no masks"):
        UnicodeText().sample(mask="mask")  # type: ignore[arg-type]  # the mistake under test
