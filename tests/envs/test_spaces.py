"""Spaces for texts and pictures: samples are contained, seeds repeat, JSON, flat and batched elements come back."""

from __future__ import annotations

import copy
import json
import pickle
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten, flatten_space, unflatten
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
)
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


@given(SEEDS, st.integers(0, 100), st.integers(0, 100))
def test_a_sampled_text_is_as_long_as_it_must_be_and_has_no_space_at_its_ends(seed: int, least: int, more: int) -> None:
    text = UnicodeText(least + more, seed, min_characters=least).sample()
    assert least <= len(text) <= least + more
    assert text.strip() == text


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


@given(SEEDS)
def test_flat_and_back_is_the_identity(seed: int) -> None:
    space = observation_space()
    space.seed(seed)
    sample = space.sample()
    flat = flatten(space, sample)
    assert flat in flatten_space(space)
    assert data_equivalence(unflatten(space, flat), sample, exact=True)
    with pytest.raises(ValueError, match="cannot be flattened to a numpy array"):
        flatdim(space)


@given(SEEDS, st.integers(1, 4))
def test_a_batch_is_contained_and_comes_apart_again(seed: int, num_envs: int) -> None:
    space = observation_space()
    batched = batch_space(space, num_envs)
    space.seed(seed)
    samples = [space.sample() for _ in range(num_envs)]
    empty: Any = create_empty_array(space, n=num_envs)
    assert empty in batched
    batch = concatenate(space, samples, empty)
    assert batch in batched
    assert data_equivalence(list(iterate(batched, batch)), samples, exact=True)
    batched.seed(seed)
    assert batched.sample() in batched


def test_the_environments_of_a_batch_draw_different_samples() -> None:
    batched = batch_space(UnicodeText(seed=3), 4)
    assert len(set(batched.sample())) == 4


def test_spaces_with_other_bounds_can_stand_in_a_batch() -> None:
    batched = batch_differing_spaces([observation_space(1), observation_space(2)])
    one, two = np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert {"text": ("a", "b"), "images": ((one,), (one, two))} in batched
    assert {"text": ("a", "b"), "images": ((one, two), (one,))} not in batched


@pytest.mark.parametrize("space", [UnicodeText(5), ImageTuple(2), observation_space()])
def test_shared_memory_is_refused_with_what_to_do(space: Any) -> None:
    with pytest.raises(TypeError, match=r"any size.*vector_kwargs=.'shared_memory': False"):
        create_shared_memory(space, n=2)


def test_containing_looks_at_no_pixel() -> None:
    huge = np.broadcast_to(np.zeros(1, np.uint8), (100_000, 100_000, 3))  # 30 GB, if anybody looked
    start = time.perf_counter()
    assert {"text": "x" * 16_384, "images": (huge,)} in observation_space()
    assert time.perf_counter() - start < 1


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


def test_a_text_that_is_too_short_is_not_contained() -> None:
    assert "" not in UnicodeText(5, min_characters=1)
    assert "a" in UnicodeText(5, min_characters=1)


@pytest.mark.parametrize("stranger", [None, 3, b"text", ["text"]])
def test_what_is_no_text_is_not_contained(stranger: object) -> None:
    assert stranger not in UnicodeText()


@pytest.mark.parametrize("space", [UnicodeText(5), UnicodeText(), UnicodeText(9, min_characters=2), ImageTuple(2)])
def test_a_space_survives_pickling_and_is_written_as_it_is_made(space: UnicodeText | ImageTuple) -> None:
    space.seed(3)
    for twin in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        assert twin == space
        assert data_equivalence(twin.sample(), copy.deepcopy(space).sample(), exact=True)
    assert eval(repr(space), {"UnicodeText": UnicodeText, "ImageTuple": ImageTuple}) == space


def test_other_bounds_are_another_space() -> None:
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != UnicodeText(5, min_characters=1)
    assert ImageTuple(1) != ImageTuple(2)
    assert UnicodeText(1) != ImageTuple(1)


def test_bad_bounds_and_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 characters"):
        UnicodeText(-1)
    with pytest.raises(ValueError, match="at least 3 and at most 2 characters"):
        UnicodeText(2, min_characters=3)
    with pytest.raises(ValueError, match="-1 images"):
        ImageTuple(-1)
    with pytest.raises(ValueError, match="no masks"):
        UnicodeText().sample(mask="mask")  # type: ignore[arg-type]  # the mistake under test
