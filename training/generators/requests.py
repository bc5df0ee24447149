"""Requests on their way to a generator: tokens as they are, and of the images only those that it does not have yet.

Both ends keep the same books, because they see the same packages and releases in the same order.
Law: what is unpacked has the tokens, places and pixels of what was packed; an image is sent once as long as an episode
that shows it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import GenerateRequest, ShownImage
from visualzoom.agents.tokens import Rendered
from visualzoom.envs.records import Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRequest:
    """A request without its pixels. Who wrote which token is the driver's affair."""

    episode_id: str
    seed: int
    token_ids: NDArray[np.int32]
    spans: tuple[tuple[int, int], ...]
    keys: tuple[str, ...]
    """Of the images at these spans."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """Requests, and the images that the generator has not seen."""

    requests: tuple[PackedRequest, ...]
    pixels: Mapping[str, Pixels]


class _Held:
    """Which images the generator holds, and for which episodes."""

    def __init__(self) -> None:
        self._by_episode: dict[str, set[str]] = {}
        self._num_episodes: dict[str, int] = {}

    def add(self, episode_id: str, keys: Sequence[str]) -> None:
        known = self._by_episode.setdefault(episode_id, set())
        for key in set(keys) - known:
            known.add(key)
            self._num_episodes[key] = self._num_episodes.get(key, 0) + 1

    def drop(self, episode_ids: Sequence[str]) -> list[str]:
        """The images that no episode shows any more."""
        gone = []
        for episode_id in episode_ids:
            for key in self._by_episode.pop(episode_id, ()):
                self._num_episodes[key] -= 1
                if not self._num_episodes[key]:
                    del self._num_episodes[key]
                    gone.append(key)
        return gone

    def __contains__(self, key: str) -> bool:
        return key in self._num_episodes


class Packer:
    """The driver's end of the way to one generator."""

    def __init__(self) -> None:
        self._held = _Held()

    def pack(self, requests: Sequence[GenerateRequest]) -> Package:
        """Take note of what is sent."""
        pixels: dict[str, Pixels] = {}
        for request in requests:
            pixels |= {image.key: image.pixels for image in request.ledger.images if image.key not in self._held}
        for request in requests:
            self._held.add(request.episode_id, [image.key for image in request.ledger.images])
        return Package(requests=tuple(map(_packed, requests)), pixels=pixels)

    def forget(self, episode_ids: Sequence[str]) -> None:
        """These are released at the other end."""
        self._held.drop(episode_ids)


class Unpacker:
    """The generator's end."""

    def __init__(self) -> None:
        self._held = _Held()
        self._images: dict[str, ShownImage] = {}

    def unpack(self, package: Package) -> list[GenerateRequest]:
        """The requests; all of a history counts as its prompt."""
        self._images |= {key: ShownImage(key=key, pixels=pixels) for key, pixels in package.pixels.items()}
        for packed in package.requests:
            self._held.add(packed.episode_id, packed.keys)
        return [self._request(packed) for packed in package.requests]

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Drop the images that only these showed."""
        for key in self._held.drop(episode_ids):
            del self._images[key]

    @property
    def num_images(self) -> int:
        """Images that are held."""
        return len(self._images)

    def _request(self, packed: PackedRequest) -> GenerateRequest:
        rendered = Rendered(token_ids=tuple(packed.token_ids.tolist()), image_spans=packed.spans)
        ledger = TokenLedger.open(rendered, [self._images[key] for key in packed.keys])
        return GenerateRequest(episode_id=packed.episode_id, ledger=ledger, seed=packed.seed)


def _packed(request: GenerateRequest) -> PackedRequest:
    spans = request.ledger.image_spans
    return PackedRequest(
        episode_id=request.episode_id,
        seed=request.seed,
        token_ids=np.array(request.ledger.token_ids, dtype=np.int32),
        spans=tuple((span.start, span.stop) for span in spans),
        keys=tuple(span.image.key for span in spans),
    )
