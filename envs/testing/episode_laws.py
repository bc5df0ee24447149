"""The laws of `VisualZoomEnv` that one moment shows: the record, the boxes, the pixels, the limits.

They rest on the record that an episode leaves; the pixels are compared with slices of the originals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from visualzoom.envs.protocols.protocol import BadCall
from visualzoom.envs.records import Episode, Picture, Pixels, StopReason, ToolResult, Turn
from visualzoom.envs.testing.environment_laws import Finding, Moment, MomentCheck
from visualzoom.envs.testing.geometry_laws import Ruled
from visualzoom.envs.testing.laws import Law
from visualzoom.envs.testing.python_text import summary
from visualzoom.envs.views import ViewRule
from visualzoom.envs.zoom_env import VisualZoomEnv

RECORD = Law(
    "record",
    "an end leaves one record: its reason, every reply as it was sent, every image as it was shown, the reward paid",
)
ANSWER = Law("answer", "the answer on record is what the protocol reads in the last reply, and nothing else is one")
EVERY_CALL = Law("every call", "each call of a reply has a result, in order; a bad one takes nothing from the others")
BOXES_INSIDE = Law("boxes inside", "every executed box on record lies inside its original, and no error has one")
SHOWN_EXACT = Law(
    "shown exactly",
    "every overview and every crop that was shown is the slice of the original that the record names, scaled by the "
    "kernel to the size of its view rule",
)
LIMITS = Law(
    "limits", "turns, images and visual tokens of an episode stay within its limits, and it ends with the last"
)
SILENT_END = Law("silent end", "the end shows nothing, and nothing is paid before it")


def world_of(moment: Moment) -> VisualZoomEnv | None:
    """The environment, if it is ours and shows what it shows itself."""
    world = moment.env.unwrapped
    shows = isinstance(moment.observation, dict) and set(moment.observation) == {"text", "images"}
    return world if isinstance(world, VisualZoomEnv) and shows else None


def check_record(moment: Moment) -> Iterator[Finding]:
    """At the end, and only there."""
    if world_of(moment) is None:
        return
    told = [name for name in ("record", "stop_reason", "reward_parts") if name in moment.info]
    if not moment.ends:
        yield not told, f"the episode goes on, and info holds {told}"
        return
    record = moment.info.get("record")
    if len(told) < 3 or not isinstance(record, Episode):
        yield False, f"the episode is over, and info holds {told}"
        return
    yield from _about_record(moment, record)


def _about_record(moment: Moment, record: Episode) -> Iterator[Finding]:
    told = moment.info["stop_reason"]
    yield record.stop_reason == told, f"the record says {record.stop_reason!r}, info says {told!r}"
    sent = [_whole(str(past.action)) for past in (*moment.history[1:], moment)]
    replies = [turn.reply for turn in record.turns]
    yield replies == sent, f"{len(sent)} replies were sent; the record holds {summary(replies)}"
    shown = [[image.shape[1::-1] for image in past.observation["images"]] for past in moment.history]
    recorded = [[(image.width_px, image.height_px) for image in turn.images] for turn in record.turns]
    yield recorded == shown, f"images of {shown} were shown, the record has {recorded}"
    paid = 0.0 if record.reward is None else record.reward.total
    yield moment.reward == paid, f"{moment.reward} was paid, the record says {paid}"
    unscored = record.reward is None
    yield unscored == record.stop_reason.failed, f"it ended as {record.stop_reason!r}, its reward is {record.reward}"


def check_answer(moment: Moment) -> Iterator[Finding]:
    """Against the protocol of the environment."""
    world, record = world_of(moment), _record(moment)
    if world is None or record is None:
        return
    read = None
    if record.stop_reason is StopReason.ANSWERED and record.turns:
        read = world.protocol.parse(record.turns[-1].reply).answer
    yield record.answer == read, f"the last reply answers {read!r:.100}, the record says {record.answer!r:.100}"


def check_every_call(moment: Moment) -> Iterator[Finding]:
    """Against the protocol; a reply that ended the episode by its length or from outside was not read."""
    world = world_of(moment)
    said = moment.info.get("stop_reason")
    unread = (StopReason.MAX_CHARACTERS, StopReason.TOOL_TIMEOUT, StopReason.ANSWERED, StopReason.MALFORMED)
    if world is None or moment.kind != "step" or said in unread:
        return
    calls = world.protocol.parse(_whole(str(moment.action))).calls
    most = world.limits.max_calls
    results = moment.info["tool_results"]
    wanted = [None if isinstance(call, BadCall) else call.name for call in calls[:most]]
    wanted += [None] if len(calls) > most else []
    found = [result["name"] for result in results]
    yield found == wanted, f"the calls were {wanted!r:.200}, the results are of {found!r:.200}"


def check_boxes(moment: Moment) -> Iterator[Finding]:
    """Every result of the episode."""
    record = _record(moment)
    if record is None or world_of(moment) is None:
        return
    for result in record.tool_results:
        if result.executed_box is not None:
            picture = record.task.pictures[result.picture_index or 0]
            left, top, right, bottom = result.executed_box
            inside = 0 <= left < right <= picture.width_px and 0 <= top < bottom <= picture.height_px
            size = f"{picture.width_px}x{picture.height_px} px"
            yield inside and result.error is None, f"{tuple(result.executed_box)} in a picture of {size}"


def check_pixels(moment: Moment) -> Iterator[Finding]:
    """Overviews at reset, crops at the end, when the record tells which is which."""
    world, record = world_of(moment), _record(moment)
    if world is None:
        return
    if moment.kind == "reset":
        for picture, image in zip(world.task.pictures, moment.observation["images"], strict=False):
            whole = picture.pixels()
            yield _is_view(image, whole, world.view, world, enlarge=False), f"the overview is {image.shape[1::-1]} px"
    if record is None or not _are_plain(world, record.tool_results):
        return
    for past, turn in zip(moment.history[1:], record.turns, strict=False):
        yield from _crops(past, turn, record.task.pictures, world)


def _crops(past: Moment, turn: Turn, pictures: Sequence[Picture], world: VisualZoomEnv) -> Iterator[Finding]:
    """What a turn's calls had shown to the model: images of the observation after it, in the order of the results."""
    results = [result for result in turn.tool_results if result.image is not None]
    for result, image in zip(results, past.observation["images"], strict=False):
        if result.executed_box is not None:
            left, top, right, bottom = result.executed_box
            part = pictures[result.picture_index or 0].pixels()[top:bottom, left:right]
            found = f"the image of {tuple(result.executed_box)} is {image.shape[1::-1]} px"
            yield _is_view(image, part, world.crop, world, enlarge=True), found


def check_limits(moment: Moment) -> Iterator[Finding]:
    """At every moment of an episode."""
    world = world_of(moment)
    if world is None:
        return
    limits, past = world.limits, [*moment.history, moment]
    images = [image for one in past for image in one.observation["images"]]
    num_turns = len(past) - 1
    side_px = world.view.factor_px
    tokens = sum(image.shape[0] * image.shape[1] // side_px**2 for image in images)
    most = math.inf if limits.max_visual_tokens is None else limits.max_visual_tokens
    comparable = world.view.factor_px == world.crop.factor_px
    found = f"{num_turns} turns, {len(images)} images, {tokens} visual tokens under {limits}"
    in_time = num_turns < limits.max_turns or (num_turns == limits.max_turns and moment.ends)
    yield in_time and len(images) <= limits.max_images and (tokens <= most or not comparable), found


def check_silent_end(moment: Moment) -> Iterator[Finding]:
    """Rewards are paid at the end."""
    if world_of(moment) is None or moment.kind == "reset":
        return
    if moment.ends:
        shown = moment.observation
        yield shown["text"] == "" and len(shown["images"]) == 0, f"it shows {summary(shown)}"
    else:
        yield moment.reward == 0, f"{moment.reward} was paid before the end"


EPISODE_LAWS: dict[Law, MomentCheck] = {
    RECORD: check_record,
    ANSWER: check_answer,
    EVERY_CALL: check_every_call,
    BOXES_INSIDE: check_boxes,
    SHOWN_EXACT: check_pixels,
    LIMITS: check_limits,
    SILENT_END: check_silent_end,
}
"""Each law and its check."""


def _record(moment: Moment) -> Episode | None:
    record = moment.info.get("record")
    return record if moment.ends and isinstance(record, Episode) else None


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


def _are_plain(world: VisualZoomEnv, results: Sequence[ToolResult]) -> bool:
    """Only crops by tools that say their rules: no turned views, nothing that a tool drew itself."""
    names = {tool.name for tool in world.tools if isinstance(tool, Ruled)}
    made = [result for result in results if result.image is not None]
    return all(result.name in names and result.executed_box is not None for result in made)


def _is_view(image: Pixels, part: Pixels, rule: ViewRule, world: VisualZoomEnv, *, enlarge: bool) -> bool:
    size = rule.size_px(part.shape[1], part.shape[0], enlarge=enlarge)
    return np.array_equal(image, world.store.kernel.resize(part, *size))
