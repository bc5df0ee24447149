"""`visualzoom play`: step the environment by hand, or watch the oracle, and keep what each step showed. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from visualzoom.agents.records import Agent, AgentTurn
from visualzoom.agents.scripted import ZOOM, FunctionAgent, RandomAgent
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.protocols.protocol import WordProtocol
from visualzoom.envs.records import Pixels, ToolCall
from visualzoom.evaluation.evaluate import evaluate
from visualzoom.evaluation.measure import measure
from visualzoom.evaluation.pictures import save_episode, transcript
from visualzoom.training.config import UsageError, WorldConfig
from visualzoom.training.evaluating import oracle, table
from visualzoom.training.world import NoModel, coordinates_of, env_maker, open_source, unseen

HOW = """Type a box as four numbers (left top right bottom, in pixels of the image as shown) to look closer,
any other text to answer, or a whole reply with its tags. An empty line gives up."""
_BOX = re.compile(r"\s*\[?\s*(-?[\d.]+)[\s,]+(-?[\d.]+)[\s,]+(-?[\d.]+)[\s,]+(-?[\d.]+)\s*\]?\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayConfig:
    """Step the environment yourself, or let the oracle or chance do it, and look at what each step showed."""

    agent: Literal["human", "oracle", "random"] = "human"
    """Who acts."""
    episodes: int = 1
    """How many to play."""
    seed: int = 0
    """Of the tasks and of chance."""
    out: Path = Path("runs/play")
    """Folder for the images of each step and for the finished episodes."""
    world: WorldConfig = field(default_factory=lambda: WorldConfig(kernel="pillow"))  # no torch for a look
    """The environment and its tasks."""


class Human:
    """Asks the person at the terminal."""

    def __init__(self, words: WordProtocol, folder: Path) -> None:
        """Save images into `folder`."""
        self._words = words
        self._folder = folder

    def __call__(self, turn: AgentTurn) -> str:
        """Show the turn, read a line, write it in the words of the protocol."""
        print(f"\n{turn.text}", *([f"\n{HOW}"] if turn.turn == 0 else []), sep="\n")
        for path, pixels in zip(self._paths(turn), turn.images, strict=True):
            _save(pixels, path)
            print(f"look at {path} ({pixels.shape[1]} x {pixels.shape[0]} px)")
        try:
            line = input("> ")
        except EOFError:
            line = ""
        return as_reply(line, self._words)

    def _paths(self, turn: AgentTurn) -> list[Path]:
        return [self._folder / f"now-turn{turn.turn}-image{i}.png" for i in range(len(turn.images))]


def as_reply(line: str, words: WordProtocol) -> str:
    """A typed line as a reply: four numbers are a call, tags stay as they are, other text is an answer."""
    box = _BOX.fullmatch(line)
    if box is not None:
        try:
            return words.render_call(
                ToolCall(name=ZOOM, arguments={"bbox_2d": [float(number) for number in box.groups()]})
            )
        except ValueError:
            return line  # "1.2.3" is no number; the environment says what is wrong
    if "<tool_call>" in line or "<answer>" in line or not line.strip():
        return line
    return words.render_answer(line.strip())


def play_episodes(config: PlayConfig) -> int:
    """Play, print each episode, save it."""
    if config.episodes < 1:
        raise UsageError(f"--episodes is {config.episodes}; it must be at least 1")
    make_env = env_maker(config.world, open_source(config.world))
    config.out.mkdir(parents=True, exist_ok=True)
    agent = _agent(config)
    episodes = []
    first = unseen(1)[0] + config.seed * 1_000_003
    for number in range(config.episodes):
        (episode,) = evaluate(agent, make_env, [first + number], seed=config.seed).episodes
        episodes.append(episode)
        path = save_episode(episode, config.out, f"episode-{config.seed}-{number}")
        truth = [f"right answer: {episode.task.answer}"] if episode.task.answer else []
        print("", *transcript(episode), *truth, f"saved: {path}", sep="\n")
    if config.episodes > 1:
        print("", table({config.agent: measure(episodes)}), sep="\n")
    return 0


def _agent(config: PlayConfig) -> Agent:
    words = open_protocol(config.world.protocol)
    if config.agent == "oracle":
        return oracle(config.world)
    if config.agent == "random":
        return RandomAgent(protocol=words, coordinates=coordinates_of(config.world, NoModel()))
    return FunctionAgent(Human(words, config.out))


def _save(pixels: Pixels, path: Path) -> None:
    Image.fromarray(np.asarray(pixels)).save(path)
