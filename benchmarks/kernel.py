"""What a look costs: the kernels against Pillow, a whole zoom step beyond its kernel, and the tool path of a peer.

The peer's path is a stand-in of about twenty lines, written here from a description of DeepEyes' `visual_toolbox_v2`:
read the call, crop at native size, encode as PNG, decode, round the sides to multiples of 28. Its processor and its
deep copies are left out, in its favour. Every ratio is taken within a round, in which the contestants take turns; the
median of the rounds is given. One thread, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import interleaved, ratio, table

from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.kernels import Kernel, open_kernel
from visualzoom.envs.images.pictures import ArrayPicture, FilePicture
from visualzoom.envs.records import Box, Pixels, Task
from visualzoom.envs.testing import call_text
from visualzoom.envs.vector.thread_vector import ThreadVectorEnv
from visualzoom.envs.views import ViewRule
from visualzoom.envs.zoom_env import VisualZoomEnv

FACTOR_PX, SHOWN_PX = 28, 448
SHOWN = ViewRule(factor_px=FACTOR_PX, min_px=SHOWN_PX**2, max_px=SHOWN_PX**2)
SIDES_PX = (64, 150, 300, 450, 700, 1000, 1500)
NUM_TOOLS = 64


def texture(width_px: int, height_px: int, rng: np.random.Generator) -> Pixels:
    """Rough at every scale, with the noise of a sensor: near to a photograph for kernels and encoders."""
    frequency = np.hypot(np.fft.fftfreq(height_px)[:, None], np.fft.rfftfreq(width_px)[None])
    frequency[0, 0] = 1
    picture = np.empty((height_px, width_px, 3), np.uint8)
    for channel in range(3):
        waves = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        rough = np.fft.irfft2(waves / frequency, (height_px, width_px))
        levels = 128 + 45 * rough / rough.std() + rng.normal(scale=2, size=rough.shape)
        picture[:, :, channel] = levels.clip(0, 255)
    return picture


def boxes(rng: np.random.Generator, picture: Pixels, sides_px: Sequence[int]) -> list[Box]:
    """A square box of each side, anywhere inside."""
    height_px, width_px = picture.shape[:2]
    corners = [(int(rng.integers(width_px - side + 1)), int(rng.integers(height_px - side + 1))) for side in sides_px]
    return [Box(left, top, left + side, top + side) for (left, top), side in zip(corners, sides_px, strict=True)]


def cut(picture: Pixels, box: Box) -> Pixels:
    return picture[box.top_px : box.bottom_px, box.left_px : box.right_px]


def kernels(large: Pixels, small: Pixels, num_rounds: int, rng: np.random.Generator) -> dict[str, float]:
    """Speed by side and on a mix, and the difference to Pillow's bicubic of the same crop."""
    pillow, torch_kernel = open_kernel("pillow"), open_kernel("torch")
    rows = []
    for side_px in SIDES_PX:
        part = cut(large, boxes(rng, large, [side_px])[0])
        times = interleaved(
            {k.name: partial(k.resize, part, SHOWN_PX, SHOWN_PX) for k in (pillow, torch_kernel)},
            num_rounds,
            5,
        )
        rows.append([side_px, *map(statistics.median, times.values()), ratio(times, pillow.name, torch_kernel.name)])
    table(
        f"Square crop of 3840x2160 to {SHOWN_PX}x{SHOWN_PX}, ms",
        ["side", pillow.name, torch_kernel.name, "times faster"],
        rows,
    )
    found: dict[str, float] = {}
    for name, picture in (("1024x1024", small), ("3840x2160", large)):
        parts = [cut(picture, box) for box in boxes(rng, picture, rng.integers(64, 1001, size=24).tolist())]
        times = interleaved(
            {k.name: partial(_all, k, parts) for k in (pillow, torch_kernel)},
            num_rounds,
            1,
        )
        found[f"faster on the mix, {name}"] = ratio(times, pillow.name, torch_kernel.name)
    found["mean difference"], found["most"] = _difference(torch_kernel, large, rng)
    return found


def _all(kernel: Kernel, parts: Sequence[Pixels]) -> None:
    for part in parts:
        kernel.resize(part, SHOWN_PX, SHOWN_PX)


def _difference(kernel: Kernel, picture: Pixels, rng: np.random.Generator) -> tuple[float, float]:
    """Grey levels to Pillow's own call on the same crop, boxes of any shape: the worst mean of one, the most of all."""
    means, most = [], 0
    for _ in range(300):
        width_px, height_px = rng.integers(16, 1500, size=2)
        left, top = rng.integers(picture.shape[1] - width_px), rng.integers(picture.shape[0] - height_px)
        part = picture[top : top + height_px, left : left + width_px]
        image = Image.fromarray(np.ascontiguousarray(part))
        wanted = np.asarray(image.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.BICUBIC))
        difference = np.abs(kernel.resize(part, SHOWN_PX, SHOWN_PX).astype(int) - wanted)
        means.append(difference.mean())
        most = max(most, int(difference.max()))
    return float(max(means)), float(most)


class StandIn:
    """The tool path of the peer: nothing but its costly steps."""

    def __init__(self, picture: Pixels) -> None:
        self.image = Image.fromarray(picture)

    def next_of(self, replies: Iterator[str], *, png: bool = True) -> Image.Image:
        return self.step(next(replies), png=png)

    def step(self, reply: str, *, png: bool = True) -> Image.Image:
        calls = re.findall(r"<tool_call>(.*?)</tool_call>", reply, re.DOTALL)
        arguments = json.loads(calls[-1])["arguments"]
        crop = self.image.crop(tuple(arguments["bbox_2d"]))
        if png:
            file = io.BytesIO()
            crop.save(file, "PNG")
            crop = Image.open(file).convert("RGB")
        width_px, height_px = (max(FACTOR_PX, round(side / FACTOR_PX) * FACTOR_PX) for side in crop.size)
        return crop.resize((width_px, height_px), Image.Resampling.BICUBIC)


@dataclass
class Looker:
    """An environment in a long episode, and a fresh box of that side for each look."""

    env: VisualZoomEnv
    picture: Pixels
    rng: np.random.Generator

    def look(self, side_px: int) -> None:
        observation = self.env.step(say(boxes(self.rng, self.picture, [side_px])[0]))[0]
        assert observation["images"], observation["text"]


def say(box: Box) -> str:
    return call_text(*box)


def make_env(
    task: Task,
    crop: ViewRule,
    kernel: str | Kernel = "torch",
    *,
    store: ImageStore | None = None,
    shared: bool = True,
) -> VisualZoomEnv:
    """An episode of this task that lasts for ever; little is kept, so that each look is drawn."""
    return VisualZoomEnv(
        tasks=[task],
        crop=crop,
        view=SHOWN,
        coordinates="original",
        max_turns=10**9,
        max_images=10**9,
        store=ImageStore(40 * 2**20, kernel) if store is None else store,
        share_images=shared,
    )


def opened(env: VisualZoomEnv) -> VisualZoomEnv:
    env.reset(seed=0)
    return env


class Timed:
    """A kernel that knows how long it took."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.name, self.spent_s = kernel, kernel.name, 0.0

    def resize(self, pixels: Pixels, width_px: int, height_px: int) -> Pixels:
        began_s = time.perf_counter()
        scaled = self.kernel.resize(pixels, width_px, height_px)
        self.spent_s = time.perf_counter() - began_s
        return scaled


def steps(task: Task, large: Pixels, num_rounds: int, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds of a step beyond those of its kernel."""
    rows, worst = [], 0.0
    for name, side_px, shared in itertools.product(("pillow", "torch"), (64, 300, 1000), (True, False)):
        kernel = Timed(open_kernel(name))
        looker = Looker(opened(make_env(task, SHOWN, kernel, shared=shared)), large, rng)
        looker.look(side_px)
        whole, beyond = [], []
        for _ in range(20 * num_rounds):
            began_s = time.perf_counter()
            looker.look(side_px)
            whole.append((time.perf_counter() - began_s) * 1e3)
            beyond.append(whole[-1] - kernel.spent_s * 1e3)
        worst = max(worst, statistics.median(beyond))
        images = "shared" if shared else "copied"
        rows.append([name, side_px, images, statistics.median(whole), statistics.median(beyond)])
    header = ["kernel", "side", "images", "step", "beyond its kernel"]
    table("Zoom step of the environment on 3840x2160, ms", header, rows)
    return {"step beyond its kernel, ms": worst}


def peers(task: Task, large: Pixels, num_rounds: int, rng: np.random.Generator) -> dict[str, float]:
    """One call of the stand-in against one step, and what part the capped size and the PNG have in that."""
    stand_in, rows, least = StandIn(large), [], float("inf")
    for side_px in (400, 600, 800, 1000):
        native_px = round(side_px / FACTOR_PX) * FACTOR_PX
        native = ViewRule(factor_px=FACTOR_PX, min_px=native_px**2, max_px=native_px**2)
        capped = Looker(opened(make_env(task, SHOWN)), large, rng)
        alike = Looker(opened(make_env(task, native)), large, rng)
        replies = itertools.cycle([say(box) for box in boxes(rng, large, [side_px] * 8)])
        times = interleaved(
            {
                "stand-in": partial(stand_in.next_of, replies),
                "no png": partial(stand_in.next_of, replies, png=False),
                "alike": partial(alike.look, side_px),
                "ours": partial(capped.look, side_px),
            },
            num_rounds,
            3,
        )
        whole = ratio(times, "stand-in", "ours")
        least = min(least, whole)
        parts = [ratio(times, *pair) for pair in (("stand-in", "alike"), ("alike", "ours"), ("stand-in", "no png"))]
        rows.append([side_px, *map(statistics.median, times.values()), whole, *parts])
    header = ["side", "stand-in", "stand-in without PNG", "ours at its size", f"ours at {SHOWN_PX}x{SHOWN_PX}"]
    header += ["times faster", "of that: at the same size", "of that: capped size", "PNG alone, in the stand-in"]
    table("A call of DeepEyes' path (stand-in) against a step of ours, ms", header, rows)
    return {"faster per call, least of 400 to 1000 px": least}


def many(task: Task, large: Pixels, num_rounds: int, rng: np.random.Generator) -> dict[str, float]:
    """Calls a second with 64 tools: a loop of stand-ins that waits for all, our loop, and our threads."""
    stand_in, store = StandIn(large), ImageStore(128 * 2**20, "torch")
    loop = [opened(make_env(task, SHOWN, store=store)) for _ in range(NUM_TOOLS)]
    threads = ThreadVectorEnv(
        [lambda: make_env(task, SHOWN, store=store) for _ in range(NUM_TOOLS)], num_threads=2, copy=False
    )
    threads.reset(seed=0)

    def replies() -> list[str]:
        return [say(box) for box in boxes(rng, large, rng.integers(64, 1001, size=NUM_TOOLS).tolist())]

    times = interleaved(
        {
            "stand-in, one after the other": lambda: [stand_in.step(reply) for reply in replies()],
            "ours, one after the other": lambda: [env.step(reply) for env, reply in zip(loop, replies(), strict=True)],
            "ours, 2 threads": lambda: threads.step(tuple(replies())),
        },
        num_rounds,
        1,
    )
    threads.close()
    names = list(times)
    rows = [[name, NUM_TOOLS / statistics.median(times[name]) * 1e3, ratio(times, names[0], name)] for name in names]
    table(f"{NUM_TOOLS} tools, boxes of 64 to 1000 px on 3840x2160", ["", "calls/s", "times faster"], rows)
    return {"faster in calls a second, 2 threads": ratio(times, names[0], names[2])}


def group(path: Path, num_rounds: int) -> dict[str, float]:
    """Sixteen resets on one 4K JPEG: how often it is decoded, and what that takes against one decode."""
    num_decodes = 0

    class Watched(FilePicture):
        def pixels(self) -> Pixels:
            nonlocal num_decodes
            num_decodes += 1
            return super().pixels()

    task = Task(id="0", question="?", answer="1", pictures=(Watched(path),))

    def resets() -> None:
        store = ImageStore(kernel="torch")
        for _ in range(16):
            opened(make_env(task, SHOWN, store=store))

    resets()
    found = num_decodes
    times = interleaved({"16 resets": resets, "one decode": FilePicture(path).pixels}, num_rounds, 1)
    table(
        "A group of 16 on one 4K JPEG",
        ["decodes", "16 resets, ms", "one decode, ms"],
        [[found, *map(statistics.median, times.values())]],
    )
    return {"decodes of a group of 16": float(found)}


BARS: dict[str, tuple[float, float]] = {
    "faster on the mix, 1024x1024": (3, float("inf")),
    "faster on the mix, 3840x2160": (3, float("inf")),
    "mean difference": (0, 0.1),
    "most": (0, 24),
    "step beyond its kernel, ms": (-float("inf"), 0.3),
    "faster per call, least of 400 to 1000 px": (20, float("inf")),
    "faster in calls a second, 2 threads": (30, float("inf")),
    "decodes of a group of 16": (1, 1),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.jpg")
        Image.fromarray(texture(3840, 2160, rng)).save(path, quality=92)
        picture = FilePicture(path)
        large, small = picture.pixels(), texture(1024, 1024, rng)
        task = Task(id="0", question="?", answer="1", pictures=(ArrayPicture(large),))
        found = {
            **kernels(large, small, args.rounds, rng),
            **steps(task, large, args.rounds, rng),
            **peers(task, large, args.rounds, rng),
            **many(task, large, args.rounds, rng),
            **group(path, args.rounds),
        }
    rows = [
        [name, value, f"{low:g} to {high:g}", "met" if low <= value <= high else "MISSED"]
        for name, value in found.items()
        for low, high in [BARS[name]]
    ]
    table("Bars", ["", "found", "wanted", ""], rows)


if __name__ == "__main__":
    main()
