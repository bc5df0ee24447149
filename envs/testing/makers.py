"""Small tasks and replies for tests, each with sensible defaults."""

from __future__ import annotations

import json

import numpy as np

from visualzoom.envs.images import ArrayPicture
from visualzoom.envs.records import Box, Task


def make_task(number: int = 0, *, num_pictures: int = 1, width_px: int = 200, height_px: int = 120) -> Task:
    """A question whose answer is `number`, about a picture of noise; the evidence is a box in it."""
    pixels = np.random.default_rng(number).integers(256, size=(height_px, width_px, 3), dtype=np.uint8)
    return Task(
        id=f"test-{number}",
        question=f"What is number {number}?",
        answer=str(number),
        pictures=(ArrayPicture(pixels),) * num_pictures,
        evidence=(Box(width_px // 20, height_px // 6, width_px // 3, height_px // 2),),
    )


def make_tasks(num_tasks: int = 4) -> list[Task]:
    """Tasks that differ."""
    return [make_task(number) for number in range(num_tasks)]


def call_text(*box: float, name: str = "image_zoom_in_tool") -> str:
    """A reply that calls a tool with these numbers as its box, in the words of DeepEyes."""
    return f'<tool_call>{{"name": "{name}", "arguments": {{"bbox_2d": {json.dumps(list(box))}}}}}</tool_call>'
