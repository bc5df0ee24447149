"""Any Gymnasium environment as one that a language model plays: words and pictures out, replies in.

Two functions of yours do it (see show_parse.py): `show` says what the model sees, `parse` reads an action in a reply.
Law: every text gives a step. The world inside is stepped only with actions of its own space and never after its end;
what it pays is paid as it comes. A reply that can't be read is a turn whose outcome is a message to the model, and
nothing happens in the world. Equal tasks and replies give equal episodes, if the world keeps its own seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from visualzoom.envs.foreign.episode import ForeignEpisode, plain_info, without_halves
from visualzoom.envs.foreign.show_parse import BadReply, Parse, Show, World
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.parts import open_view_rule
from visualzoom.envs.records import StopReason, Task
from visualzoom.envs.registry import misfit, resolve, suggest
from visualzoom.envs.spaces import ImageTuple, UnicodeText
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST
from visualzoom.envs.views import TINY_OVERVIEW, ViewRule
from visualzoom.envs.zoom_env import Observation, Step

MAX_IMAGES_A_TURN = 16
UNREADABLE = "The reply could not be read."
IMPOSSIBLE = "This is not one of the possible actions."
TOO_LONG = "The reply is too long."
CUT_OFF = "The reply was cut off."
EMPTY_PAGE = ArrayPicture(np.full((28, 28, 3), 255, dtype=np.uint8))
"""The picture of a task whose world shows none: a task has at least one."""


class AdaptedEnv(gymnasium.Env[Observation, str]):
    """A world of somebody else's, played in words."""

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "ansi"]}  # noqa: RUF012  Gymnasium's own form

    def __init__(
        self,
        env: str | Callable[..., World],
        show: str | Show,
        parse: str | Parse,
        *,
        per_task: str | Callable[[int], Mapping[str, Any]] | None = None,
        system: str = "",
        max_turns: int = 16,
        max_bad_replies: int = 3,
        bad_reply_reward: float = 0.0,
        max_characters: int = 16_384,
        view: str | ViewRule = TINY_OVERVIEW,
        render_mode: str | None = None,
    ) -> None:
        """Functions may also be texts "module:name", so that the spec of a registered id is plain JSON.

        Args:
            env: Gymnasium id, or what makes the world when it is called.
            show: What the model sees.
            parse: What the model does.
            per_task: From a task's index to keyword arguments with which the world is made for it, where worlds
                differ by more than the seed of their reset. Without it one world is made and kept.
            system: System prompt.
            max_turns: Replies in an episode.
            max_bad_replies: With so many replies that can't be read the episode ends, `malformed`.
            bad_reply_reward: Paid for each of them, 0 or less. Who is cut off pays for all that were left.
            max_characters: Longest reply.
            view: Size at which pictures are shown.
            render_mode: Of the world.

        Raises:
            LookupError: A name is not known, or is that of something else.
            ValueError: A limit or the reward is out of range.
            TypeError: `env` is neither an id nor something that can be called.
            gymnasium.error.Error: There is no such environment.
        """
        for name, limit in {"max_turns": max_turns, "max_bad_replies": max_bad_replies}.items():
            if limit < 1:
                raise ValueError(f"{name} is {limit}; it must be at least 1")
        if not -math.inf < bad_reply_reward <= 0:
            raise ValueError(f"bad_reply_reward is {bad_reply_reward}; it must be 0 or less: nobody is paid for noise")
        self.system = system
        self.max_turns, self.max_bad_replies = max_turns, max_bad_replies
        self.bad_reply_reward = float(bad_reply_reward)
        self.view = open_view_rule(view)
        self.action_space = UnicodeText(max_characters)
        space = spaces.Dict({"text": UnicodeText(), "images": ImageTuple(MAX_IMAGES_A_TURN)})
        self.observation_space = cast("spaces.Space[Observation]", space)
        self._show = cast(Show, _called(show, kind="show"))
        self._parse = cast(Parse, _called(parse, kind="parse"))
        self._per_task = None if per_task is None else _called(per_task, kind="per_task")
        if not (isinstance(env, str) or callable(env)):
            raise TypeError(f"env is {env!r:.100}; give a Gymnasium id, or what makes a world when it is called")
        given = {} if render_mode is None else {"render_mode": render_mode}
        known = partial(gymnasium.make, env, disable_env_checker=True) if isinstance(env, str) else env
        self._make_world = partial(known, **given)
        self._made_for, self.world = 0, self._make(0)
        self.metadata = dict(self.world.metadata)
        self.render_mode = self.world.render_mode
        self._episode: ForeignEpisode | None = None

    @property
    def task(self) -> Task:
        """What is played: its id names the world and the index, its question is the first thing shown.

        Raises:
            ResetNeeded: There is no episode yet.
        """
        return self._begun().task

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the world of a task and show it.

        Args:
            seed: Starts chance anew; it draws the task where none is chosen.
            options: {"task": index} chooses the task: the world is reset with the index as its seed, so that all
                episodes of a task are of one world. Whatever else stands there is handed to the world.

        Raises:
            ValueError: The task is no index.
        """
        super().reset(seed=seed)
        self._episode = None
        rest = dict(options or {})
        index = self._index(rest.pop("task", None))
        if self._per_task is not None and index != self._made_for:
            self.world.close()
            self._made_for, self.world = index, self._make(index)
        observation, info = self.world.reset(seed=index, options=rest or None)
        text, pictures = self._seen(observation, info)
        name = _name_of(self.world)
        task = Task(id=f"{name}-{index}", question=text, answer="", pictures=pictures or (EMPTY_PAGE,), family=name)
        self._episode = ForeignEpisode(task=task, system=self.system)
        return self._episode.open_turn(text, pictures), {"system": self.system, "world": plain_info(info)}

    def step(self, action: str) -> Step:
        """Read a reply and do in the world what it says.

        Raises:
            ResetNeeded: The episode is over or has not begun.
            TypeError: The reply is no text.
        """
        episode = self._running()
        if not isinstance(action, str):
            raise TypeError(f"the action is {type(action).__name__}; it must be the text of a reply")
        reply = without_halves(action)
        if not self.action_space.contains(reply):
            return self._refused(episode, reply, TOO_LONG, cut=StopReason.MAX_CHARACTERS)
        try:
            decision = self._read(reply)
        except BadReply as problem:
            return self._refused(episode, reply, without_halves(str(problem)))
        return self._done(episode, reply, decision)

    def stop(self, reason: StopReason | str, reply: str = "") -> Step:
        """End the episode from outside, for what only the token side knows: a cut reply, a full context, an abort.

        Call it on `env.unwrapped`; it returns what `step` would. A reply that was cut counts as a bad one.

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
        if reason == StopReason.MAX_TOKENS:
            return self._refused(episode, without_halves(reply), CUT_OFF, cut=StopReason.MAX_TOKENS)
        episode.close_turn(without_halves(reply))
        return episode.close(StopReason(reason), reward=0.0, info={})

    def render(self) -> Any:
        """What the world renders."""
        return self.world.render()

    def close(self) -> None:
        """Close the world."""
        self.world.close()

    def _make(self, index: int) -> World:
        return self._make_world(**({} if self._per_task is None else self._per_task(index)))

    def _index(self, chosen: object) -> int:
        if chosen is None:
            chosen = self.np_random.integers(HELD_OUT_FIRST)
        if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer) or chosen < 0:
            raise ValueError(f"the option 'task' is {chosen!r}; give an index from 0 on: it is the seed of the world")
        return int(chosen)

    def _begun(self) -> ForeignEpisode:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("there is no episode yet; call reset() first")
        return self._episode

    def _running(self) -> ForeignEpisode:
        episode = self._begun()
        if episode.stop_reason is not None:
            raise gymnasium.error.ResetNeeded(f"the episode is over ({episode.stop_reason.value}); call reset()")
        return episode

    def _seen(self, observation: object, info: Mapping[str, Any]) -> tuple[str, tuple[ArrayPicture, ...]]:
        """Words and pictures of what the world gave, at the size at which they are shown."""
        text, images = _parts(self._show(observation, info, self.world))
        if len(images) > MAX_IMAGES_A_TURN:
            raise ValueError(f"`show` gave {len(images)} pictures; at most {MAX_IMAGES_A_TURN} are shown at once")
        fitted = (self.view.show(ArrayPicture(image).pixels(), False) for image in images)
        return without_halves(text), tuple(ArrayPicture(pixels) for pixels in fitted)

    def _read(self, reply: str) -> object:
        """The action in the reply, which the world can do."""
        try:
            decision = self._parse(reply)
        except BadReply:
            raise
        except (ValueError, LookupError):  # int("left"), {"left": 0}["up"]; no words of a library are for the model
            raise BadReply(UNREADABLE) from None
        if not self.world.action_space.contains(decision):
            raise BadReply(IMPOSSIBLE)
        return decision

    def _refused(self, episode: ForeignEpisode, reply: str, message: str, *, cut: StopReason | None = None) -> Step:
        """A turn in which nothing was done. Who is cut off pays all fines that were left: it is no cheap way out."""
        num_fines = 1 if cut is None else self.max_bad_replies - episode.num_bad
        fine = num_fines * self.bad_reply_reward
        episode.num_bad += num_fines
        episode.fined += fine
        too_many = StopReason.MALFORMED if episode.num_bad >= self.max_bad_replies else None
        reason = cut or too_many or self._last_turn(episode)
        episode.close_turn(reply, message)
        info = {"bad_reply": message}
        if reason is not None:
            return episode.close(reason, reward=fine, info=info)
        return episode.open_turn(message), fine, False, False, info

    def _done(self, episode: ForeignEpisode, reply: str, decision: object) -> Step:
        """A turn in which the world went on."""
        observation, reward, terminated, truncated, info = self.world.step(decision)
        paid = float(reward)
        if not math.isfinite(paid):
            raise ValueError(f"{_name_of(self.world)} paid {paid}; a reward must be finite")
        episode.paid += paid
        reason = self._last_turn(episode)
        if terminated or truncated:
            reason = StopReason.ANSWERED if terminated else StopReason.MAX_TURNS
        episode.close_turn(reply)
        told = {"world": plain_info(info)}
        if reason is not None:
            return episode.close(reason, reward=paid, info=told)
        return episode.open_turn(*self._seen(observation, info)), paid, False, False, told

    def _last_turn(self, episode: ForeignEpisode) -> StopReason | None:
        return StopReason.MAX_TURNS if len(episode.turns) + 1 >= self.max_turns else None


adapt = AdaptedEnv
"""`adapt(env, show, parse)`: the environment as one that the trainer can train."""


def _called(given: object, *, kind: str) -> Callable[..., Any]:
    found = resolve(given, {}, kind=kind)
    if not callable(found):
        raise misfit(found, kind=kind, needs="to be a function")
    return found


def _parts(given: object) -> tuple[str, tuple[Any, ...]]:
    """Words and pictures that a `show` gave."""
    parts = {"text": given, "images": ()} if isinstance(given, str) else given
    if not isinstance(parts, Mapping) or set(parts) != {"text", "images"} or not isinstance(parts["text"], str):
        raise TypeError(f"`show` gave {given!r:.80}; give words, or a dict of `text` (words) and `images` (RGB arrays)")
    return parts["text"], tuple(parts["images"])


def _name_of(world: World) -> str:
    return type(world.unwrapped).__name__ if world.spec is None else world.spec.id
