"""The environment: a question about a picture, replies that crop the picture, an answer.

Law: every text gives a step; the same seed and replies give the same episode; every episode ends with one
`StopReason` and one finished record; after the end nothing is shown and nothing can be done but `reset`.
Words belong to the protocol, crops to the tools, worth to the reward; no token is known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.calls import CallRunner, Eye
from visualzoom.envs.human_window import HumanWindow
from visualzoom.envs.images.image_store import ImageStore, default_store
from visualzoom.envs.open_episode import Limits, OpenEpisode, Shown, plain
from visualzoom.envs.parts import (
    checked_coordinates,
    checked_reward,
    fixed_coordinates,
    open_protocol,
    open_reward,
    open_tools,
    open_view_rule,
)
from visualzoom.envs.protocols.direct import direct_question, direct_system
from visualzoom.envs.protocols.protocol import Parsed, WordProtocol
from visualzoom.envs.records import Pixels, RewardFn, StopReason, Task, TaskSource, ToolResult
from visualzoom.envs.regions import Region
from visualzoom.envs.registry import suggest
from visualzoom.envs.render import draw_episode
from visualzoom.envs.snapshot import Snapshot, differences, set_chance, take, verified
from visualzoom.envs.spaces import ImageTuple, UnicodeText
from visualzoom.envs.tasks.sources import chosen_task, open_tasks
from visualzoom.envs.tools.sight import Tool
from visualzoom.envs.views import TINY_CROP, TINY_OVERVIEW, ViewRule


class Observation(TypedDict):
    """What the agent sees: the images stand before the text. Both are empty after the end."""

    text: str
    images: tuple[Pixels, ...]


Step = tuple[Observation, float, bool, bool, dict[str, Any]]
"""(observation, reward, terminated, truncated, info)."""


class VisualZoomEnv(gymnasium.Env[Observation, str]):
    """Question and overview first; then crops of the original for calls, until an answer or a limit."""

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 1}  # noqa: RUF012  Gymnasium's own form

    def __init__(
        self,
        tasks: str | TaskSource | Sequence[Task] = "digit",
        reward: str | RewardFn = "deepeyes",
        tools: str | Tool | Sequence[str | Tool] = ("image_zoom_in_tool",),
        protocol: str | WordProtocol = "deepeyes-v2",
        view: str | ViewRule = TINY_OVERVIEW,
        crop: str | ViewRule = TINY_CROP,
        max_turns: int = 2,
        max_images: int = 8,
        max_characters: int = 16_384,
        max_visual_tokens: int | None = None,
        max_calls: int = 4,
        tool_timeout_s: float | None = None,
        coordinates: Coordinates | None = None,
        upscale: bool = True,
        kernel: str | None = None,
        share_images: bool = False,
        store: ImageStore | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Everything may be a name, a text "module:attribute", or the object itself; the default is the tiny preset.

        Args:
            tasks: Family, mixture, data file, tasks, or a source of tasks.
            reward: What a finished episode is worth.
            tools: What may be called.
            protocol: The words.
            view: Size at which the task's own pictures are shown.
            crop: Size at which a tool's picture is shown; it is enlarged to fill it.
            max_turns: Replies in an episode; the last one must answer.
            max_images: Images shown in an episode, the overview included.
            max_characters: Longest reply.
            max_visual_tokens: Cells of all images shown in an episode; no bound if None.
            max_calls: Calls run in one turn, for protocols that know several.
            tool_timeout_s: Longest time of one call; the episode then ends as `tool_timeout`. No bound if None.
            coordinates: In which boxes are given: pixels as "shown" or of the "original", "0-1000" or "0-1"; by default
                as the protocol says, else "shown".
            upscale: Show a small crop as large as `crop` allows; else no larger than it is.
            kernel: What scales pictures: "pillow" (the default), "torch", "auto" (torch where it is installed).
            share_images: Hand out the store's own read-only arrays in place of copies: faster, and siblings share them.
            store: Where pixels are kept; by default all environments of a process and kernel share one.
            render_mode: None, "rgb_array", or "human": a window that shows every turn.

        Raises:
            LookupError: A name is not known, or is that of something else.
            ValueError: A limit, the coordinates or the render mode are out of range.
        """
        modes = self.metadata["render_modes"]
        if render_mode not in (None, *modes):
            raise ValueError(f"render_mode is {render_mode!r}; it must be None or one of {modes}")
        if kernel is not None and store is not None:
            raise ValueError("a store has a kernel already; give one of kernel and store")
        self.limits = Limits(
            max_turns=max_turns,
            max_images=max_images,
            max_characters=max_characters,
            max_visual_tokens=max_visual_tokens,
            max_calls=max_calls,
            tool_timeout_s=tool_timeout_s,
        )
        self.tasks: TaskSource = open_tasks(tasks)
        self.reward = open_reward(reward)
        self.tools = open_tools(tools)
        self.protocol = open_protocol(protocol)
        self.view = open_view_rule(view)
        self.crop = open_view_rule(crop)
        self.coordinates: Coordinates = checked_coordinates(coordinates or fixed_coordinates(self.protocol) or "shown")
        self.store = default_store(kernel or "pillow") if store is None else store
        self.share_images = share_images
        self.render_mode = render_mode
        self.system = self.protocol.system(self.tools, self.coordinates)
        self.action_space = UnicodeText(max_characters)
        space = spaces.Dict({"text": UnicodeText(), "images": ImageTuple(max_images)})
        self.observation_space = cast("spaces.Space[Observation]", space)
        self._eye = Eye(store=self.store, coordinates=self.coordinates)
        self._runner = CallRunner(tools=self.tools, eye=self._eye, rule=self.crop, upscale=upscale)
        self._upscale = upscale
        self._window = HumanWindow("visualzoom", fps=self.metadata["render_fps"])
        self._episode: OpenEpisode | None = None
        self._task_index: int | None = None

    @property
    def task(self) -> Task:
        """The task of this episode: the truth, which policies must not look at.

        Raises:
            ResetNeeded: There is no episode yet.
        """
        return self._current().task

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, object] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a task and show its question and overview.

        Args:
            seed: Starts chance anew; without it the stream of tasks goes on.
            options: {"task": index or Task} chooses the task in place of chance.

        Raises:
            ValueError: An option is not known, or the task's own pictures exceed the limits.
            ImageError: A picture of the task can't be had.
        """
        super().reset(seed=seed)
        self._episode = None
        index, task = chosen_task(options or {}, self.tasks, self.np_random)
        observation = self._begin(task)
        self._task_index = index
        return observation, {"system": self._system(task)}

    def step(self, action: str) -> Step:
        """Read a reply: an answer ends the episode, a call is run and its outcome shown.

        Raises:
            ResetNeeded: The episode is over or has not begun.
            TypeError: The reply is no text.
        """
        episode = self._running()
        if not isinstance(action, str):
            raise TypeError(f"the action is {type(action).__name__}; it must be the text of a reply")
        reply = _whole(action)
        if len(reply) > self.limits.max_characters:
            return self._end(episode, StopReason.MAX_CHARACTERS, reply)
        parsed = self.protocol.parse(reply)
        if parsed.answer is not None:
            return self._end(episode, StopReason.ANSWERED, reply, answer=parsed.answer)
        if not parsed.calls or episode.task.direct:  # who was offered no tool has said nothing by calling one
            return self._end(episode, StopReason.MALFORMED, reply)
        return self._look(episode, reply, parsed)

    def stop(self, reason: StopReason | str, reply: str = "") -> Step:
        """End the episode from outside, for what only the token side knows: a cut reply, a full context, an abort.

        Call it on `env.unwrapped`; it returns what `step` would.

        Args:
            reason: Any truncation; `answered` and `malformed` are the environment's own.
            reply: What there is of the reply; it is recorded and not read.

        Raises:
            ResetNeeded: The episode is over or has not begun.
            ValueError: The reason does not truncate.
        """
        known = [member.value for member in StopReason if not member.terminated]
        if reason not in known:
            hint = suggest(str(reason), known)
            raise ValueError(f"{reason!r} can't stop an episode from outside; {', '.join(known)} can.{hint}")
        episode = self._running()
        episode.was_stopped = True
        return self._end(episode, StopReason(reason), _whole(reply))

    def render(self) -> Pixels | None:
        """The episode as a page: evidence in green, crops in red; None without a mode, or where a window shows it."""
        return self._page() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if there is one."""
        self._window.close()

    def _page(self) -> Pixels:
        return draw_episode(self._current(), self.store, self.crop, enlarge=self._upscale)

    def _show_people(self) -> None:
        """What a person at the window sees; nothing in the other modes."""
        if self.render_mode == "human":
            self._window.show(self._page())

    def snapshot(self) -> Snapshot:
        """The state of the episode and of chance, as a dict that JSON can hold: the task, the replies, image names.

        Raises:
            ResetNeeded: There is no episode yet.
        """
        return take(self._current(), task_index=self._task_index, chance=self.np_random.bit_generator.state)

    def restore(self, snapshot: Snapshot, *, task: Task | None = None) -> tuple[Observation, dict[str, Any]]:
        """Play the snapshot's replies again, and go on from there; what was shown must be what is shown now.

        What calls came to that were given up at a deadline is not on the new record. If it is refused, there is no
        episode, and chance is as it was.

        Args:
            snapshot: Of an environment with the same settings.
            task: Needed if the snapshot's episode was begun with a Task in place of an index.

        Returns:
            The observation and info of the turn that is open (or of the end).

        Raises:
            ValueError: It is no snapshot, or this environment shows something else: other settings, another task.
            ImageError: A picture of the task can't be had.
        """
        wanted = verified(snapshot)
        index = wanted["task"]["index"]
        if index is None and task is None:
            raise ValueError("the snapshot's episode was begun with a Task, not an index; pass it again: task=...")
        mode, self.render_mode = self.render_mode, None  # nobody wants to watch it again
        chance = self.np_random.bit_generator.state
        try:
            observation, info = self._play_again(wanted, index if task is None else task)
        except BaseException:
            self._episode = None  # half of an episode is none
            set_chance(self.np_random, chance)
            raise
        finally:
            self.render_mode = mode
        self._show_people()
        return observation, info

    def _play_again(self, wanted: Snapshot, task: object) -> tuple[Observation, dict[str, Any]]:
        try:
            observation, info = self.reset(options={"task": task})
        except IndexError as problem:
            raise ValueError(f"the snapshot's task is not here: {problem}") from None
        for reply in wanted["replies"]:
            if self._current().stop_reason is not None:
                break
            stop = reply["stop"]
            step = self.step(reply["text"]) if stop is None else self.stop(stop, reply["text"])
            observation, info = step[0], step[4]
        set_chance(self.np_random, wanted["chance"])
        different = differences(self.snapshot(), wanted)
        if different:
            raise ValueError(
                f"the snapshot can't be restored here: {', '.join(different)} differ; make the environment as it was"
            )
        return observation, info

    def _begin(self, task: Task) -> Observation:
        """Show the question and the task's own pictures."""
        images = [
            self._eye.show(
                picture, Region.whole(picture.width_px, picture.height_px), self.view, enlarge=False, index=index
            )
            for index, picture in enumerate(task.pictures)
        ]
        episode = OpenEpisode(task=task, limits=self.limits)
        excess = episode.excess(images)
        if excess is not None:
            raise ValueError(f"the {len(images)} pictures of task {task.id!r} alone exceed {excess.value}; raise it")
        self._episode = episode
        question = direct_question(self.protocol, task) if task.direct else self.protocol.question(task)
        return self._observe(episode, question, images)

    def _system(self, task: Task) -> str:
        return direct_system(self.protocol) if task.direct else self.system

    def _current(self) -> OpenEpisode:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("there is no episode yet; call reset() first")
        return self._episode

    def _running(self) -> OpenEpisode:
        episode = self._current()
        if episode.stop_reason is not None:
            raise gymnasium.error.ResetNeeded(f"the episode is over ({episode.stop_reason.value}); call reset()")
        return episode

    def _look(self, episode: OpenEpisode, reply: str, parsed: Parsed) -> Step:
        """Run the calls and show what they made, unless that was the last turn or is more than may be shown."""
        done = self._runner.run(episode, parsed.calls)
        if done.timed_out:
            episode.was_stopped = True
            return self._end(episode, StopReason.TOOL_TIMEOUT, reply, done.results)
        if episode.is_last_turn:
            return self._end(episode, StopReason.MAX_TURNS, reply, done.results)
        if done.full is not None:
            return self._end(episode, done.full, reply, done.results)
        episode.close_turn(reply, done.results)
        observation = self._observe(episode, self.protocol.response(done.results), done.images)
        return observation, 0.0, False, False, {"tool_results": plain(done.results)}

    def _observe(self, episode: OpenEpisode, text: str, images: Sequence[Shown]) -> Observation:
        """Begin a turn."""
        episode.open_turn(text, images)
        self._show_people()
        shown = (image.pixels for image in images)
        return {"text": text, "images": tuple(shown if self.share_images else map(np.array, shown))}

    def _end(
        self,
        episode: OpenEpisode,
        reason: StopReason,
        reply: str,
        results: Sequence[ToolResult] = (),
        *,
        answer: str | None = None,
    ) -> Step:
        """Close the record and score it; a fault that is not the policy's has no reward."""
        episode.close_turn(reply, results)
        record = episode.close(reason, system=self._system(episode.task), answer=answer)
        self._show_people()
        reward = None if reason.failed else checked_reward(self.reward(record), self.reward)
        info = {
            "tool_results": plain(results),
            "stop_reason": reason.value,
            "reward_parts": {} if reward is None else dict(reward.parts),
            "record": dataclasses.replace(record, reward=reward),
        }
        nothing: Observation = {"text": "", "images": ()}
        return nothing, 0.0 if reward is None else float(reward.total), reason.terminated, not reason.terminated, info


def _whole(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()
