"""Defects of published environments, rebuilt small on our own."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

import numpy as np

from visualzoom.envs import Box, DeepEyesV2, ImageStore, Parsed, ViewRule, VisualZoomEnv
from visualzoom.envs.testing import (
    make_task,
)

SMALL = ViewRule(factor_px=4, min_px=4 * 16, max_px=32 * 16)


def make_env(kind: type[VisualZoomEnv] = VisualZoomEnv, **settings: Any) -> VisualZoomEnv:
    small: dict[str, Any] = {"view": SMALL, "crop": SMALL, "max_turns": 4, "max_images": 5, "max_characters": 400}
    tasks = [make_task(number, width_px=60, height_px=40) for number in range(3)]
    return kind(**small | {"tasks": tasks, "store": ImageStore()} | settings)


class BothEnds(VisualZoomEnv):
    """An end at the turn limit is terminated and truncated."""

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or info.get("stop_reason") == "max_turns", truncated, info


class OneFlag(VisualZoomEnv):
    """`done` is all there is: a truncated episode looks like a finished one."""

    def stop(self, reason: Any, reply: str = "") -> Any:
        observation, reward, _, _, info = super().stop(reason, reply)
        return observation, reward, True, False, info


class PaysFailures(VisualZoomEnv):
    """A time-out is scored, too."""

    def stop(self, reason: Any, reply: str = "") -> Any:
        observation, _, terminated, truncated, info = super().stop(reason, reply)
        return observation, 0.2, terminated, truncated, info


class PaysCalls(VisualZoomEnv):
    """Half a point for each valid call, whatever comes of the episode."""

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + 0.5 * len(observation["images"]), terminated, truncated, info


class NeverEnds(VisualZoomEnv):
    """A malformed reply is asked for again, for ever."""

    def step(self, action: str) -> Any:
        parsed = self.protocol.parse(action.encode(errors="replace").decode())
        if parsed == Parsed() and self._episode is not None and self._episode.stop_reason is None:
            return {"text": "Again, please.", "images": ()}, 0.0, False, False, {"tool_results": []}
        return super().step(action)


class KeepsState(VisualZoomEnv):
    """A mutable default: what one episode saw, the next one has."""

    def reset(self, *, seed: Any = None, options: Any = None, seen: list[int] = []) -> Any:  # noqa: B006  the defect
        observation, info = super().reset(seed=seed, options=options)
        seen.append(1)
        return {**observation, "text": observation["text"] + " " * (len(seen) % 5)}, info


class NoSeed(VisualZoomEnv):
    """The seed is taken and forgotten: siblings of a group get different worlds."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(options=options)


class GlobalSeed(VisualZoomEnv):
    """The process's own generators are seeded."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        np.random.seed(seed)
        return super().reset(seed=seed, options=options)


class OneBuffer(VisualZoomEnv):
    """Every observation is written into the same memory."""

    def _observe(self, *given: Any) -> Any:
        observation = super()._observe(*given)
        for image in observation["images"]:
            self.buffer[: image.size] = image.ravel()
        shown = tuple(self.buffer[: image.size].reshape(image.shape) for image in observation["images"])
        return {**observation, "images": shown}

    buffer = np.zeros(2**16, np.uint8)


class HandsOutItsOwn(VisualZoomEnv):
    """What it shows is what it keeps."""

    def _observe(self, episode: Any, text: str, images: Any) -> Any:
        observation = super()._observe(episode, text, images)
        kept = self.__dict__.setdefault("kept", {})
        return observation if episode.turns else kept.setdefault(episode.task.id, observation)


class OpenRecord(VisualZoomEnv):
    """The last turn is missing on record."""

    def _end(self, *given: Any, **named: Any) -> Any:
        *step, info = super()._end(*given, **named)
        return (*step, {**info, "record": dataclasses.replace(info["record"], turns=info["record"].turns[:-1])})


class AnswersFromTheTranscript(VisualZoomEnv):
    """The answer is what stands last between the tags of all that was said, the world's own suffix included."""

    def _end(self, *given: Any, **named: Any) -> Any:
        *step, info = super()._end(*given, **named)
        record = info["record"]
        said = "".join(turn.text + turn.reply for turn in record.turns)
        answers = re.findall("<answer>(.*?)</answer>", said, re.DOTALL)
        return (*step, {**info, "record": dataclasses.replace(record, answer=answers[-1] if answers else None)})


class AnswersWithoutTags(VisualZoomEnv):
    """A reply without an answer is one, all of it."""

    def _end(self, episode: Any, reason: Any, reply: str, results: Any = (), **named: Any) -> Any:
        *step, info = super()._end(episode, reason, reply, results, **named)
        record = info["record"]
        answer = record.answer if record.answer is not None else reply
        return (*step, {**info, "record": dataclasses.replace(record, answer=answer)})


class CountsPrintedImages(VisualZoomEnv):
    """An image token in a reply is taken for an image: who prints one has used the tool."""

    def _end(self, *given: Any, **named: Any) -> Any:
        *step, info = super()._end(*given, **named)
        turns = [
            dataclasses.replace(turn, images=turn.images + turn.images[:1] * turn.reply.count("<|image_pad|>"))
            for turn in info["record"].turns
        ]
        return (*step, {**info, "record": dataclasses.replace(info["record"], turns=tuple(turns))})


class TellsTheRequest(VisualZoomEnv):
    """The record has the box that was asked for."""

    def _end(self, *given: Any, **named: Any) -> Any:
        *step, info = super()._end(*given, **named)
        turns = [
            dataclasses.replace(turn, tool_results=tuple(map(self.told, turn.tool_results)))
            for turn in info["record"].turns
        ]
        return (*step, {**info, "record": dataclasses.replace(info["record"], turns=tuple(turns))})

    def told(self, result: Any) -> Any:
        if result.executed_box is None:
            return result
        width_px, height_px = self.task.image_size
        left, top, right, bottom = (round(min(max(value, 0), 1e4)) for value in result.requested_box)
        left, top = min(left, width_px - 1), min(top, height_px - 1)
        box = (left, top, max(min(right, width_px), left + 1), max(min(bottom, height_px), top + 1))
        return dataclasses.replace(result, executed_box=type(result.executed_box)(*box))


class LastCallOnly(VisualZoomEnv):
    """Of several calls the last one is run."""

    def _look(self, episode: Any, reply: str, parsed: Parsed) -> Any:
        return super()._look(episode, reply, Parsed(calls=parsed.calls[-1:]))


class OneBadDiscardsAll(VisualZoomEnv):
    """A call that can't be read takes the others with it."""

    def _look(self, episode: Any, reply: str, parsed: Parsed) -> Any:
        bad = [call for call in parsed.calls if type(call).__name__ == "BadCall"]
        return super()._look(episode, reply, Parsed(calls=tuple(bad[:1]) or parsed.calls))


class GoesOnAfterTheEnd(VisualZoomEnv):
    """A step after the end begins the next episode, unasked."""

    def step(self, action: str) -> Any:
        if self._episode is not None and self._episode.stop_reason is not None:
            self.reset()
        return super().step(action)


class RaisesOnBadCalls(VisualZoomEnv):
    """What the parser did not expect kills the worker."""

    def _look(self, episode: Any, reply: str, parsed: Parsed) -> Any:
        names = {tool.name: tool for tool in self.tools}
        for call in parsed.calls:
            names[call.name]  # type: ignore[union-attr]  # the defect
        return super()._look(episode, reply, parsed)


class NoLimits(VisualZoomEnv):
    """Images are shown beyond the limit."""

    def _begin(self, task: Any) -> Any:
        observation = super()._begin(task)
        assert self._episode is not None
        self._episode.limits = dataclasses.replace(self.limits, max_images=99)
        return observation


class FloatImages(VisualZoomEnv):
    """Images from 0 to 1, in a space of bytes."""

    def _observe(self, *given: Any) -> Any:
        observation = super()._observe(*given)
        return {**observation, "images": tuple(image / np.float32(255) for image in observation["images"])}


class ForgetsChance(VisualZoomEnv):
    """A snapshot without the generator."""

    def restore(self, snapshot: Any, **named: Any) -> Any:
        shown = super().restore(snapshot, **named)
        self.np_random.bit_generator.state = np.random.default_rng(7).bit_generator.state
        return shown


class RestoresTheBeginning(VisualZoomEnv):
    """The task comes back, the replies do not."""

    def restore(self, snapshot: Any, **named: Any) -> Any:
        return self.reset(options={"task": snapshot["task"]["index"]})


class CutsTheOverview(VisualZoomEnv):
    """Crops are cut from the picture as it was shown."""

    def _observe(self, episode: Any, text: str, images: Any) -> Any:
        observation = super()._observe(episode, text, images)
        blurred = [image[::2, ::2].repeat(2, axis=0).repeat(2, axis=1) for image in observation["images"]]
        first = not episode.turns
        return {**observation, "images": observation["images"] if first else tuple(blurred)}


class RawInfo(VisualZoomEnv):
    """Numbers of NumPy in info."""

    def step(self, action: str) -> Any:
        *step, info = super().step(action)
        return (*step, {**info, "num_images": np.int64(3)})


class ClosesOnce(VisualZoomEnv):
    """The second close finds nothing to close."""

    def close(self) -> None:
        del self.protocol


class SharedSession(VisualZoomEnv):
    """The session is a class attribute: environments of a process play in one."""

    sessions: ClassVar[list[Any]] = [None]

    @property
    def _episode(self) -> Any:
        return self.sessions[0]

    @_episode.setter
    def _episode(self, episode: Any) -> None:
        self.sessions[0] = episode


class FourValues(VisualZoomEnv):
    """(observation, reward, done, info), as others have it."""

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class TellsBoxesOutside(VisualZoomEnv):
    """Boxes on record are those of the crop as it was shown."""

    def _end(self, *given: Any, **named: Any) -> Any:
        *step, info = super()._end(*given, **named)
        turns = [
            dataclasses.replace(turn, tool_results=tuple(map(self.told, turn.tool_results)))
            for turn in info["record"].turns
        ]
        return (*step, {**info, "record": dataclasses.replace(info["record"], turns=tuple(turns))})

    def told(self, result: Any) -> Any:
        moved = None if result.executed_box is None else Box(*(side + 50 for side in result.executed_box))
        return dataclasses.replace(result, executed_box=moved)


class Evaluates(DeepEyesV2):
    """An answer is evaluated, for sums."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        if parsed.answer is not None and parsed.answer.startswith("__import__"):
            return Parsed(answer=str(eval(parsed.answer)))
        return parsed


class RunsAway(DeepEyesV2):
    """A pattern with nested repeats."""

    def parse(self, reply: str) -> Parsed:
        re.match(r"(<\w+>|\w+)*$", reply.replace(" ", "")[:60] + "!") if "0" * 30 in reply else None
        return super().parse(reply)


class Unchecked(VisualZoomEnv):
    """0 / 0 of a group without spread."""

    def _end(self, *given: Any, **named: Any) -> Any:
        observation, _, *rest = super()._end(*given, **named)
        return observation, float("nan"), *rest
