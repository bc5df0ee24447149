"""Runs in the Python of PrefixGrouper: the other side of `update.py`, on text alone, which is what the package reads.

A Qwen2 of the same shape as our decoder. `shared` is the package by its documented calls; the attention that it
registers wants flash-attn, so that torch's own stands in its place, through `PrefixGrouper.forward`. `plain` is the
same model with padded rows. In its favor the head sees only places that predict a token of a reply. Nothing of ours is
imported.
"""

from __future__ import annotations

import math
import sys

import torch
from prefix_grouper import PrefixGrouper
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM
from update_cell import TINY, VOCABULARY, Cell, read_command, serve

GROUPED = "grouped"


def attend(query: Tensor, key: Tensor, value: Tensor, _padding: Tensor, scale: float | None) -> Tensor:
    """Causal; fewer queries than keys are the last of them. [rows, heads, T, D] gives [rows, T, heads, D].

    There is one group of replies of one length, and so no padding to be masked.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    mask = None
    if num_queries < num_keys:
        unseen = torch.ones(num_queries, num_keys, dtype=torch.bool).triu_(num_keys - num_queries + 1)
        mask = torch.zeros(num_queries, num_keys).masked_fill_(unseen, -torch.inf)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return output.transpose(1, 2)


def grouped_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float | None = None,
    prefix_grouper: PrefixGrouper,
    **_: object,
) -> tuple[Tensor, None]:
    """What transformers calls."""
    return prefix_grouper.forward(attend, query, key, value, scaling), None


def make_model(cell: Cell, reading: str) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    attention = GROUPED if reading == "shared" else "sdpa"
    config = Qwen2Config(**cell.decoder, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._attn_implementation = attention
    return Qwen2ForCausalLM(config).eval()


class Updates:
    """AdamW on GRPO's loss for one group, the same again and again: the step size is 0."""

    def __init__(self, cell: Cell, reading: str) -> None:
        self.model = make_model(cell, reading)
        self.hidden = self._shared if reading == "shared" else self._plain
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
        self._take(Cell(**TINY, hidden_size=cell.hidden_size, image=False))
        self()
        self._take(cell)

    def _take(self, cell: Cell) -> None:
        prompt, replies = cell.words()
        self.prompt_1P, self.replies_GR = torch.tensor([prompt]), torch.tensor(replies)
        rewards_G = torch.tensor(cell.rewards())
        self.advantages_G = (rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-6)

    def __call__(self) -> dict[str, float]:
        hidden_GRD, num_tokens = self.hidden()
        logprobs_GRV = nn.functional.log_softmax(self.model.lm_head(hidden_GRD).float(), -1)
        logprobs_GR = logprobs_GRV.gather(-1, self.replies_GR[..., None])[..., 0]
        ratio_GR = (logprobs_GR + math.log(VOCABULARY)).exp()
        advantages_G1 = self.advantages_G[:, None]
        loss = torch.maximum(-advantages_G1 * ratio_GR, -advantages_G1 * ratio_GR.clamp(0.8, 1.28)).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"tokens_read": num_tokens, "loss": loss.item(), "grad_norm": norm.item()}

    def _plain(self) -> tuple[Tensor, int]:
        """Each sibling a row of its own; the last token of a reply predicts nothing."""
        size = len(self.replies_GR)
        ids_GT = torch.cat([self.prompt_1P.expand(size, -1), self.replies_GR], 1)[:, :-1]
        hidden_GTD = self.model.model(input_ids=ids_GT, use_cache=False).last_hidden_state
        return hidden_GTD[:, self.prompt_1P.shape[1] - 1 :], ids_GT.numel()

    def _shared(self) -> tuple[Tensor, int]:
        """The prompt once, all replies behind it."""
        tails = self.replies_GR[:, :-1]
        masks = torch.ones_like(self.prompt_1P), torch.ones_like(tails)
        grouper = PrefixGrouper.from_ungrouped_masks(*masks, group_sizes=len(tails), padding_mode="right")
        ids_1N = grouper.concat_input(self.prompt_1P, masks[0], tails, masks[1])
        num_prompt = self.prompt_1P.shape[1]
        behind_T = num_prompt + torch.arange(tails.shape[1])
        positions_1N = torch.cat([torch.arange(num_prompt), behind_T.repeat(len(tails))])[None]
        output = self.model.model(
            input_ids=ids_1N,
            attention_mask=grouper.padding_mask,
            position_ids=positions_1N,
            use_cache=False,
            prefix_grouper=grouper,
        )
        _, _, hidden_GRD, _ = grouper.split_output(output.last_hidden_state, include_prefix_last=1)
        return hidden_GRD, ids_1N.numel()


def main() -> None:
    torch.set_num_threads(1)
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, lambda *_, **__: None)  # the package makes its own masks
    out, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is no answer
    cell, reading = read_command(("shared", "plain"))
    serve(Updates(cell, reading), out)


if __name__ == "__main__":
    main()
