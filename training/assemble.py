"""From names in a config to the parts of a run that need torch: weights with their words, policy, agent, algorithm.

Every name is one of a table or `module:attribute`; what can't be found raises with the nearest known name. Nothing is
trained or played here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, get_type_hints

import msgspec
import torch
from torch import Tensor

from visualzoom.agents.adapter_folder import ADAPTER_CONFIG, base_of
from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import Renderer, open_renderer
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import is_adapted, save_lora, whole_weights
from visualzoom.agents.model_shards import plain_state
from visualzoom.agents.records import Policy, Sampling, TrainedPolicy
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.algorithms.aggregation import KNOWN
from visualzoom.algorithms.records import Algorithm
from visualzoom.algorithms.registry import ALGORITHMS
from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.parts import closing_words, open_protocol
from visualzoom.envs.registry import resolve, suggest
from visualzoom.training.config import ALONE_SHARE, BESIDE_SHARE, MachineConfig, PolicyConfig, TrainConfig, UsageError
from visualzoom.training.metrics import TRACKERS, Tracker
from visualzoom.training.models import base_named, model_folder, write_note
from visualzoom.training.trainable import adapt
from visualzoom.training.world import user_errors

AGENTS: dict[str, str] = {"vlm": "visualzoom.agents.agent:VLMAgent"}
"""Agents that can be trained: made as `VLMAgent` is, and keeping a `TokenLedger` of every episode."""
SIDE_FILES = ("*.json", "*.jinja", "*.txt")
WRITTEN_ANEW = frozenset({"config.json", "model.safetensors.index.json", ADAPTER_CONFIG})
"""Files that belong to the weights and not to the words: they are written with them, or don't belong there."""
ENGINE_KEY = "VISUALZOOM_ENGINE_KEY"
"""Environment variable with the key of the server of --engine-url, if it wants one."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenModel:
    """Weights with the words that belong to them."""

    model: VLModel
    renderer: Renderer
    folder: Path
    """Where weights and tokenizer were read from."""
    side_files: Mapping[str, bytes]
    """Tokenizer, chat template, image processor. Held here, because the folder may be gone when a checkpoint is
    written: a resumed run prunes the one that it was read from."""

    def policy(self) -> TransformersPolicy:
        """A policy that shares the weights."""
        return TransformersPolicy(self.model, stop_ids=self.renderer.stop_ids, banned_ids=self.renderer.banned_ids)

    def files(self) -> dict[str, bytes]:
        """All but the weights, of the whole model: what a process elsewhere needs to make a model of this form."""
        config: str = self.model.module.config.to_json_string()
        return {**self.side_files, "config.json": config.encode()}

    def save(self, folder: Path, *, coordinates: Coordinates) -> None:
        """Write weights and words into a folder that opens here and in transformers; an adapter without its base.

        Weights that learner ranks hold in shares must be gathered meanwhile.

        Args:
            folder: Is there already.
            coordinates: In which the model gives boxes.
        """
        for name, content in self.side_files.items():
            (folder / name).write_bytes(content)
        write_note(folder, coordinates=coordinates)
        if is_adapted(self.model.module):
            save_lora(self.model.module, folder)
        else:
            whole = None if self.model.shards is None else plain_state(self.model.module)
            self.model.module.save_pretrained(folder, state_dict=whole)


def open_model(name: str, machine: MachineConfig) -> OpenModel:
    """Read weights and tokenizer onto the device.

    Raises:
        UsageError: There is no such model, its family has no adapter, or there is no such device.
    """
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this torch sees no GPU; use --device cpu, or install torch's CUDA build")
    folder = model_folder(name)
    with user_errors(f"--model {name}"):
        renderer = open_renderer(folder)
        model = VLModel.open(folder, device=machine.device, dtype=DTYPES[machine.dtype])
    return OpenModel(model=model, renderer=renderer, folder=folder, side_files=_side_files(folder))


def _side_files(folder: Path) -> dict[str, bytes]:
    paths = [path for pattern in SIDE_FILES for path in folder.glob(pattern)]
    return {path.name: path.read_bytes() for path in paths if path.name not in WRITTEN_ANEW}


def open_new(config: TrainConfig) -> OpenModel:
    """The model that a new run begins with, and in it the adapter that it trains, if any.

    Raises:
        UsageError: There is no such model or layer, or it holds an adapter already.
    """
    opened = open_model(config.model, config.machine)
    adapt(opened.model.module, config.learn, base=base_named(config.model, opened.folder), seed=config.seed)
    return opened


def open_reference(config: TrainConfig, opened: OpenModel, *, resumed: bool) -> VLModel:
    """The model whose weights are the reference policy, for `Learner(reference=...)`.

    It is the model itself when a run begins or trains an adapter, whose base stays as it is. A resumed run has no other
    copy of the weights that it began with than `config.model`, which is opened again; the learner's state knows
    whether it is still the same.

    Raises:
        UsageError: The model that the run began with is gone.
    """
    if not resumed or is_adapted(opened.model.module):
        return opened.model
    try:
        return open_model(config.model, config.machine).model
    except UsageError as problem:
        raise UsageError(
            f"the reference policy is the model that this run began with, and it can't be opened again ({problem}). "
            "Put it back where it was to go on"
        ) from problem


def make_sampler(config: TrainConfig, opened: OpenModel, *, num_gpus: int | None = None) -> TrainedPolicy:
    """What samples in a run: in this process, or in generators, which share that many GPUs of this machine.

    Raises:
        SamplerLost: The generators can't be started.
    """
    placement, max_images = config.placement, config.world.max_images
    if placement.cluster == "none":
        return make_policy(opened, config.policy, config.machine, max_images=max_images)
    from visualzoom.training.generators.ray_policy import GeneratorPlan, PacedRayPolicy, RayPolicy

    policy, is_alone = config.policy, num_gpus is not None or "RAY_ADDRESS" in os.environ
    if policy.engine_gpu_share is None and is_alone:
        policy = dataclasses.replace(policy, engine_gpu_share=ALONE_SHARE * min(1.0, placement.gpus_per_generator))
    make = PacedRayPolicy if config.policy.engine == "vllm" else RayPolicy
    num_bytes = sum(weight.nbytes for weight in opened.model.module.parameters())
    return make(
        GeneratorPlan(files=opened.files(), policy=policy, machine=config.machine, max_images=max_images),
        weights=lambda: whole_weights(opened.model.module),
        num_generators=placement.num_generators,
        gpus_per_generator=placement.gpus_per_generator if config.machine.device == "cuda" else 0.0,
        timeout_s=placement.generator_timeout_s,
        num_gpus=num_gpus,
        object_store_bytes=3 * num_bytes + 2**29,  # this version, the next one, and the pictures of requests
    )


def make_policy(opened: OpenModel, policy: PolicyConfig, machine: MachineConfig, *, max_images: int) -> TrainedPolicy:
    """What samples, around the weights of `opened` or following them."""
    if policy.engine == "transformers":
        return opened.policy()
    if policy.engine_url is not None:
        return _open_server(opened, policy.engine_url)
    base = base_of(opened.folder)
    module = opened.model.module
    vllm_policy = make_vllm_policy(
        str(opened.folder) if base is None else base.name,
        opened.renderer,
        policy,
        machine,
        max_images=max_images,
        weights=lambda: whole_weights(module),
        revision=None if base is None else base.revision,
        adapted=module if publishes_adapter(module, policy) else None,
    )
    if base is not None:  # the engine has read the base alone
        vllm_policy.publish(0)
    return vllm_policy


def _open_server(opened: OpenModel, url: str) -> TrainedPolicy:
    """A server that others have started, once it computes with our weights.

    Raises:
        EngineLost: It can't be reached, or takes none.
    """
    from visualzoom.agents.vllm_server import Server, ServerPolicy

    renderer = opened.renderer
    policy = ServerPolicy(
        Server(url=url, api_key=os.environ.get(ENGINE_KEY)),
        weights=lambda: whole_weights(opened.model.module),
        stop_ids=renderer.stop_ids,
        banned_ids=renderer.banned_ids,
    )
    try:
        policy.publish(0)
    except BaseException:
        policy.close()
        raise
    return policy


def make_vllm_policy(
    model: str,
    renderer: Renderer,
    policy: PolicyConfig,
    machine: MachineConfig,
    *,
    max_images: int,
    weights: Callable[[], Iterable[tuple[str, Tensor]]],
    revision: str | None = None,
    adapted: Any = None,
) -> TrainedPolicy:
    """A vLLM engine that begins with the weights in the model's folder and takes these at each publish.

    Of an `adapted` module it takes the adapter alone.
    """
    from visualzoom.agents.model_lora import rank_of
    from visualzoom.agents.vllm_policy import EngineSettings, VLLMPolicy
    from visualzoom.agents.vllm_transports import transport_for

    gpu = torch.cuda.current_device() if machine.device == "cuda" else None
    settings = EngineSettings(
        revision=revision,
        max_context_tokens=policy.max_context_tokens,
        max_images=max_images,
        dtype=machine.dtype,
        cache_gb=0.5 if policy.engine_cache_gb is None and machine.device == "cpu" else policy.engine_cache_gb,
        gpu_share=policy.engine_gpu_share or BESIDE_SHARE,
        process=policy.engine_process,
        sleeps=gpu is not None and policy.engine_sleep,
        transport=transport_for(process=policy.engine_process, learner_gpu=gpu, engine_gpu=gpu),
        lora_rank=0 if adapted is None else rank_of(adapted),
    )
    return VLLMPolicy(
        model,
        settings,
        weights=weights,
        adapter=None if adapted is None else partial(save_lora, adapted),
        stop_ids=renderer.stop_ids,
        banned_ids=renderer.banned_ids,
    )


def publishes_adapter(module: Any, policy: PolicyConfig) -> bool:
    """Whether an engine is sent the adapter by itself.

    Raises:
        UsageError: It is asked for, and can't be.
    """
    from visualzoom.agents.model_lora import adapts_projections_alone

    if policy.lora_publish != "adapter":
        return False
    if is_adapted(module) and adapts_projections_alone(module):
        return True
    why = "adapts layers outside of the language model" if is_adapted(module) else "has no adapter"
    raise UsageError(f"--lora-publish adapter: this run {why}; leave it at merged")


def call_end_ids(protocol: str, renderer: Renderer) -> tuple[int, ...]:
    """Tokens with which a tool call ends in this dialect. A call whose end is spelled out in other tokens goes on.

    Raises:
        UsageError: The dialect's calls have no end of their own, or the tokenizer has no token for it.
    """
    with user_errors("--stop-after-call"):
        words = closing_words(open_protocol(protocol))
        ids = renderer.closing_ids(words)
        if not ids:
            raise ValueError(f"the tokenizer has no token with {words!r}; leave the flag out")
        return ids


def make_agent(
    name: str,
    policy: Policy,
    renderer: Renderer,
    sampling: Sampling,
    *,
    max_context_tokens: int,
    forced_prefix: str = "",
) -> VLMAgent:
    """The agent of that name around a policy.

    Raises:
        UsageError: No agent has that name.
    """
    make = agent_class(name)
    with user_errors(f"--agent {name}"):
        return make(policy, renderer, sampling, max_context_tokens=max_context_tokens, forced_prefix=forced_prefix)


def agent_class(name: str) -> type[VLMAgent]:
    """What makes the agent of that name.

    Raises:
        UsageError: No agent has that name, or it can't be made as `VLMAgent` is.
    """
    with user_errors(f"--agent {name}"):
        make = cast("type[VLMAgent]", resolve(name, AGENTS, kind="agent"))
        _check_call(name, "agent", make, "policy", "renderer", "sampling", max_context_tokens=1, forced_prefix="")
        return make


def make_algorithm(name: str, options: Sequence[str] = ()) -> Algorithm:
    """The algorithm of that name with its settings, each given as name=value.

    Raises:
        UsageError: No algorithm has that name, or it has no such setting.
    """
    with user_errors(f"--algorithm {name}"):
        make = cast("Callable[..., Algorithm]", resolve(name, ALGORITHMS, kind="algorithm"))
        if not callable(make):
            raise UsageError(f"--algorithm {name}: this is no class; name one that can be called to make the algorithm")
        known = list(inspect.signature(make).parameters)
        pairs = [option.partition("=") for option in options]
        for key, equals, _ in pairs:
            if not equals or key not in known:
                allowed = ", ".join(known) or "none"
                raise UsageError(
                    f"--algorithm-options {key}{equals}: the settings of {name} are {allowed}, written name=value."
                    f"{suggest(key, known)}"
                )
        types = _types(make)
        settings = {key: _value(key, text, types.get(key, Any)) for key, _, text in pairs}
        _check_call(name, "algorithm", make, **settings)
        return _checked(name, make(**settings))


def make_trackers(names: Sequence[str], folder: Path, first_step: int) -> list[Tracker]:
    """Where metrics go besides the JSONL file.

    Raises:
        UsageError: No tracker has that name.
    """
    with user_errors("--tracker"):
        makers = [cast("Callable[[Path, int], Tracker]", resolve(name, TRACKERS, kind="tracker")) for name in names]
        return [make(folder, first_step) for make in makers]


def _check_call(name: str, kind: str, make: Callable[..., object], *given: object, **named: object) -> None:
    """Refuse what can't be called in the way that we call it."""
    try:
        inspect.signature(make).bind(*given, **named)
    except TypeError as problem:
        asked = ", ".join([*map(str, given), *(f"{key}=..." for key in named)])
        raise UsageError(f"--{kind} {name}: this can't be made with ({asked}): {problem}") from problem


def _checked(name: str, algorithm: object) -> Algorithm:
    """The algorithm, if it has what the loop needs and learns at all."""
    if not isinstance(algorithm, Algorithm):
        raise UsageError(
            f"--algorithm {name}: this gives a {type(algorithm).__name__}; an algorithm has the members of `Algorithm` "
            "in visualzoom.algorithms.records. Inherit `Rule` from there for all of them but credit and loss"
        )
    counts = (algorithm.num_epochs, algorithm.num_minibatches)
    if not all(isinstance(count, int) and count >= 1 for count in counts):
        raise UsageError(
            f"--algorithm {name}: num_epochs is {counts[0]!r} and num_minibatches is {counts[1]!r}; "
            "both must be whole numbers of at least 1"
        )
    if algorithm.aggregation not in KNOWN:
        raise UsageError(f"--algorithm {name}: aggregation is {algorithm.aggregation!r}; known are {', '.join(KNOWN)}")
    return algorithm


def _types(make: Callable[..., object]) -> Mapping[str, Any]:
    """Types of the settings, as far as they are told; a dataclass tells those that it inherits in their own modules."""
    plain_class = isinstance(make, type) and not dataclasses.is_dataclass(make)
    try:
        return get_type_hints(vars(make).get("__init__", make) if plain_class else make)
    except (NameError, TypeError):  # a name that only type checkers know, or something that has no hints
        return {}


def _value(key: str, text: str, kind: Any) -> object:
    """The text as a value of that type: `False` and `false` are no, 0.3 is a number."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    try:
        return text if kind is str else msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as problem:
        raise UsageError(f"--algorithm-options {key}={text}: {problem}") from problem
    except TypeError:  # a type that only the algorithm knows
        return value
