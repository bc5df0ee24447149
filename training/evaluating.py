"""`visualzoom eval`: measure a model, here or behind an API, or a scripted agent, on tasks it was not trained on."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from visualzoom.agents.api_records import Usage
from visualzoom.agents.pool import EnvPool, MakeEnv
from visualzoom.agents.records import Agent, Sampling
from visualzoom.agents.scripted import OracleAgent
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.records import TaskSource
from visualzoom.envs.registry import made, resolve
from visualzoom.evaluation.evaluate import Evaluated, Mode, evaluate
from visualzoom.evaluation.measure import Measures
from visualzoom.evaluation.pictures import save_episode
from visualzoom.training.api import (
    ApiChoice,
    make_api_agent,
    open_server,
    told,
    usage_figures,
    usage_notes,
    usage_table,
)
from visualzoom.training.config import JudgeConfig, MachineConfig, UsageError, WorldConfig
from visualzoom.training.engine_choice import EngineChoice
from visualzoom.training.judging import open_referee
from visualzoom.training.models import HUB_EXAMPLE, families_of, model_folder, quiet_loading, scope_of, settings_of
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import NoModel, coordinates_of, env_maker, open_pool, open_source, unseen, user_errors

SCRIPTED: dict[str, str] = {
    "oracle": "visualzoom.agents.scripted:OracleAgent",
    "random": "visualzoom.agents.scripted:RandomAgent",
}
"""Agents without a model, by name; a class of the user's is one too if its constructor takes no `policy`."""
COLUMNS = {
    "accuracy": "accuracy",
    "reward": "reward/mean",
    "tool rate": "rollout/tool_rate",
    "tool calls": "rollout/tool_calls/mean",
    "tool errors": "rollout/tool_errors/mean",
    "IoU": "zoom/iou_gt/mean",
    "reply tokens": "rollout/reply_tokens/mean",
    "failed": "rollout/failed",
}
"""Heading and figure of each column of the table."""
UNJUDGED = "rollout/unjudged"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldChoice:
    """The environment and its tasks; what is left out is taken from the model's own training."""

    env: str | None = None
    """Gymnasium id."""
    tasks: str | None = None
    """Task family, or a mixture such as "digit:0.7,plain:0.3"."""
    size_px: int | None = None
    """Side of a procedural scene."""
    data: Path | None = None
    """JSONL or parquet file of tasks; every row is played, up to --num-tasks. Without it, a model that was trained on
    a file is measured on the rows that were held out."""
    skip_bad_rows: bool = False
    """List bad rows of the data file instead of stopping at the first."""
    reward: str | None = None
    """Name of a reward, or module:attribute."""
    judge: str | None = None
    """Rule by which answers are judged: exact, list, set, boxed, math, boxed-math, or module:attribute."""
    tool: tuple[str, ...] | None = None
    """Tools that the model may call."""
    protocol: str | None = None
    """Dialect between environment and model."""
    coordinates: Literal["model", "shown", "original", "0-1000", "0-1"] | None = None
    """In which boxes are given."""
    kernel: str | None = None
    """What scales pictures: torch, pillow, or auto."""
    max_turns: int | None = None
    """Replies in an episode."""
    env_timeout_s: float | None = None
    """Longest time of a step of an environment; its episode then fails, and counts as failed."""

    def over(self, world: WorldConfig) -> WorldConfig:
        """The given world with what was chosen here. A chosen family replaces a data file."""
        given: dict[str, Any] = dataclasses.asdict(self)
        chosen = {name: value for name, value in given.items() if value is not None}
        if "tasks" in chosen:
            chosen.setdefault("data", None)
        if chosen.keys() & {"tasks", "data"}:  # of the tasks that it was trained on
            chosen.setdefault("size_px", WorldConfig().size_px)
        return dataclasses.replace(world, **chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Measure a model on tasks that it was not trained on."""

    model: str = "tiny"
    """tiny (built in), a run folder, a folder with a checkpoint, or a hub id."""
    agent: str = "vlm"
    """vlm, oracle, random, or module:Class."""
    mode: tuple[Mode, ...] = ()
    """How replies are drawn: greedy, sampled (at temperature 1), forced (greedy, the first reply begins a call).
    Without any: greedy and sampled; over --api greedy alone, because each costs money."""
    num_tasks: int = 500
    """Unseen tasks to play."""
    env_workers: int = 0
    """Ray workers that step the environments; 0 steps them on threads of this process. Changes no number."""
    seed: int = 0
    """Of sampling."""
    out: Path | None = None
    """New folder for the figures and some episodes, as JSON and as pictures."""
    episodes_saved: int = 8
    """Episodes saved in it for each mode."""
    world: WorldChoice = field(default_factory=WorldChoice)
    engine: EngineChoice = field(default_factory=EngineChoice)
    machine: MachineConfig = field(default_factory=MachineConfig)
    api: ApiChoice = field(default_factory=ApiChoice)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        """Refuse to measure nothing, or something else than is named."""
        self.api.refuse_beside(self.model)
        if self.api.api is not None and self.agent != "vlm":
            raise UsageError(f"--agent {self.agent} is not asked over --api {self.api.api}; leave one of them out")
        if self.api.api is not None and Mode.FORCED in self.mode:
            raise UsageError("--mode forced begins a reply for the model, and no API lets us; give greedy or sampled")
        if self.num_tasks < 1:
            raise UsageError(f"num_tasks is {self.num_tasks}; it must be at least 1")

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that are asked for."""
        usual = (Mode.GREEDY, Mode.SAMPLED) if self.api.api is None else (Mode.GREEDY,)
        return tuple(dict.fromkeys(self.mode or usual))


def run_eval(config: EvalConfig) -> int:
    """Measure, print a table, save it if asked."""
    set_threads(choose_threads(config.machine.num_threads))
    if config.out is not None and config.out.exists() and any(config.out.iterdir()):
        raise UsageError(f"--out {config.out}: this folder exists and is not empty; choose another")
    agent = scripted_agent(config.agent, config.world.over(WorldConfig()))
    usages: dict[str, Usage] = {}
    refusal: str | None = None
    if config.api.api is not None:
        found, refusal = _measure_api(config, usages)
    else:
        found = _measure_model(config) if agent is None else {config.agent: _measure_scripted(config, agent)}
    print(table({mode: evaluated.measures for mode, evaluated in found.items()}))
    if usages:
        print("", aligned(usage_table(usages, config.api.prices)), sep="\n")
    if config.out is not None:
        _save(config, found, usages)
        print(f"saved: {config.out}")
    if refusal is not None:
        raise UsageError(f"{refusal}. What is shown above is of the episodes that had ended until then")
    return 0


def table(figures: dict[str, Measures]) -> str:
    """One row a mode."""
    columns = dict(COLUMNS)
    if any(measures.num_unjudged for measures in figures.values()):
        columns["unjudged"] = UNJUDGED
    rows = [["", "tasks", *columns]]
    for mode, measures in figures.items():
        values = measures.values()
        rows.append([mode, str(measures.num_episodes), *(_shown(name, values[name]) for name in columns.values())])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as lines of a table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _shown(name: str, value: float) -> str:
    if value != value:  # NaN: there was nothing to measure
        return "-"
    return f"{value:.0f}" if name in ("rollout/failed", UNJUDGED) else f"{value:.3f}"


def scripted_agent(name: str, world: WorldConfig) -> Agent | None:
    """The agent of that name if it needs no model.

    Raises:
        UsageError: There is no such agent.
    """
    if name not in SCRIPTED and ":" not in name:
        if name == "vlm":
            return None
        raise UsageError(f"--agent {name}: no such agent; known: vlm, {', '.join(SCRIPTED)}, or module:Class")
    with user_errors("--agent"):
        found = resolve(name, SCRIPTED, kind="agent")
    if isinstance(found, type) and "policy" in inspect.signature(found).parameters:
        return None
    if found is OracleAgent:
        return oracle(world)
    return cast(Agent, made(found))


def oracle(world: WorldConfig) -> OracleAgent:
    """The oracle of this world: it speaks its dialect, in its coordinates, and answers in the last turn."""
    return OracleAgent(
        max_calls=world.max_turns - 1,
        protocol=open_protocol(world.protocol),
        coordinates=coordinates_of(world, NoModel()),
    )


def _measure_scripted(config: EvalConfig, agent: Agent) -> Evaluated:
    """Agents without a model: no torch is loaded."""
    world = config.world.over(WorldConfig())
    source = _source(config.world, world)
    make_env = env_maker(world, source)
    with open_referee(world, config.judge) as referee, _pool(config, world, make_env) as envs:
        return evaluate(agent, envs, _indices(source, config.num_tasks), seed=config.seed, referee=referee)


def _pool(config: EvalConfig, world: WorldConfig, make_env: MakeEnv) -> closing[EnvPool]:
    num_threads = choose_threads(config.machine.num_threads)
    return closing(open_pool(make_env, world, env_workers=config.env_workers, num_threads=num_threads))


def _measure_model(config: EvalConfig) -> dict[str, Evaluated]:
    folder = model_folder(config.model)
    settings = settings_of(config.model, folder)
    world = config.world.over(settings.world)
    source = _source(config.world, world)
    advice = scope_advice(folder, world)
    if advice:
        print(advice)
    make_env = env_maker(world, source)  # finds what is wrong with the world before weights are read
    config.engine.check(config.machine)

    from visualzoom.training.assemble import make_agent, open_model
    from visualzoom.training.run import forced_prefix, policy_figures

    quiet_loading()
    opened = open_model(config.model, config.machine)
    make_env = env_maker(world, source, onlooker=opened.renderer)
    indices, policy = _indices(source, config.num_tasks), settings.policy
    found: dict[str, Evaluated] = {}
    sampler = config.engine.open(opened, policy, config.machine, max_images=world.max_images)
    with closing(sampler), open_referee(world, config.judge) as referee, _pool(config, world, make_env) as envs:
        for mode in config.modes:
            agent = make_agent(
                config.agent,
                sampler,
                opened.renderer,
                Sampling(temperature=1.0 if mode is Mode.SAMPLED else 0.0, max_tokens=policy.max_tokens),
                max_context_tokens=policy.max_context_tokens,
                forced_prefix=forced_prefix(dataclasses.replace(settings, world=world)) if mode is Mode.FORCED else "",
            )
            found[mode.value] = evaluate(agent, envs, indices, seed=config.seed, referee=referee)
            print(
                "".join(f"{mode.value}: {name} {value:.3f}\n" for name, value in policy_figures(sampler).items()),
                end="",
            )
    return found


def _measure_api(config: EvalConfig, usages: dict[str, Usage]) -> tuple[dict[str, Evaluated], str | None]:
    """A model behind an API, and why it was given up, if it was. No torch is loaded.

    What its replies cost is noted in `usages`.
    """
    world = config.world.over(config.api.world)
    source = _source(config.world, world)
    onlooker = config.api.onlooker
    make_env = env_maker(world, source, onlooker=onlooker)
    print(told(config.api, coordinates_of(world, onlooker)))
    found: dict[str, Evaluated] = {}
    judge = open_referee(world, config.judge)
    with open_server(config.api) as server, judge as referee, _pool(config, world, make_env) as envs:
        for mode in config.modes:
            agent = make_api_agent(server, config.api, temperature=1.0 if mode is Mode.SAMPLED else 0.0)
            indices = _indices(source, config.num_tasks)
            found[mode.value] = evaluate(agent, envs, indices, seed=config.seed, referee=referee)
            usages[mode.value] = agent.usage
            print(*(f"{mode.value}: {note}\n" for note in usage_notes(agent.usage, agent.problems)), sep="", end="")
            if agent.refusal is not None:
                return found, f"{mode.value}: {agent.refusal}"
    return found, None


def scope_advice(folder: Path, world: WorldConfig) -> str:
    """What to say if the model was not made for these tasks; nothing if it was."""
    scope = scope_of(folder)
    if scope is None or families_of(world) <= set(scope.families):
        return ""
    tasks = ["--tasks", world.tasks] if world.data is None else ["--data", str(world.data)]
    return scope.advice(shlex.join(["visualzoom", "eval", "--model", HUB_EXAMPLE, *tasks]))


def _source(choice: WorldChoice, world: WorldConfig) -> TaskSource:
    """Every row of a file that is named; of the file that the model was trained on only what was held out."""
    return open_source(world, repeat=choice.data is None and choice.tasks is None)


def _indices(source: TaskSource, num_tasks: int) -> Sequence[int]:
    """Unseen tasks of an endless source, the first rows of a file."""
    return unseen(num_tasks, source) if source.num_tasks is None else range(min(num_tasks, source.num_tasks))


def _save(config: EvalConfig, found: dict[str, Evaluated], usages: dict[str, Usage]) -> None:
    assert config.out is not None  # asked for by the caller
    config.out.mkdir(parents=True, exist_ok=True)
    figures = {mode: _jsonable(evaluated.measures) for mode, evaluated in found.items()}
    report: dict[str, object] = {"model": config.model, "agent": config.agent, "seed": config.seed, "modes": figures}
    if usages:
        costs = {mode: usage_figures(usage, config.api.prices) for mode, usage in usages.items()}
        report |= {"model": config.api.api_model, "api": config.api.api, "family": config.api.family, "usage": costs}
    (config.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for mode, evaluated in found.items():
        for number, episode in enumerate(evaluated.episodes[: config.episodes_saved]):
            save_episode(episode, config.out / mode, f"episode-{number:03d}")


def _jsonable(measures: Measures) -> dict[str, float | int | None]:
    values = {"num_episodes": measures.num_episodes} | measures.values()
    return {name: value if value == value else None for name, value in values.items()}
