"""Runs in the Python of TRL: TRL's own advantages, corrections and losses for given numbers, and their gradients.

Nothing of ours is imported here, and nothing of TRL is rewritten: its `_generate_and_score_completions` and
`_compute_loss` run as they are on an object whose model answers with the given log-probabilities and whose rewards are
the given ones. A list of cases comes in as JSON, a list of results goes out. All in float64.

A case:   {"trainer": "grpo" or "rloo", "settings": fields of its config, "group_size": G,
           "rewards": [B][functions] (null: not scored), "mask": [B][T], "logprobs": [B][T], "entropies": [B][T]
           and, where the settings want them, "old": [B][T], "reference": [B][T], "sampling": [B][T]}
A result: {"advantages": [B], "loss": number, "gradient": [B][T], "correction": [B][T], [B][1] or null}

B is an episode, T a token after its prompt; `mask` is 1 on sampled tokens and 0 on what a tool said.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict, deque
from typing import Any

import torch
from peer_torchvision import declare_operators
from torch import Tensor

declare_operators()

from accelerate import Accelerator  # noqa: E402  torchvision must be importable first
from trl import GRPOConfig, RLOOConfig  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.rloo_trainer import RLOOTrainer  # noqa: E402

PAD_ID, EOS_ID, WORD_ID = 0, 1, 2
SAME_NAME = (
    "num_generations",
    "num_iterations",
    "steps_per_generation",
    "max_completion_length",
    "pad_to_multiple_of",
    "mask_truncated_completions",
    "use_vllm",
    "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
    "loss_type",
    "multi_objective_aggregation",
    "scale_rewards",
    "importance_sampling_level",
    "off_policy_mask_threshold",
    "top_entropy_quantile",
    "entropy_coef",
    "use_adaptive_entropy",
    "beta",
    "log_multimodal",
    "normalize_advantages",
    "reward_clip_range",
)
"""Attributes of the trainers that their constructors copy from their arguments, as far as they have them."""
Case = dict[str, Any]


class Stand(torch.nn.Module):
    """A model of which only its identity and its mode are looked at."""

    is_gradient_checkpointing = False


class Tokenizer:
    pad_token_id = PAD_ID


class Given:
    """The half of a trainer of TRL's with given numbers in place of a model, a generator and reward functions."""

    def __init__(self, case: Case) -> None:
        """Set what the two methods read, as TRL's own constructor would; that one would want a model and data."""
        num_episodes, num_functions = len(case["rewards"]), len(case["rewards"][0])
        self.case = case
        self.args = _arguments(case, num_episodes)
        self.accelerator = Accelerator(cpu=True)  # after the arguments, which forget earlier ones
        for name in SAME_NAME:
            setattr(self, name, vars(self.args).get(name))
        self.epsilon_low = self.args.epsilon
        self.epsilon_high = self.args.epsilon if self.args.epsilon_high is None else self.args.epsilon_high
        self.current_gradient_accumulation_steps = 1
        self.model, self.ref_model = Stand(), Stand()
        self.reward_weights = torch.tensor(self.args.reward_weights or [1.0] * num_functions)
        self.reward_func_names = [f"rule {i}" for i in range(num_functions)]
        self.reward_funcs = [None] * num_functions
        self.tools = self.environment_factories = self.environments = None
        self._tokenizer, self.eos_token_ids, self._is_vlm = Tokenizer(), [EOS_ID], False
        self.aux_loss_enabled = False
        self._entropy_bonus_enabled = bool(vars(self.args).get("entropy_coef"))
        self._metrics: Any = {"train": defaultdict(list)}
        self._logs: Any = {name: deque() for name in ("prompt", "completion", "advantages")}
        self._logs |= {"rewards": defaultdict(deque), "extra": {}}
        self._pending_extra_logs: Any = {}
        self._pending_metrics: Any = {}
        self.logprobs = _padded(case["logprobs"]).requires_grad_()

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """Tokens of the right number; which ones does not matter."""
        mask = self.case["mask"]
        completions = [[WORD_ID] * (len(row) - 1) + [EOS_ID] for row in mask]
        nothing = ["" for _ in mask]
        return [[WORD_ID] for _ in prompts], completions, mask, nothing, self.case.get("sampling"), {}, None, []

    def _calculate_rewards(self, *_: object) -> Tensor:
        rows = self.case["rewards"]
        return torch.tensor([[float("nan") if reward is None else reward for reward in row] for row in rows])

    def _get_per_token_logps_and_entropies(self, model: Stand, *_: object, **__: object) -> tuple[Any, ...]:
        if model is self.ref_model:
            return _padded(self.case["reference"]), None, None
        if not torch.is_grad_enabled():  # before the step: the log-probabilities of the policy that acted
            return _padded(self.case["old"]), None, None
        return self.logprobs, _padded(self.case["entropies"]), None

    def answer(self: Any) -> dict[str, Any]:
        """Advantages, correction, loss and gradient, all by TRL's own code."""
        rows = [{"prompt": "question"} for _ in self.case["rewards"]]
        inputs = self._generate_and_score_completions(rows)
        loss = self._compute_loss(self.model, inputs)
        (gradient,) = torch.autograd.grad(loss, [self.logprobs])
        correction = inputs.get("importance_sampling_ratio")
        lengths = [len(row) for row in self.case["mask"]]
        return {
            "advantages": inputs["advantages"].tolist(),
            "loss": loss.item(),
            "gradient": [row[:n].tolist() for row, n in zip(gradient, lengths, strict=True)],
            "correction": correction
            if correction is None
            else [row[:n].tolist() for row, n in zip(correction, lengths, strict=True)],
        }


class GivenGRPO(Given, GRPOTrainer):  # type: ignore[misc]  # TRL's classes carry no types for mypy
    """TRL's GRPO on given numbers."""


class GivenRLOO(Given, RLOOTrainer):  # type: ignore[misc]
    """TRL's RLOO on given numbers; it knows no tools."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        prompt_ids, completion_ids, *_ = super()._generate(prompts)
        return prompt_ids, completion_ids, ["" for _ in prompts]


TRAINERS = {"grpo": (GivenGRPO, GRPOConfig), "rloo": (GivenRLOO, RLOOConfig)}


def _arguments(case: Case, num_episodes: int) -> Any:
    """TRL's own settings with its own defaults, for one optimizer step on all episodes."""
    settings = dict(case["settings"])
    if "old" in case and not settings.get("use_vllm"):
        settings["num_iterations"] = 2  # else TRL takes the present policy for the one that acted
    return TRAINERS[case["trainer"]][1](
        output_dir=tempfile.gettempdir(),
        report_to=[],
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=num_episodes,
        gradient_accumulation_steps=1,
        num_generations=case["group_size"],
        **settings,
    )


def _padded(rows: list[list[float]]) -> Tensor:
    """[B, T], zeros on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])


def main() -> None:
    """Answer every case."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is no answer
    json.dump([TRAINERS[case["trainer"]][0](case).answer() for case in json.load(sys.stdin)], out)


if __name__ == "__main__":
    main()
