"""Small tasks, pictures, sights and replies for tests, each with sensible defaults."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from visualzoom.envs.boxes import Coordinates, Frame, frame_of
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Box, Pixels, Task
from visualzoom.envs.regions import Region
from visualzoom.envs.tools.sight import Seen, Sight


def make_noise(width_px: int, height_px: int, seed: int = 0) -> Pixels:
    """Noise of that size: no two parts of it look alike."""
    return np.random.default_rng(seed).integers(256, size=(height_px, width_px, 3), dtype=np.uint8)


def make_task(
    number: int = 0,
    *,
    num_pictures: int = 1,
    width_px: int = 200,
    height_px: int = 120,
    choices: Sequence[str] = (),
) -> Task:
    """A question whose answer is `number`, about a picture of noise; the evidence is a box in it."""
    return Task(
        id=f"test-{number}",
        question=f"What is number {number}?",
        answer=str(number),
        pictures=(ArrayPicture(make_noise(width_px, height_px, number)),) * num_pictures,
        evidence=(Box(width_px // 20, height_px // 6, max(width_px // 3, 1), max(height_px // 2, 1)),),
        choices=tuple(choices),
    )


def make_tasks(num_tasks: int = 4) -> list[Task]:
    """Tasks that differ."""
    return [make_task(number) for number in range(num_tasks)]


def call_text(*box: float, name: str = "image_zoom_in_tool") -> str:
    """A reply that calls a tool with these numbers as its box, in the words of DeepEyes."""
    return f'<tool_call>{{"name": "{name}", "arguments": {{"bbox_2d": {json.dumps(list(box))}}}}}</tool_call>'


def make_sight(
    width_px: int = 200,
    height_px: int = 120,
    *,
    seed: int = 0,
    shown: tuple[int, int] = (112, 112),
    coordinates: Coordinates = "shown",
    parts: Sequence[tuple[int, tuple[int, int, int, int], float]] = (),
    store: ImageStore | None = None,
) -> Sight:
    """What a tool has before it: a picture of noise, and parts of it that were shown after it.

    Args:
        width_px: Of the picture.
        height_px: Of the picture.
        seed: Of its noise.
        shown: Size at which the model sees each image.
        coordinates: In which the model speaks.
        parts: (image, box of its canvas, degrees clockwise) of each image shown later, made of an earlier one.
        store: Where pixels are kept; a new one if it is None.
    """
    picture = ArrayPicture(make_noise(width_px, height_px, seed))
    images = [
        Seen(picture=picture, region=region, frame=frame_of(coordinates, Frame(*shown), region.size), index=0)
        for region in make_regions(width_px, height_px, parts)
    ]
    return Sight(images=images, store=ImageStore() if store is None else store)


def make_regions(
    width_px: int, height_px: int, parts: Sequence[tuple[int, tuple[int, int, int, int], float]] = ()
) -> list[Region]:
    """All of a picture of that size, then its parts as `make_sight` takes them."""
    regions = [Region.whole(width_px, height_px)]
    for image, box, degrees in parts:
        regions.append(regions[image].crop(Box(*box)).rotate(degrees))
    return regions
