"""Laws of what travels to a generator, requests and weights: what arrives is what was sent, and no pixel twice."""

from __future__ import annotations

import pickle

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import GenerateRequest, ShownImage
from visualzoom.agents.tokens import Rendered
from visualzoom.training.generators.requests import Packer, Unpacker
from visualzoom.training.generators.weights import pack_weights, unpack_weights

PAD, CELL_PX = 99, 4


def picture(number: int) -> ShownImage:
    return ShownImage.of(np.full((CELL_PX, 2 * CELL_PX, 3), number, dtype=np.uint8))


@st.composite
def histories(draw: st.DrawFn) -> TokenLedger:
    ids: list[int] = []
    spans = []
    pictures = draw(st.lists(st.integers(0, 3), max_size=3))
    for _ in pictures:
        ids += draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
        spans.append((len(ids), len(ids) + 2))
        ids += [PAD, PAD]
    ids += draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    return TokenLedger.open(Rendered(token_ids=tuple(ids), image_spans=tuple(spans)), [picture(n) for n in pictures])


EPISODES = st.sampled_from(["a", "b", "c"])
EVENTS = st.lists(st.tuples(EPISODES, st.none() | histories()), max_size=12)


@given(EVENTS)
def test_requests_arrive_as_they_were_and_an_image_is_sent_once_while_it_is_kept(
    events: list[tuple[str, TokenLedger | None]],
) -> None:
    packer, unpacker = Packer(), Unpacker()
    kept: dict[str, set[str]] = {}
    for seed, (episode_id, ledger) in enumerate(events):
        if ledger is None:
            packer.forget([episode_id])
            unpacker.forget([episode_id])
            kept.pop(episode_id, None)
            continue
        request = GenerateRequest(episode_id=episode_id, ledger=ledger, seed=seed)
        package = pickle.loads(pickle.dumps(packer.pack([request]), protocol=5))
        assert not set(package.pixels) & {key for keys in kept.values() for key in keys}
        kept.setdefault(episode_id, set()).update(image.key for image in ledger.images)
        (arrived,) = unpacker.unpack(package)
        assert (arrived.episode_id, arrived.seed) == (episode_id, seed)
        assert arrived.ledger.token_ids == ledger.token_ids
        places = [
            [(span.start, span.stop, span.image.key) for span in one.image_spans] for one in (arrived.ledger, ledger)
        ]
        assert places[0] == places[1]
        pairs = zip(arrived.ledger.images, ledger.images, strict=True)
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in pairs)
        assert unpacker.num_images == len({key for keys in kept.values() for key in keys})


@given(st.sampled_from(["float32", "bfloat16", "float16", "int64"]), st.lists(st.integers(0, 3), max_size=3))
def test_weights_arrive_bit_for_bit(dtype: str, shape: list[int]) -> None:
    tensor = (torch.rand(shape) * 100).to(getattr(torch, dtype))
    packed = pickle.loads(
        pickle.dumps(pack_weights([("w", tensor), ("turned", tensor.mT if tensor.dim() > 1 else tensor)]))
    )
    for one in packed:
        one.data.flags.writeable = False  # as the object store hands it out
    arrived = unpack_weights(packed)
    assert arrived["w"].dtype == tensor.dtype and torch.equal(arrived["w"], tensor)
    assert torch.equal(arrived["turned"], tensor.mT if tensor.dim() > 1 else tensor)
