"""The command line: `visualzoom train | eval | bench | data | ask | play | mismatch | export | check | pretrain`.

Law: whatever the user gets wrong ends with one clear message on standard error and exit code 2, without a traceback
and with nothing lost. Each command imports what it needs when it runs: `play`, `check` and every `--help` but that of
`pretrain` load no torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from visualzoom.agents.engine_policy import EngineLost
from visualzoom.envs.images.kernels import chosen_kernel
from visualzoom.envs.tasks.hub_rows import HUB
from visualzoom.training.checks import check_train, scope_warning
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.config_file import load_config, preset
from visualzoom.training.memory.dry_run import dry_run, take_dry_run
from visualzoom.training.models import quiet_loading
from visualzoom.training.ranks.launch import after_restart, launched, launched_ranks
from visualzoom.training.run_folder import saved_config
from visualzoom.training.threads import choose_threads, set_threads

if TYPE_CHECKING:
    from visualzoom.training.ranks.ranks import Ranks

HELP = """usage: visualzoom COMMAND [OPTIONS]

Train and evaluate vision-language models that look closer.

commands:
  train      train a model by reinforcement learning; without options the built-in one, on a CPU, in minutes
  eval       measure a model on tasks that it has not seen
  bench      measure it on published benchmarks, and tell what looking is worth there
  data       check, measure, show, write and select tasks before a model learns from them
  ask        ask a question on your own picture and see where the model looks
  play       step the environment yourself, or watch the oracle
  mismatch   score the same sampled tokens in several ways: do sampler and learner agree, and if not, where?
  export     write a trained model as whole weights that open without us; merges adapters
  check      search for an input that breaks a law: of a tool, an environment, a protocol or an agent
  pretrain   make the built-in model again, from nothing

`visualzoom COMMAND --help` lists the options of a command. Examples:
  visualzoom train --algorithm ppo --seed 1 --out runs/ppo
  visualzoom train --preset deepeyes-7b --data deepeyes-47k.parquet --device cuda
  visualzoom train --resume runs/ppo
  visualzoom train --model Qwen/Qwen2.5-VL-3B-Instruct --lora-rank 16 --learning-rate 1e-5 --device cuda --out runs/lora
  visualzoom export --model runs/lora --out merged
  visualzoom eval --model runs/ppo --mode greedy sampled forced
  visualzoom bench vstar hrbench-4k --model Qwen/Qwen2.5-VL-7B-Instruct --device cuda --paper
  visualzoom ask photo.jpg "What does the sign say?" --model Qwen/Qwen2.5-VL-3B-Instruct
  visualzoom eval --api http://localhost:8000/v1 --api-model Qwen/Qwen2.5-VL-7B-Instruct
  visualzoom play --agent oracle --tasks sign
  visualzoom mismatch --engine vllm --out mismatch
  visualzoom check own_tool:Mirror"""
ASIDE = """--config FILE starts from a config.json, for example that of a run.

--dry-run checks everything and prints what the run would need of memory, part by part, and whether it fits. Nothing is
written and no weight is read. --device-memory-gb N says it for a GPU of N GB that is not here, --learner-gpus N for a
learner whose states are divided over so many (an outlook)."""
"""What `visualzoom train` takes beside its config."""
FAILED = 1
BAD_USAGE = 2
EXTRAS = {"peft": "lora", "accelerate": "lora", "ray": "ray", "openai": "api", "math_verify": "math", "datasets": "hub"}
"""Of visualzoom, by the package that is missing; `train` for all others."""
STOPPED = 130
"""Asked to stop before the last step, with everything saved."""
Config = TypeVar("Config")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UsageError as problem:
        print(f"visualzoom: {problem}", file=sys.stderr)
        return BAD_USAGE
    except ModuleNotFoundError as problem:
        if problem.name is None or problem.name.startswith("visualzoom"):
            raise
        extra = EXTRAS.get(problem.name, "train")
        print(
            f'visualzoom: this command needs {problem.name}, which is not installed: pip install "visualzoom[{extra}]"',
            file=sys.stderr,
        )
        return BAD_USAGE
    except EngineLost as problem:
        print(f"visualzoom: {problem}\nCheckpoints saved before are whole.", file=sys.stderr)
        return BAD_USAGE
    except BrokenPipeError:  # who read our output has gone (`| head`): Python must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STOPPED
    except OSError as problem:  # a full disk or a folder that may not be written, wherever it was met
        print(f"visualzoom: {problem}. Checkpoints saved before are whole.", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("visualzoom: stopped at once; checkpoints saved before are whole", file=sys.stderr)
        return STOPPED


def _run(arguments: list[str]) -> int:
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # "my_module:MyRule" is a file of the user's, most often in the present folder
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no command is called {command!r}; known: {', '.join(COMMANDS)}.{hint}")
    return COMMANDS[command](rest)


def parse_train(arguments: Sequence[str]) -> TrainConfig:
    """The config of a training run: a base, and the flags over it.

    The base is what `--resume` saved, else the file of `--config`, else the `--preset`, else the preset tiny.
    """
    import tyro

    file, rest = _without_config(arguments)
    return tyro.cli(
        TrainConfig,
        prog="visualzoom train",
        description=f"{TrainConfig.__doc__}\n\n{ASIDE}",
        default=_base(rest) if file is None else load_config(file),
        args=rest,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _without_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file of `--config`, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as problem:
        raise UsageError(f"{problem}; give the path of a config.json") from problem
    return found.config, rest


def _base(arguments: Sequence[str]) -> TrainConfig:
    """What the flags change: the preset that they name, or the config of the run that they resume."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset")
    parser.add_argument("--resume", type=Path)
    try:
        chosen, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return preset("tiny")  # a flag without its value: tyro will say so
    if chosen.preset is not None:
        return preset(chosen.preset)
    return preset("tiny") if chosen.resume is None else dataclasses.replace(saved_config(chosen.resume), out=None)


def _parse(kind: type[Config], name: str, arguments: Sequence[str]) -> Config:
    import tyro

    plain = (tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues)
    return tyro.cli(kind, prog=f"visualzoom {name}", args=list(arguments), config=plain)


def _train(arguments: Sequence[str]) -> int:
    asked, arguments = take_dry_run(arguments)
    if launched()[0]:
        return 0 if asked else _follow()
    config = parse_train(arguments)
    config = parse_train(after_restart(arguments, config.out))
    threads = choose_threads(config.machine.num_threads)
    if config.resume is None:  # a resumed run keeps what it has chosen
        config = settled(config, num_threads=threads)
    set_threads(threads)
    if asked is not None:
        quiet_loading()
        return dry_run(config, asked)
    check_train(config)

    from visualzoom.training.loop import train

    warning = scope_warning(config)
    if warning:
        print(warning, flush=True)
    quiet_loading()
    with learner_ranks(config) as ranks:
        summary = train(config, ranks)
    return STOPPED if summary is None else 0


def learner_ranks(config: TrainConfig) -> AbstractContextManager[Ranks]:
    """Those that torchrun or this process has started; most often this process alone."""
    if config.placement.num_learners == 1:
        return launched_ranks()

    from visualzoom.training.ranks.ray_learners import ray_learners

    return ray_learners(config)


def _follow() -> int:
    """A learner rank that torchrun has started beside the first one."""
    set_threads(1)  # until the first rank says how many

    from visualzoom.training.ranks.follower import Left, follow

    quiet_loading()
    with launched_ranks() as ranks:
        try:
            follow(ranks)
        except Left as problem:
            if str(problem):
                print(f"visualzoom: {problem}", file=sys.stderr, flush=True)
            return FAILED
    return 0


def settled(config: TrainConfig, *, num_threads: int) -> TrainConfig:
    """With a choice in place of each "choose for me", so that the run folder tells it and a resumed run keeps it."""
    world, terms = config.world, config.terms
    if config.placement.max_staleness and terms.correction == "none":
        terms = dataclasses.replace(terms, correction="tis")
    data = world.data
    if data is not None and not str(data).startswith(HUB):
        data = data.expanduser().absolute()
    return dataclasses.replace(
        config,
        world=dataclasses.replace(world, kernel=chosen_kernel(world.kernel), data=data),
        terms=terms,
        machine=dataclasses.replace(config.machine, num_threads=num_threads),
    )


def _eval(arguments: Sequence[str]) -> int:
    from visualzoom.training.eval_config import EvalConfig
    from visualzoom.training.evaluating import run_eval

    return run_eval(_parse(EvalConfig, "eval", arguments))


def _bench(arguments: Sequence[str]) -> int:
    from visualzoom.training.bench_config import BenchConfig
    from visualzoom.training.benching import run_bench

    return run_bench(_parse(BenchConfig, "bench", arguments))


def _data(arguments: Sequence[str]) -> int:
    from visualzoom.training.data_command import run_data

    return run_data(arguments)


def _ask(arguments: Sequence[str]) -> int:
    from visualzoom.training.asking import AskConfig, run_ask

    return run_ask(_parse(AskConfig, "ask", arguments))


def _play(arguments: Sequence[str]) -> int:
    from visualzoom.training.playing import PlayConfig, play_episodes

    return play_episodes(_parse(PlayConfig, "play", arguments))


def _export(arguments: Sequence[str]) -> int:
    from visualzoom.training.exporting import ExportConfig, run_export

    return run_export(_parse(ExportConfig, "export", arguments))


def _mismatch(arguments: Sequence[str]) -> int:
    from visualzoom.training.mismatch.command import run_mismatch
    from visualzoom.training.mismatch.config import MismatchConfig

    return run_mismatch(_parse(MismatchConfig, "mismatch", arguments))


def _check(arguments: Sequence[str]) -> int:
    from visualzoom.training.checking import CheckConfig, run_check

    return run_check(_parse(CheckConfig, "check", arguments))


def _pretrain(arguments: Sequence[str]) -> int:
    from visualzoom.training.pretrain import PretrainConfig, pretrain

    pretrain(_parse(PretrainConfig, "pretrain", arguments))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "eval": _eval,
    "bench": _bench,
    "data": _data,
    "ask": _ask,
    "play": _play,
    "mismatch": _mismatch,
    "export": _export,
    "check": _check,
    "pretrain": _pretrain,
}

if __name__ == "__main__":
    sys.exit(main())
