"""What a run needs of each memory, part by part, and when: on the learner's device, on the sampler's, in the host's.

Parts of one phase are alive together, and the peak of a device is the largest sum of a phase. An update has three: the
head while all activations are kept, the layers on the way back, and the gradients when the activations are gone.
States are exact; caches are bounds; activations and what libraries take for themselves are estimates, and each part
says which it is. The formulas are in states.py, one_pass.py and sampler.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from visualzoom.agents.model import VLModel
from visualzoom.training.config import ALONE_SHARE, BESIDE_SHARE, TrainConfig
from visualzoom.training.memory.bare_model import tensor_bytes
from visualzoom.training.memory.episode import EpisodeSizes, PassSizes, largest_pass
from visualzoom.training.memory.one_pass import Activations, activations
from visualzoom.training.memory.sampler import GIB, SamplerBytes, engine_sampler, publish_bytes, shared_sampler
from visualzoom.training.memory.states import States, count_states

Place = Literal["learner", "sampler", "generator", "host"]
"""A sampler lies on the learner's device, or in generators with devices of their own; one of them is described."""
Memory = Literal["device", "generator", "host"]
"""The learner's device, that of a generator, the host's. On a CPU all are one."""
Phase = Literal["rollout", "head", "layers", "gradients", "loading", "publish"]
Known = Literal["exact", "at most", "estimate"]

UPDATE: tuple[Phase, ...] = ("head", "layers", "gradients")
PASS: tuple[Phase, ...] = ("head", "layers")
CUDA_BYTES = GIB
"""Of a CUDA context and the work spaces of its libraries. A guess until it has been measured on a GPU."""
GAPS = 0.05
"""Share that a caching allocator loses between blocks. A guess until it has been measured on a GPU."""
PROCESS_BYTES = {"cpu": GIB, "cuda": 4 * GIB}
"""Of Python with torch and transformers; on a CPU 0.7 GB were measured."""
CHANNELS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One line of the estimate."""

    name: str
    place: Place
    num_bytes: int
    phases: tuple[Phase, ...] = ()
    """In which it is held; none named: always."""
    known: Known = "exact"


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Everything that is known of a run's memory."""

    parts: tuple[Part, ...]
    states: States
    sizes: EpisodeSizes
    one_pass: PassSizes
    sampler: SamplerBytes
    on_gpu: bool
    learner_gpus: int
    checkpoint_bytes: int
    """On disk, for each that is kept."""

    def peak(self, of: Memory = "device") -> tuple[int, Phase]:
        """The most that is held at once in a memory, and when."""
        sums: dict[Phase, int] = {phase: self._held(phase, of) for phase in get_args(Phase)}
        phase = max(sums, key=lambda phase: sums[phase])
        return sums[phase], phase

    def _held(self, phase: Phase, of: Memory) -> int:
        here = [part for part in self.parts if not self.on_gpu or _memory(part.place) == of]
        return sum(part.num_bytes for part in here if not part.phases or phase in part.phases)


def _memory(place: Place) -> Memory:
    memories: dict[Place, Memory] = {"learner": "device", "sampler": "device", "generator": "generator", "host": "host"}
    return memories[place]


def footprint(
    config: TrainConfig,
    model: VLModel,
    sizes: EpisodeSizes,
    *,
    with_critic: bool,
    device_bytes: int | None = None,
    learner_gpus: int = 1,
) -> Footprint:
    """Of this run.

    Args:
        config: The run.
        model: Of it, on the device "meta"; gets frozen here what the run freezes.
        sizes: Of its episodes.
        with_critic: Whether its algorithm has a critic.
        device_bytes: Memory of one GPU, if it is known.
        learner_gpus: Over so many the learner's states are divided, as FSDP2 would. An outlook.

    Raises:
        UsageError: A pattern of `--freeze` matches nothing, or nothing is left to train.
    """
    learn, on_gpu = config.learn, config.machine.device == "cuda"
    states = count_states(model, learn, with_reference=config.terms.kl != "none", with_critic=with_critic)
    one_pass = largest_pass(config, sizes)
    held = activations(
        model,
        one_pass,
        device=config.machine.device,
        checkpoint_layers=learn.checkpoint_layers,
        separate_critic=with_critic and learn.critic == "separate",
    )
    sampler = _sampler(config, model, sizes, states, device_bytes if on_gpu else None)
    parts = [
        *_learner_parts(states, held, learner_gpus, model),
        *_vision_part(config, model, sizes),
        *_sampler_parts(config, sampler),
        *_host_parts(config, sizes, states, model.shape.factor_px),
    ]
    found = Footprint(
        parts=tuple(parts),
        states=states,
        sizes=sizes,
        one_pass=one_pass,
        sampler=sampler,
        on_gpu=on_gpu,
        learner_gpus=learner_gpus,
        checkpoint_bytes=(states.adapter or states.weights) + states.copies + states.moments + states.critic,
    )
    return replace(found, parts=(*found.parts, *_cuda_parts(found))) if on_gpu else found


def _learner_parts(states: States, held: Activations, num_gpus: int, model: VLModel) -> list[Part]:
    def state(name: str, num_bytes: int, *phases: Phase) -> Part:
        known: Known = "exact" if num_gpus == 1 else "estimate"
        return Part(name=name, place="learner", num_bytes=-(-num_bytes // num_gpus), phases=phases, known=known)

    def passing(name: str, num_bytes: int, *phases: Phase) -> Part:
        return Part(name=name, place="learner", num_bytes=num_bytes, phases=phases, known="estimate")

    parts = [
        state("weights", states.weights),
        state("adapter", states.adapter),
        state("float32 copies", states.copies),
        state("moments of AdamW", states.moments),
        state("reference policy", states.reference),
        state("critic", states.critic),
        state("gradients, float32", states.gradients, *UPDATE),
        state("gradients of one pass, half precision", states.half_gradients, "gradients"),
        passing("activations kept", held.layers, *PASS),
        passing("images", held.tower, *PASS),
        passing("attention mask", held.mask, *PASS),
        passing("head, in chunks", held.head, "head"),
        passing("the layer that is gone back through", held.flying, "layers"),
    ]
    if num_gpus > 1:
        parts.append(passing("layers gathered from the other GPUs", _gathered_bytes(model), *UPDATE))
    return parts


def _gathered_bytes(model: VLModel) -> int:
    """Two layers, one computed and one on its way, and what stands outside of the layers."""
    layer = tensor_bytes(model.language.layers[0].parameters())
    outside = tensor_bytes([*model.language.embed_tokens.parameters(), *model.module.lm_head.parameters()])
    return 2 * layer + outside


def _vision_part(config: TrainConfig, model: VLModel, sizes: EpisodeSizes) -> list[Part]:
    """Kept features of a frozen tower: those of a step, up to the bound."""
    if any(parameter.requires_grad for parameter in model.visual.parameters()):
        return []
    tokens = sizes.tasks * sizes.view + sizes.num_episodes * sizes.crops
    step = tokens * model.hidden_size * model.dtype.itemsize
    bound = int(config.learn.vision_cache_gb * GIB)
    return [Part(name="features of images", place="learner", num_bytes=min(step, bound), known="at most")]


def _sampler(
    config: TrainConfig, model: VLModel, sizes: EpisodeSizes, states: States, device_bytes: int | None
) -> SamplerBytes:
    apart = config.placement.cluster == "ray"
    if config.policy.engine == "transformers":
        shared = shared_sampler(model, sizes, max_tokens=config.policy.max_tokens)
        return replace(shared, weights=states.weights) if apart else shared
    share = ALONE_SHARE * min(1.0, config.placement.gpus_per_generator) if apart else BESIDE_SHARE
    return engine_sampler(
        model, sizes, config.policy, weights=states.weights, device_bytes=device_bytes, usual_share=share
    )


def _sampler_parts(config: TrainConfig, sampler: SamplerBytes) -> list[Part]:
    """Of one sampler; on a CPU of all generators, whose memory is the machine's."""
    apart, on_gpu = config.placement.cluster == "ray", config.machine.device == "cuda"
    place: Place = "generator" if apart else "sampler"
    count = 1 if on_gpu or not apart else config.placement.num_generators
    phases: tuple[Phase, ...] = () if apart or config.policy.engine == "vllm" else ("rollout",)
    parts = [
        Part(name="weights of its own", place=place, num_bytes=count * sampler.weights),
        Part(
            name="keys and values",
            place=place,
            num_bytes=count * max(0, sampler.cache),
            phases=phases,
            known="at most",
        ),
        Part(name="reading and drawing", place=place, num_bytes=count * sampler.work, phases=phases, known="estimate"),
    ]
    if not apart:
        return parts
    beside = CUDA_BYTES if on_gpu else count * PROCESS_BYTES["cpu"]
    name = "CUDA itself" if on_gpu else "the processes"
    return [*parts, Part(name=name, place=place, num_bytes=beside, known="estimate")]


def _host_parts(config: TrainConfig, sizes: EpisodeSizes, states: States, factor_px: int) -> list[Part]:
    on_gpu = config.machine.device == "cuda"
    pixels = (sizes.tasks * sizes.view + sizes.num_episodes * sizes.crops) * factor_px**2
    parts = [
        Part(name="the process", place="host", num_bytes=PROCESS_BYTES[config.machine.device], known="estimate"),
        Part(name="pictures as shown", place="host", num_bytes=CHANNELS * pixels, known="at most"),
    ]
    if on_gpu:
        read = Part(name="weights on their way to the GPU", place="host", num_bytes=states.weights, phases=("loading",))
        parts.append(read)
    if config.placement.cluster == "ray":
        kept = 2 * states.weights  # this version, and the next one while it is handed out
        parts.append(Part(name="weights on their way to generators", place="host", num_bytes=kept))
    elif config.policy.engine == "vllm":
        sent = publish_bytes(states.weights, on_gpu=on_gpu)
        parts.append(Part(name="weights on their way to vLLM", place="host", num_bytes=sent, phases=("publish",)))
    return parts


def _cuda_parts(held: Footprint) -> list[Part]:
    """What CUDA and its allocator take for themselves; vLLM's share is for all that is its own."""
    engine = sum(part.num_bytes for part in held.parts if part.place == "sampler" and not part.phases)
    gaps = int(GAPS * (held.peak()[0] - engine))
    return [
        Part(name="CUDA itself", place="learner", num_bytes=CUDA_BYTES, known="estimate"),
        Part(name="gaps of the allocator", place="learner", num_bytes=gaps, known="estimate"),
    ]
