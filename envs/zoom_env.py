"""The environment: a question about a picture, replies that crop the picture, an answer.

Law: every text gives a step; the same seed and replies give the same episode; every episode ends with one
`StopReason` and one finished record; after the end nothing is shown and nothing can be done but `reset`.
Words belong to the protocol, crops to the tools, worth to the reward; no token is known here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from visualzoom.envs.boxes import Frame
from visualzoom.envs.image_store import ImageStore, default_store
from visualzoom.envs.images import ArrayPicture
from visualzoom.envs.open_episode import Limits, OpenEpisode, Shown, plain
from visualzoom.envs.protocol import PROTOCOLS, Parsed, WordProtocol
from visualzoom.envs.records import Box, Picture, Pixels, Reward, RewardFn, StopReason, Task, TaskSource, ToolResult
from visualzoom.envs.registry import made, misfit, resolve, suggest
from visualzoom.envs.render import with_boxes
from visualzoom.envs.spaces import ImageTuple, UnicodeText
from visualzoom.envs.tasks import HELD_OUT_FIRST, open_tasks
from visualzoom.envs.tools import TOOLS, Outcome, Sight, Tool, run_call
from visualzoom.envs.views import TINY_CROP, TINY_OVERVIEW, VIEWS, ViewRule

BAD_JSON = "bad_json"
"""Error of a call that could not be parsed; it has no name."""
_OPTIONS = ("task",)


class Observation(TypedDict):
    """What the agent sees: the images stand before the text. Both are empty after the end."""

    text: str
    images: tuple[Pixels, ...]


Step = tuple[Observation, float, bool, bool, dict[str, Any]]
"""(observation, reward, terminated, truncated, info)."""


class VisualZoomEnv(gymnasium.Env[Observation, str]):
    """Question and overview first; then crops of the original for calls, until an answer or a limit."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012  Gymnasium's own form

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
            store: Where pixels are kept; by default all environments of a process share one.
            render_mode: None or "rgb_array".

        Raises:
            LookupError: A name is not known, or is that of something else.
            ValueError: A limit or the render mode is out of range.
        """
        modes = self.metadata["render_modes"]
        if render_mode not in (None, *modes):
            raise ValueError(f"render_mode is {render_mode!r}; it must be None or one of {modes}")
        self.limits = Limits(
            max_turns=max_turns,
            max_images=max_images,
            max_characters=max_characters,
            max_visual_tokens=max_visual_tokens,
        )
        self.tasks: TaskSource = open_tasks(tasks)
        self.reward = _reward(reward)
        self.tools = _tools(tools)
        self.protocol = _protocol(protocol)
        self.view = _view_rule(view)
        self.crop = _view_rule(crop)
        self.store = default_store() if store is None else store
        self.render_mode = render_mode
        self.system = self.protocol.system(self.tools)
        self.action_space = UnicodeText(max_characters)
        space = spaces.Dict({"text": UnicodeText(), "images": ImageTuple(max_images)})
        self.observation_space = cast("spaces.Space[Observation]", space)
        self._episode: OpenEpisode | None = None

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
        task = self._choose(options or {})
        images = [self._shown(picture, None, self.view, enlarge=False) for picture in task.pictures]
        frame = Frame(images[0].ref.width_px, images[0].ref.height_px)
        episode = OpenEpisode(task=task, frame=frame, limits=self.limits)
        excess = episode.excess(images)
        if excess is not None:
            raise ValueError(f"the {len(images)} pictures of task {task.id!r} alone exceed {excess.value}; raise it")
        self._episode = episode
        return self._observe(episode, self.protocol.question(task), images), {"system": self.system}

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
        if parsed.call is None and parsed.bad_call is None:
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
        return self._end(self._running(), StopReason(reason), _whole(reply))

    def render(self) -> Pixels | None:
        """The first picture with its evidence (green) and the crops so far (red); None without a render mode."""
        if self.render_mode is None:
            return None
        episode = self._current()
        boxes = [(box, "lime") for box in episode.task.evidence]
        results = [result for turn in episode.turns for result in turn.tool_results]
        boxes += [(result.executed_box, "red") for result in results if result.executed_box is not None]
        return with_boxes(self.store.pixels(episode.task.pictures[0]), boxes)

    def _choose(self, options: Mapping[str, object]) -> Task:
        for name in options:
            if name not in _OPTIONS:
                hint = suggest(name, _OPTIONS)
                raise ValueError(f"reset has no option {name!r}; known: {', '.join(_OPTIONS)}.{hint}")
        chosen = options.get("task")
        if isinstance(chosen, Task):
            return chosen
        if chosen is None:
            chosen = self.np_random.integers(self.tasks.num_tasks or HELD_OUT_FIRST)
        if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer) or chosen < 0:
            raise ValueError(f"the option 'task' is {chosen!r}; give an index from 0 on or a Task")
        return self.tasks.task(int(chosen))

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
        """Run a call and show what it made, unless that was the last turn or is more than may be shown."""
        outcome = self._outcome(episode, parsed)
        name = None if parsed.call is None else parsed.call.name
        unseen = ToolResult(
            name=name,
            error=outcome.error,
            message=outcome.message,
            requested_box=outcome.requested_box,
            executed_box=outcome.executed_box,
        )
        if episode.is_last_turn:
            return self._end(episode, StopReason.MAX_TURNS, reply, [unseen])
        images = self._made(episode, outcome)
        excess = episode.excess(images)
        if excess is not None:
            return self._end(episode, excess, reply, [unseen])
        results = [dataclasses.replace(unseen, image=images[0].ref if images else None)]
        episode.close_turn(reply, results)
        observation = self._observe(episode, self.protocol.response(results), images)
        return observation, 0.0, False, False, {"tool_results": plain(results)}

    def _outcome(self, episode: OpenEpisode, parsed: Parsed) -> Outcome:
        """What the call comes to; nothing is shown yet."""
        if parsed.call is None:
            return Outcome(error=BAD_JSON, message=parsed.bad_call or "")
        sight = Sight(picture=episode.task.pictures[0], shown=episode.frame, store=self.store)
        return run_call(parsed.call, self.tools, sight)

    def _made(self, episode: OpenEpisode, outcome: Outcome) -> list[Shown]:
        """The image that the outcome makes, if it makes one."""
        if outcome.pixels is not None:
            return [self._shown(ArrayPicture(outcome.pixels), None, self.crop, enlarge=True)]
        if outcome.executed_box is not None:
            return [self._shown(episode.task.pictures[0], outcome.executed_box, self.crop, enlarge=True)]
        return []

    def _shown(self, picture: Picture, box: Box | None, rule: ViewRule, *, enlarge: bool) -> Shown:
        ref, pixels = self.store.view(picture, box, rule, enlarge)
        return Shown(ref, pixels, rule.cost(ref.width_px, ref.height_px))

    def _observe(self, episode: OpenEpisode, text: str, images: Sequence[Shown]) -> Observation:
        """Begin a turn; the agent gets pixels of its own, to keep or to change."""
        episode.open_turn(text, images)
        return {"text": text, "images": tuple(image.pixels.copy() for image in images)}

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
        record = episode.close(reason, system=self.system, answer=answer)
        reward = None if reason.failed else _checked(self.reward(record), self.reward)
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


def _tools(tools: str | Tool | Sequence[str | Tool]) -> tuple[Tool, ...]:
    given = tools if isinstance(tools, Sequence) and not isinstance(tools, str) else [tools]
    found = tuple(_tool(tool) for tool in given)
    names = [tool.name for tool in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two tools have one name: {', '.join(names)}; give each its own")
    return found


def _tool(tool: str | Tool) -> Tool:
    found = made(resolve(tool, TOOLS, kind="tool"))
    if not isinstance(found, Tool):
        raise misfit(found, kind="tool", needs="name, arguments, schema() and run()")
    return found


def _protocol(protocol: str | WordProtocol) -> WordProtocol:
    found = made(resolve(protocol, PROTOCOLS, kind="protocol"))
    if not isinstance(found, WordProtocol):
        raise misfit(found, kind="protocol", needs="the methods of visualzoom.envs.WordProtocol")
    return found


def _view_rule(rule: str | ViewRule) -> ViewRule:
    found = resolve(rule, VIEWS, kind="view rule")
    if not isinstance(found, ViewRule):
        raise misfit(found, kind="view rule", needs="to be a visualzoom.envs.ViewRule")
    return found


def _reward(reward: str | RewardFn) -> RewardFn:
    """The rewards have a registry of their own; a text names it here, for an environment knows no reward."""
    known = cast("Mapping[str, str]", resolve("visualzoom.rewards:REWARDS", {}, kind="registry"))
    found = made(resolve(reward, known, kind="reward"))
    if not callable(found):
        raise misfit(found, kind="reward", needs="to be called with an Episode")
    return cast(RewardFn, found)


def _checked(reward: object, rule: RewardFn) -> Reward:
    if not isinstance(reward, Reward):
        raise TypeError(f"{rule} gave {type(reward).__name__}; a reward function returns Reward(total=..., parts=...)")
    if not math.isfinite(reward.total):
        raise ValueError(f"{rule} gave the total {reward.total}; it must be finite")
    return reward
