"""The calls of one turn: from what was parsed to results, and to the images that are shown next.

Law: each call gives one result, whatever the others do; one that fails takes nothing from the others. An image that
the limits leave no room for is not shown, and its result says so; only if nothing could be shown ends the episode.
One that is given up at its deadline is the last that is run, and ends the episode: nothing is shown any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from visualzoom.envs.boxes import Coordinates, Frame, frame_of
from visualzoom.envs.deadline import within
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.open_episode import OpenEpisode, Shown
from visualzoom.envs.protocols.protocol import BadCall
from visualzoom.envs.records import Picture, StopReason, ToolCall, ToolResult
from visualzoom.envs.regions import Region
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.sight import Outcome, Seen, Sight, Tool
from visualzoom.envs.views import ViewRule

BAD_JSON = "bad_json"
"""Error of a call that could not be parsed; it has no name."""
TOOL_TIMEOUT = "tool_timeout"
"""Error of a call that was given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Eye:
    """How images are shown, and in which coordinates the model speaks of them."""

    store: ImageStore
    coordinates: Coordinates

    def show(self, picture: Picture, region: Region, rule: ViewRule, *, enlarge: bool, index: int | None) -> Shown:
        """The part of the picture as the rule shows it.

        Raises:
            ImageError: The picture can't be had.
        """
        ref, pixels = self.store.view(picture, region, rule, enlarge)
        frame = frame_of(self.coordinates, Frame(ref.width_px, ref.height_px), region.size)
        seen = Seen(picture=picture, region=region, frame=frame, index=index)
        return Shown(ref, pixels, rule.cost(ref.width_px, ref.height_px), seen)

    def made(self, outcome: Outcome, seen: Sequence[Seen], rule: ViewRule, *, enlarge: bool) -> Shown | None:
        """The image that an outcome makes of those that were seen, if it makes one."""
        if outcome.pixels is not None:
            own = ArrayPicture(outcome.pixels)
            return self.show(own, Region.whole(own.width_px, own.height_px), rule, enlarge=enlarge, index=None)
        source = seen[outcome.image_index]
        region = outcome.region
        if region is None and outcome.executed_box is not None:
            region = Region.whole(source.picture.width_px, source.picture.height_px).crop(outcome.executed_box)
        if region is None:
            return None
        return self.show(source.picture, region, rule, enlarge=enlarge, index=source.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallsDone:
    """What the calls of a turn came to."""

    results: tuple[ToolResult, ...]
    images: tuple[Shown, ...]
    full: StopReason | None = None
    """The limit that left no room for any image."""
    timed_out: bool = False
    """The last of these calls was given up, and no image is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRunner:
    """Runs the calls of a turn."""

    tools: tuple[Tool, ...]
    eye: Eye
    rule: ViewRule
    """Size at which a tool's picture is shown."""
    upscale: bool
    """Enlarge small ones to fill it."""

    def run(self, episode: OpenEpisode, calls: Sequence[ToolCall | BadCall]) -> CallsDone:
        """Run as many calls as a turn may have, one after another; each sees what was shown before this turn.

        A call that takes too long, with the drawing of its image, is the last one that is run.
        """
        most = episode.limits.max_calls
        turn = _Turn(episode)
        for call in calls[:most]:
            try:
                done = within(episode.limits.tool_timeout_s, partial(self._done, episode, call))
            except TimeoutError as problem:
                given_up = turn.result(call, Outcome(error=TOOL_TIMEOUT, message=f"The call was given up: {problem}."))
                return CallsDone(results=(*map(_unshown, turn.results), given_up), images=(), timed_out=True)
            turn.add(call, *done)
        if len(calls) > most:
            turn.results.append(_too_many(len(calls) - most, most, episode.seen[0].size_told))
        return CallsDone(
            results=tuple(turn.results), images=tuple(turn.images), full=None if turn.images else turn.full
        )

    def _done(self, episode: OpenEpisode, call: ToolCall | BadCall) -> tuple[Outcome, Shown | None]:
        """What a call comes to, and the image that it makes; in the last turn nothing is shown any more."""
        seen = tuple(episode.seen)
        if isinstance(call, BadCall):
            return Outcome(error=BAD_JSON, message=f"{call.problem} {seen[0].size_told}"), None
        outcome = run_call(call, self.tools, Sight(images=seen, store=self.eye.store))
        if episode.is_last_turn:
            return outcome, None
        return outcome, self.eye.made(outcome, seen, self.rule, enlarge=self.upscale)


@dataclass(slots=True)
class _Turn:
    """What the calls so far came to."""

    episode: OpenEpisode
    results: list[ToolResult] = field(default_factory=list)
    images: list[Shown] = field(default_factory=list)
    full: StopReason | None = None

    def add(self, call: ToolCall | BadCall, outcome: Outcome, image: Shown | None) -> None:
        result = self.result(call, outcome)
        excess = None if image is None else self.episode.excess([*self.images, image])
        if image is not None and excess is None:
            shown_index = len(self.episode.seen) + len(self.images)
            self.images.append(image)
            result = dataclasses.replace(result, image=image.ref, visual_tokens=image.cells, shown_index=shown_index)
        elif excess is not None:
            self.full = excess
            if self.images:  # the turn goes on, so the model must be told
                message = _no_room(self.episode, excess, num_shown=len(self.episode.seen) + len(self.images))
                result = dataclasses.replace(result, error="too_many_images", message=message, executed_box=None)
        self.results.append(result)

    def result(self, call: ToolCall | BadCall, outcome: Outcome) -> ToolResult:
        seen = self.episode.seen
        in_original = outcome.image_index < len(seen) and seen[outcome.image_index].index is not None
        return ToolResult(
            name=None if isinstance(call, BadCall) else call.name,
            error=outcome.error,
            message=outcome.message,
            requested_box=outcome.requested_box,
            executed_box=outcome.executed_box if in_original else None,
            image_index=outcome.image_index,
            picture_index=seen[outcome.image_index].index if in_original else None,
            whole_image=outcome.whole_image,
        )


def _unshown(result: ToolResult) -> ToolResult:
    """What was made, and never shown because the episode ended."""
    return dataclasses.replace(result, image=None, visual_tokens=0, shown_index=None)


def _too_many(num_left: int, most: int, size_told: str) -> ToolResult:
    message = f"{num_left} more calls were not run; at most {most} calls are run in one reply. {size_told}"
    return ToolResult(name=None, error="too_many_calls", message=message)


def _no_room(episode: OpenEpisode, excess: StopReason, *, num_shown: int) -> str:
    images, tokens = f"{episode.limits.max_images} images", f"{episode.limits.max_visual_tokens} visual tokens"
    room = images if excess is StopReason.MAX_IMAGES else tokens
    found = f"{num_shown} images were, and an episode has room for {room}"
    return f"This image could not be shown: {found}. {episode.seen[0].size_told}"
