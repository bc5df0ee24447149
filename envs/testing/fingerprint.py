"""The content of what an environment gives, as bytes: equal content has equal fingerprints, whatever holds it.

Law: arrays count by type, shape and bytes, records by their fields; what has no content of its own counts by its type.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

_TIMED = "episode"  # Gymnasium's RecordEpisodeStatistics: it holds the time of the clock


def fingerprint(value: object) -> bytes:
    """Of any observation, info, or result of a step."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in _pieces(value):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.digest()


def _pieces(value: object) -> Iterator[bytes]:
    if isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        yield b"mapping"
        for key in sorted(value, key=str):
            if key != _TIMED:
                yield str(key).encode(errors="surrogatepass")
                yield from _pieces(value[key])
    elif isinstance(value, list | tuple | np.ndarray):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        for field in dataclasses.fields(value):
            yield field.name.encode()
            yield from _pieces(getattr(value, field.name))
    elif value is None or isinstance(value, str | bytes | int | float | np.generic):
        yield repr(value.item() if isinstance(value, np.generic) else value).encode(errors="surrogatepass")
    else:
        yield type(value).__qualname__.encode()
