"""Rotary positions of text and images, [time, row, column]: cells stand on a grid, and text goes on after it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1024)
def positions_of(num_tokens: int, images: tuple[tuple[int, int, int], ...]) -> NDArray[np.int64]:
    positions = np.empty((3, num_tokens), dtype=np.int64)
    token, position = 0, 0
    for start, rows, columns in images:
        positions[:, token:start] = np.arange(position, position + start - token)
        position += start - token
        row, column = np.divmod(np.arange(rows * columns), columns)
        token = start + rows * columns
        positions[:, start:token] = position + np.stack([np.zeros_like(row), row, column])
        position += max(rows, columns)
    positions[:, token:] = np.arange(position, position + num_tokens - token)
    positions.flags.writeable = False
    return positions
