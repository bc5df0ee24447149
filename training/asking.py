"""`visualzoom ask`: one question on the user's own picture; prints each turn and saves where the model looked."""

from __future__ import annotations

import dataclasses
import shlex
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from visualzoom.agents.records import Sampling
from visualzoom.envs.images.pictures import FilePicture, ImageError
from visualzoom.envs.records import Episode, Picture, Task
from visualzoom.envs.tasks.sources import TaskTuple
from visualzoom.evaluation.evaluate import evaluate
from visualzoom.evaluation.pictures import draw_boxes, transcript
from visualzoom.training.api import ApiChoice, make_api_agent, open_server, told, usage_notes, usage_table
from visualzoom.training.config import MachineConfig, UsageError, WorldConfig
from visualzoom.training.engine_choice import EngineChoice
from visualzoom.training.evaluating import aligned
from visualzoom.training.models import HUB_EXAMPLE, model_folder, quiet_loading, scope_of, settings_of
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import coordinates_of, env_maker

SAVED_AS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Ends of names that a picture with boxes can be saved under."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskConfig:
    """Ask a question on your own picture and see where the model looks."""

    picture: Annotated[Path, tyro.conf.Positional]
    """A PNG, JPEG or WebP file."""
    question: Annotated[str, tyro.conf.Positional]
    """What you want to know."""
    model: str = "tiny"
    """tiny (built in), a run folder, a folder with a checkpoint, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct."""
    sampled: bool = False
    """Draw replies at temperature 1 instead of taking the most likely tokens."""
    seed: int = 0
    """Of the sampling."""
    out: Path | None = None
    """Where to save the picture with the boxes drawn; the default is <picture>-zoom.png in this folder."""
    engine: EngineChoice = field(default_factory=EngineChoice)
    machine: MachineConfig = field(default_factory=MachineConfig)
    api: ApiChoice = field(default_factory=ApiChoice)

    def __post_init__(self) -> None:
        """Refuse two models."""
        self.api.refuse_beside(self.model)


def run_ask(config: AskConfig) -> int:
    """Ask, print each turn, save the picture."""
    set_threads(choose_threads(config.machine.num_threads))
    picture = _open_picture(config.picture)
    if not config.question.strip():
        raise UsageError('the question is empty; write it in quotation marks: visualzoom ask photo.jpg "What is this?"')
    out = config.out or Path(f"{config.picture.stem}-zoom.png")
    if out.resolve() == config.picture.resolve():
        raise UsageError(f"--out {out} is the picture itself; choose another name")
    _check_out(out)
    task = Task(id=config.picture.name, question=config.question, answer="", pictures=(picture,))
    episode = _ask_model(config, task) if config.api.api is None else _ask_api(config, task)
    print("\n".join(transcript(episode)))
    boxes = [result.executed_box for result in episode.cuts if result.executed_box is not None]
    draw_boxes(Image.fromarray(picture.pixels()), boxes).save(out)
    print(f"saved: {out} ({'where it looked' if boxes else 'it did not look closer'})")
    return 0


def settings_world(world: WorldConfig) -> WorldConfig:
    """The world of a run without its tasks and reward: there is no right answer to compare with."""
    return dataclasses.replace(world, tasks="digit", data=None, reward="deepeyes")


def _check_out(out: Path) -> None:
    """Before the model is asked: what could not be saved would only be found out after the answer."""
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a picture in it, for example {out / 'zoom.png'}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.suffix.lower() not in SAVED_AS:
        raise UsageError(f"--out {out}: no such kind of picture; let the name end in one of {', '.join(SAVED_AS)}")


def _open_picture(path: Path) -> Picture:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not there"
        raise UsageError(f"the picture {path} {found}; give the path of a PNG, JPEG or WebP file")
    try:
        picture = FilePicture(path)
        picture.pixels()
    except (ImageError, OSError) as problem:
        raise UsageError(str(problem)) from problem
    return picture


def _advice(config: AskConfig, folder: Path) -> str:
    scope = scope_of(folder)
    if scope is None or scope.covers_question(config.question):
        return ""
    command = shlex.join(["visualzoom", "ask", str(config.picture), config.question, "--model", HUB_EXAMPLE])
    return scope.advice(command) + "\nWhat this model makes of it (do not trust it):\n"


def _ask_api(config: AskConfig, task: Task) -> Episode:
    """A model behind an API. No torch is loaded."""
    world, onlooker = settings_world(config.api.world), config.api.onlooker
    make_env = env_maker(world, TaskTuple([task]), onlooker=onlooker)
    print(told(config.api, coordinates_of(world, onlooker)))
    with open_server(config.api) as server:
        agent = make_api_agent(server, config.api, temperature=1.0 if config.sampled else 0.0)
        (episode,) = evaluate(agent, make_env, [0], seed=config.seed).episodes
    print(aligned(usage_table({"used": agent.usage}, config.api.prices)))
    print(*(f"{note}\n" for note in usage_notes(agent.usage, agent.problems)), sep="", end="")
    if agent.refusal is not None:
        raise UsageError(str(agent.refusal))
    return episode


def _ask_model(config: AskConfig, task: Task) -> Episode:
    config.engine.check(config.machine)
    folder = model_folder(config.model)
    print(_advice(config, folder), end="")
    return _ask(config, settings_world(settings_of(config.model, folder).world), task)


def _ask(config: AskConfig, world: WorldConfig, task: Task) -> Episode:
    from visualzoom.training.assemble import make_agent, open_model

    quiet_loading()
    opened = open_model(config.model, config.machine)
    make_env = env_maker(world, TaskTuple([task]), onlooker=opened.renderer)
    policy = settings_of(config.model, opened.folder).policy
    temperature = 1.0 if config.sampled else 0.0
    sampling = Sampling(temperature=temperature, max_tokens=policy.max_tokens)
    with closing(config.engine.open(opened, policy, config.machine, max_images=world.max_images)) as sampler:
        agent = make_agent("vlm", sampler, opened.renderer, sampling, max_context_tokens=policy.max_context_tokens)
        (episode,) = evaluate(agent, make_env, [0], seed=config.seed).episodes
    return episode
