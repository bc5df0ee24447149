"""What all contestants of `update.py` share: sizes, random words, how they answer. Standard library alone."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peak_memory import with_peak

VOCABULARY = 2048
FIRST_WORD_ID = 16
"""Ids below are not words."""
HEAD_DIM = 64
DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One group of siblings: a prompt of so many tokens and as many replies."""

    prompt_tokens: int
    reply_tokens: int
    siblings: int
    hidden_size: int = 256
    image: bool = True
    """Whether a picture of 64 tokens stands in the prompt."""

    @property
    def decoder(self) -> dict[str, Any]:
        """Fields of the config of the language model."""
        heads = self.hidden_size // HEAD_DIM
        widths = {"hidden_size": self.hidden_size, "intermediate_size": self.hidden_size * 11 // 4}
        return DECODER | widths | {"num_attention_heads": heads, "num_key_value_heads": heads // 2}

    def words(self) -> tuple[list[int], list[list[int]]]:
        """Token ids of the prompt and of each reply."""
        chance = random.Random(0)
        lengths = [self.prompt_tokens, *[self.reply_tokens] * self.siblings]
        prompt, *replies = ([chance.randrange(FIRST_WORD_ID, VOCABULARY) for _ in range(n)] for n in lengths)
        return prompt, replies

    def rewards(self) -> list[float]:
        """Of each sibling."""
        chance = random.Random(1)
        return [chance.random() for _ in range(self.siblings)]

    def arguments(self) -> list[object]:
        """As `read_command` takes them behind the reading."""
        sizes = (self.prompt_tokens, self.reply_tokens, self.siblings, self.hidden_size)
        return [*sizes, *(["--image"] if self.image else [])]


TINY = {"prompt_tokens": 80, "reply_tokens": 4, "siblings": 2}
"""A cell to warm up with: it loads and allocates what is there once, and hardly any memory else."""


def read_command(readings: tuple[str, ...]) -> tuple[Cell, str]:
    """The cell and the way of reading that a contestant is told on its command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reading", choices=readings)
    for name in ("prompt_tokens", "reply_tokens", "siblings", "hidden_size"):
        parser.add_argument(name, type=int)
    parser.add_argument("--image", action="store_true")
    args = vars(parser.parse_args())
    reading = args.pop("reading")
    return Cell(**args), reading


def serve(update: Callable[[], dict[str, float]], out: Any = sys.stdout) -> None:
    """One update for each line. The first answer tells the peak memory, all tell the time and what the update says."""
    for number, _ in enumerate(sys.stdin):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        if number == 0:
            said, peak_bytes = with_peak(update)
            said["peak_bytes"] = peak_bytes
        else:
            said = update()
        said |= {"seconds": time.perf_counter() - began_s, "cpu_seconds": time.process_time() - began_cpu_s}
        print(json.dumps(said), file=out, flush=True)
