"""What `visualzoom eval` can be told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from visualzoom.evaluation.evaluate import Mode
from visualzoom.training.api import ApiChoice
from visualzoom.training.config import JudgeConfig, MachineConfig, UsageError, WorldConfig
from visualzoom.training.engine_choice import EngineChoice


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
    """How it is played: greedy, sampled (at temperature 1), and greedy again where the first reply begins a call
    (forced), begins an answer (answer) or looks at the evidence (oracle), where crops are grey (blank), where there is
    no tool (direct). Without any: greedy and sampled; over --api greedy alone, because each costs money."""
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
        if self.api.api is not None and {Mode.FORCED, Mode.ANSWER} & set(self.mode):
            raise UsageError("--mode forced begins a reply for the model, and no API lets us; give greedy or sampled")
        if Mode.BUDGET in self.mode:
            raise UsageError("--mode budget is one of `visualzoom bench`; here give direct")
        if self.num_tasks < 1:
            raise UsageError(f"num_tasks is {self.num_tasks}; it must be at least 1")

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that are asked for."""
        usual = (Mode.GREEDY, Mode.SAMPLED) if self.api.api is None else (Mode.GREEDY,)
        return tuple(dict.fromkeys(self.mode or usual))
