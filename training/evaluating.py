"""`visualzoom eval`: measure a model, here or behind an API, or a scripted agent, on tasks it was not trained on."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

from visualzoom.agents.api_records import Usage
from visualzoom.agents.first_look import PuttableAgent
from visualzoom.agents.pool import EnvPool, MakeEnv
from visualzoom.agents.records import Agent, Sampling
from visualzoom.agents.scripted import OracleAgent
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.records import TaskSource
from visualzoom.envs.registry import made, resolve
from visualzoom.evaluation.evaluate import Evaluated, Mode, evaluate
from visualzoom.evaluation.grading import Referee
from visualzoom.evaluation.measure import Measures
from visualzoom.evaluation.pictures import save_episode
from visualzoom.training.api import (
    make_api_agent,
    open_server,
    told,
    usage_figures,
    usage_notes,
    usage_table,
)
from visualzoom.training.config import UsageError, WorldConfig
from visualzoom.training.eval_config import EvalConfig, WorldChoice
from visualzoom.training.eval_modes import begun, guided, seen_in
from visualzoom.training.judging import open_referee
from visualzoom.training.models import HUB_EXAMPLE, families_of, model_folder, quiet_loading, scope_of, settings_of
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import (
    NoModel,
    Onlooker,
    coordinates_of,
    env_maker,
    open_pool,
    open_source,
    unseen,
    user_errors,
)

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
    for mode in config.modes:
        env_maker(*seen_in(mode, world, source))  # finds what is wrong with the world before weights are read
    config.engine.check(config.machine)

    from visualzoom.training.assemble import make_agent, open_model
    from visualzoom.training.run import policy_figures

    quiet_loading()
    opened = open_model(config.model, config.machine)
    policy = settings.policy
    found: dict[str, Evaluated] = {}
    sampler = config.engine.open(opened, policy, config.machine, max_images=world.max_images)
    with closing(sampler), open_referee(world, config.judge) as referee:
        for mode in config.modes:
            agent = make_agent(
                config.agent,
                sampler,
                opened.renderer,
                Sampling(temperature=1.0 if mode is Mode.SAMPLED else 0.0, max_tokens=policy.max_tokens),
                max_context_tokens=policy.max_context_tokens,
                forced_prefix=begun(mode, world.protocol),
            )
            found[mode.value] = _played(config, mode, agent, world, source, opened.renderer, referee)
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
    for mode in config.modes:
        env_maker(*seen_in(mode, world, source), onlooker=onlooker)
    print(told(config.api, coordinates_of(world, onlooker)))
    found: dict[str, Evaluated] = {}
    with open_server(config.api) as server, open_referee(world, config.judge) as referee:
        for mode in config.modes:
            agent = make_api_agent(server, config.api, temperature=1.0 if mode is Mode.SAMPLED else 0.0)
            found[mode.value] = _played(config, mode, agent, world, source, onlooker, referee)
            usages[mode.value] = agent.usage
            print(*(f"{mode.value}: {note}\n" for note in usage_notes(agent.usage, agent.problems)), sep="", end="")
            if agent.refusal is not None:
                return found, f"{mode.value}: {agent.refusal}"
    return found, None


def _played(
    config: EvalConfig,
    mode: Mode,
    agent: PuttableAgent,
    world: WorldConfig,
    source: TaskSource,
    onlooker: Onlooker,
    referee: Referee,
) -> Evaluated:
    """What the agent does in this mode."""
    world, source = seen_in(mode, world, source)
    player = guided(agent, world, onlooker) if mode is Mode.ORACLE else agent
    indices = _indices(source, config.num_tasks)
    with _pool(config, world, env_maker(world, source, onlooker=onlooker)) as envs:
        return evaluate(player, envs, indices, seed=config.seed, referee=referee)


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
