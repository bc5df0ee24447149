"""The tiny model's tokenizer: bytes, whole numbers, a few words, and each fixed line of the protocol as one token.

Law: every Unicode text round-trips (bytes are the fallback), and the default prompt is short because what never
changes costs one token. The order of the vocabulary is part of a checkpoint: words are only ever appended.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
HEADERS = ("<|im_start|>system\n", "\n<|im_start|>user\n", "\n<|im_start|>assistant\n")
MAX_NUMBER = 112
"""Largest pixel coordinate of an overview: one token a coordinate."""

CALL_BEGIN = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
CALL_END = "]}}</tool_call>"
REPLY_PARTS = (CALL_BEGIN, CALL_END, "<answer>", "</answer>", "<think>", "</think>", ", ")
WORDS = (
    *("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"),
    *("What digit is on the ", "What letter is on the ", "Locate the ", " card?", " card.", " card"),
    *("How many dots are on the ", "Is there a ", "Which ", "Follow ", " sign", " larger ", " or ", " and ", " the "),
    *("yes", "no", "none", "left", "right", " digit", " letter", "?", ".", ":"),
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def build_tokenizer(fixed_lines: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose single tokens include these fixed texts (system prompt, instructions, tool responses)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    numbers = [str(number) for number in range(10, MAX_NUMBER + 1)]
    plain = [*HEADERS, *numbers, *REPLY_PARTS, *WORDS, *fixed_lines]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
