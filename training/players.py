"""Who plays an evaluation: a model here, a model behind an API, or an agent without a model, behind one seam.

Law: weights are read once, whatever is played; what a mode asks of the agent (a first look, a call that is begun) is
done here, what it asks of the world in eval_modes.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from visualzoom.agents.first_look import PuttableAgent
from visualzoom.agents.records import Agent, Sampling
from visualzoom.evaluation.evaluate import Mode
from visualzoom.training.api import ApiChoice, make_api_agent, open_server
from visualzoom.training.config import MachineConfig, UsageError, WorldConfig
from visualzoom.training.engine_choice import EngineChoice
from visualzoom.training.eval_modes import begun, guided
from visualzoom.training.evaluating import scripted_agent
from visualzoom.training.models import Scope, model_folder, quiet_loading, scope_of, settings_of
from visualzoom.training.world import NoModel, Onlooker

FINGERPRINT_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerChoice:
    """Who plays."""

    model: str = "tiny"
    """tiny (built in), a run folder, a folder with a checkpoint, or a hub id."""
    agent: str = "vlm"
    """vlm, oracle, random, or module:Class."""
    engine: EngineChoice = field(default_factory=EngineChoice)
    machine: MachineConfig = field(default_factory=MachineConfig)
    api: ApiChoice = field(default_factory=ApiChoice)


@dataclass(frozen=True, kw_only=True, slots=True)
class Players:
    """Makes the agent of each mode."""

    name: str
    """Of the model, or of the agent that has none."""
    fingerprint: str
    """Changes if the weights do; empty where they are out of sight."""
    world: WorldConfig
    """How it wants to be shown images and asked."""
    onlooker: Onlooker
    scope: Scope | None
    make: Callable[[Mode, float, WorldConfig], Agent]
    """Of a mode, a temperature and the world that is played."""

    def agent(self, mode: Mode, temperature: float, world: WorldConfig) -> Agent:
        """Who plays in that mode.

        Raises:
            UsageError: This agent can't.
        """
        agent = self.make(mode, temperature, world)
        if mode is not Mode.ORACLE:
            return agent
        if not isinstance(agent, PuttableAgent):
            raise UsageError(f"--mode oracle: nothing can be put into the mouth of {self.name}")
        return guided(agent, world, self.onlooker)


@contextmanager
def open_players(choice: PlayerChoice) -> Iterator[Players]:
    """The players of this choice, with their weights or their server.

    Raises:
        UsageError: There is no such model, agent or server.
    """
    choice.api.refuse_beside(choice.model)
    if choice.api.api is not None:
        with _behind_api(choice.api) as players:
            yield players
        return
    scripted = scripted_agent(choice.agent, WorldConfig())
    if scripted is not None:
        world = WorldConfig()
        yield Players(
            name=choice.agent,
            fingerprint="",
            world=world,
            onlooker=NoModel(),
            scope=None,
            make=lambda mode, temperature, played: _without_model(choice.agent, mode, played),
        )
        return
    with _here(choice) as players:
        yield players


def _without_model(name: str, mode: Mode, world: WorldConfig) -> Agent:
    if mode in (Mode.FORCED, Mode.ANSWER, Mode.ORACLE):
        raise UsageError(f"--mode {mode}: {name} has no model whose reply could be begun")
    agent = scripted_agent(name, world)
    assert agent is not None  # the caller found it
    return agent


@contextmanager
def _behind_api(api: ApiChoice) -> Iterator[Players]:
    def make(mode: Mode, temperature: float, world: WorldConfig) -> Agent:
        if mode in (Mode.FORCED, Mode.ANSWER):
            raise UsageError(f"--mode {mode} begins a reply for the model, and no API lets us; leave it out")
        return make_api_agent(server, api, temperature=temperature)

    with open_server(api) as server:
        yield Players(
            name=f"{api.api_model} at {api.api}",
            fingerprint="",
            world=api.world,
            onlooker=api.onlooker,
            scope=None,
            make=make,
        )


@contextmanager
def _here(choice: PlayerChoice) -> Iterator[Players]:
    folder = model_folder(choice.model)
    settings = settings_of(choice.model, folder)
    choice.engine.check(choice.machine)

    from visualzoom.training.assemble import make_agent, open_model

    quiet_loading()
    opened, policy = open_model(choice.model, choice.machine), settings.policy
    sampler = choice.engine.open(opened, policy, choice.machine, max_images=settings.world.max_images)

    def make(mode: Mode, temperature: float, world: WorldConfig) -> Agent:
        return make_agent(
            choice.agent,
            sampler,
            opened.renderer,
            Sampling(temperature=temperature, max_tokens=policy.max_tokens),
            max_context_tokens=policy.max_context_tokens,
            forced_prefix=begun(mode, world.protocol),
        )

    with closing(sampler):
        yield Players(
            name=choice.model,
            fingerprint=fingerprint(folder),
            world=settings.world,
            onlooker=opened.renderer,
            scope=scope_of(folder),
            make=make,
        )


def fingerprint(folder: Path) -> str:
    """Of the files of a model: their sizes, and the beginning of each. Of adapters too."""
    digest = sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".jinja") and path.is_file():
            with path.open("rb") as file:
                digest.update(json.dumps([path.name, path.stat().st_size]).encode() + file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()[:16]


def versions() -> Mapping[str, str]:
    """Of what decides figures beside the weights."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("visualzoom", "torch", "transformers", "vllm", "pillow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
