"""Laws of evaluation/data_check.py, data_stats.py and data_sheet.py."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs import open_tasks
from visualzoom.envs.images.pictures import ArrayPicture, BytesPicture
from visualzoom.envs.records import Box, Picture, Task
from visualzoom.envs.views import ViewRule
from visualzoom.evaluation.data_check import KINDS, NEAR_BITS, bits, check_tasks, counted, leaks, look_hash
from visualzoom.evaluation.data_sheet import data_sheet
from visualzoom.evaluation.data_stats import stats_of


def picture(seed: int = 0, size: tuple[int, int] = (64, 48)) -> ArrayPicture:
    return ArrayPicture(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def task(index: int = 0, **changed: object) -> Task:
    values: dict[str, object] = {"id": f"t{index}", "question": "Which word?", "answer": "red"}
    return Task(**({"pictures": (picture(index),)} | values | changed))  # type: ignore[arg-type]


def kinds(*tasks: Task, decode: bool = True) -> list[tuple[int, str]]:
    return [(finding.index, finding.kind) for finding in check_tasks(enumerate(tasks), decode=decode)]


def truncated() -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture().array).save(file, "PNG")
    return BytesPicture(file.getvalue()[:-200])


BAD: dict[str, tuple[Task, ...]] = {
    "broken picture": (task(pictures=(truncated(),)),),
    "tiny picture": (task(pictures=(picture(size=(200, 20)),)),),
    "huge picture": (task(pictures=(ArrayPicture(picture().array.repeat(110, 0).repeat(130, 1)),)),),
    "flat picture": (task(pictures=(ArrayPicture(np.full((50, 50, 3), 9, dtype=np.uint8)),)),),
    "no answer": (task(answer=""),),
    "long answer": (task(answer="word " * 60),),
    "answer in the question": (task(question="What is written on the red card?"),),
    "answer is no option": (task(choices=("blue", "green")),),
    "outside the picture": (task(evidence=(Box(10, 10, 70, 20),)),),
    "duplicate": (task(0), task(0, id="again")),
    "contradiction": (task(0), task(0, answer="blue")),
    "near duplicate": (task(0), task(1, pictures=(ArrayPicture(np.minimum(picture(0).array, 252)),))),
}


def test_there_is_an_example_of_every_kind() -> None:
    assert set(BAD) == set(KINDS)


@pytest.mark.parametrize("kind", BAD)
def test_what_is_planted_is_found_and_nothing_else(kind: str) -> None:
    found = kinds(*BAD[kind])
    assert found == [(len(BAD[kind]) - 1, kind)]
    assert kinds(*(task(index) for index in range(30))) == []


def test_drawn_scenes_are_clean() -> None:
    source = open_tasks("digit:1,letter:1,sign:1,compare:1,count:1,present:1,sum:1")
    assert kinds(*(source.task(index) for index in range(60))) == []


def test_without_decoding_headers_alone_are_looked_at() -> None:
    assert kinds(*BAD["broken picture"], decode=False) == []
    assert kinds(*BAD["tiny picture"], decode=False) == [(0, "tiny picture")]


def test_errors_are_counted_before_warnings() -> None:
    tasks = [*BAD["flat picture"], *BAD["no answer"], *BAD["flat picture"]]
    found = list(check_tasks(enumerate(tasks)))
    assert next(kind for kind, _, _ in counted(found)) == "no answer"
    assert ("flat picture", "warning", 2) in counted(found)


@pytest.mark.parametrize(
    ("question", "answer", "leak"),
    [
        ("What is written on the red card?", "red", True),
        ("What is written on the redder card?", "red", False),
        ("Is it red or blue?", "red", False),
        ("Is there a no entry sign?", "no", False),
        ("How many of the 7 dwarfs?", "7", True),
        ("What is the New York Times?", "new york", True),
        ("?", "", False),
    ],
)
def test_what_the_question_gives_away(question: str, answer: str, leak: bool) -> None:
    assert leaks(question, answer) == leak


@given(st.integers(0, 50), st.sampled_from([0.97, 1.0]), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_scaled_and_slightly_changed_pictures_look_the_same_and_others_do_not(
    index: int, brightness: float, noise: int
) -> None:
    pixels = open_tasks("digit").task(index).pictures[0].pixels()
    image = Image.fromarray(pixels)
    smaller = np.array(image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS))
    rng = np.random.default_rng(index)
    changed = np.clip(smaller * brightness + rng.integers(-noise, noise + 1, smaller.shape), 0, 255).astype(np.uint8)
    other = open_tasks("digit").task(index + 1).pictures[0].pixels()
    assert bits(look_hash(pixels) ^ look_hash(other)) > 10 * NEAR_BITS
    assert bits(look_hash(pixels) ^ look_hash(changed)) <= 4 * NEAR_BITS
    assert look_hash(pixels) == look_hash(pixels.copy())


def test_the_figures_are_those_of_the_tasks() -> None:
    tasks = [
        task(0, evidence=(Box(0, 0, 32, 24),), family="a"),
        task(1, answer="yes", direct=True, family="a"),
        task(2, answer="7", pictures=(picture(2), picture(3, (640, 480)))),
        task(3, choices=("red", "blue")),
    ]
    rule = ViewRule(min_px=28 * 28, max_px=100 * 28 * 28)
    stats = stats_of(tasks, view=rule, crop=rule, count_tokens=lambda text: len(text.split()))
    assert stats.num_tasks == 4 and stats.num_with_evidence == 1 and stats.num_direct == 1
    assert stats.families == {"a": 2, "(none)": 2}
    assert stats.kinds == {"text": 1, "yes or no": 1, "a number": 1, "an option": 1}
    assert stats.answers["red"] == 2
    assert stats.spreads["width, px"].values == (64, 64, 64, 409.6, 640)
    assert stats.spreads["question, tokens"].values == (2,) * 5
    assert stats.spreads["evidence, share of the picture"].values == (0.25,) * 5
    shown = rule.size_px(640, 480, enlarge=False)
    assert stats.spreads["overview, visual tokens"].values[-1] == shown[0] * shown[1] / 28**2
    assert "evidence" in "\n".join(stats.lines()) and "families         a 2" in "\n".join(stats.lines())


def test_a_sheet_shows_pictures_their_evidence_and_what_can_not_be_decoded() -> None:
    clean = data_sheet([task(index) for index in range(5)], columns=3)
    boxed = data_sheet([task(0, evidence=(Box(5, 5, 40, 40),)), *(task(index) for index in range(1, 5))], columns=3)
    assert clean.size == boxed.size and clean.tobytes() != boxed.tobytes()
    broken = data_sheet([task(pictures=(truncated(),), question="Wörter\n\u4e2d" * 50)])
    assert broken.size[0] > 1000
    assert dataclasses.asdict(stats_of([], view=ViewRule(), crop=ViewRule(), count_tokens=None))["num_tasks"] == 0
