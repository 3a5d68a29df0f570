"""Statistics over chunks of images: sums in the order of the chunks, to the bit the same whoever makes a chunk's."""

import pickle
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from small_graphs import build

from calibrate.consumer import Consumer, find_consumers
from calibrate.moments import Moments
from calibrate.source import Source
from calibrate.statistics import Chunk, ChunkMoments, Spread, collect
from graph.bridge import Portable, to_torch
from graph.errors import ModelError
from graph.trace import trace

NETWORK = """(float[N,3,6,6] x) => (float[N,5] y) <
    float[8,3,3,3] w1, float[8] b1, float[40,8,3,3] w2, float[40] b2, float[640,5] w3
> {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv (r, w2, b2)
    s = Relu (c)
    f = Flatten (s)
    y = MatMul (f, w3)
}"""
IMAGES = np.random.default_rng(0).normal(size=(30, 3, 6, 6)).astype(np.float32)
SOURCE = Source(len(IMAGES), lambda indices: {"x": IMAGES[indices]}, "test images")


@pytest.fixture(scope="module")
def portable() -> Portable:
    original, sample = build(NETWORK), {"x": IMAGES[:2]}
    return Portable(original, sample, to_torch(original, sample))


def consumers(portable: Portable) -> tuple[Consumer, ...]:
    return find_consumers(portable.original, dict(trace(portable.original).shapes))


def collected(portable: Portable, *, chunk: int = 7, seed: int = 3, spread: Spread | None = None) -> dict[str, Moments]:
    every = np.arange(len(IMAGES))
    return collect(portable.model, consumers(portable), SOURCE, every, chunk=chunk, seed=seed, spread=spread)


def same_bits(a: dict[str, Moments], b: dict[str, Moments]) -> bool:
    return a.keys() == b.keys() and all(
        a[node].n == b[node].n
        and all(torch.equal(getattr(a[node], name), getattr(b[node], name)) for name in ("xx", "xy", "yy"))
        for node in a
    )


def test_who_makes_the_sums_of_a_chunk_and_when_does_not_matter(
    portable: Portable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibrate.statistics.LEAST_ROWS", 300)  # positions are drawn, 10 of 36 in the first layer
    monkeypatch.setattr("calibrate.statistics.ROWS_PER_UNKNOWN", 1)

    def backwards(made: ChunkMoments, chunks: Iterable[Chunk]) -> Iterator[list[tuple[str, Moments]]]:
        there, function = pickle.loads(pickle.dumps((portable, made)))
        found = {each.number: list(function(there.model, each)) for each in reversed(list(chunks))}
        return (pickle.loads(pickle.dumps(found[number])) for number in sorted(found))

    here = collected(portable)
    assert here[consumers(portable)[0].node].n == 30 * 10
    assert same_bits(collected(portable, spread=backwards), here)
    assert not same_bits(collected(portable, seed=4), here)


def test_the_chunks_make_the_sums_of_all_images(portable: Portable) -> None:
    """Where every position is a row, chunks are no more than a way to add."""
    found, whole = collected(portable), collected(portable, chunk=30)
    rows = IMAGES.astype(np.float64).transpose(0, 2, 3, 1)
    first = consumers(portable)[0].node
    assert found[first].n == 30 * 36
    centre = found[first].xx[0][4:27:9, 4:27:9].numpy()  # of the 3×3 taps
    np.testing.assert_allclose(centre, np.einsum("nhwc,nhwd->cd", rows, rows), rtol=1e-9)
    for node, moments in found.items():
        for name in ("xy", "yy"):
            torch.testing.assert_close(getattr(moments, name), getattr(whole[node], name), rtol=1e-9, atol=1e-9)


def test_a_giant_model_is_not_handed_to_another_process(portable: Portable, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(_model: object) -> bytes:
        raise ValueError("exceeds maximum protobuf size of 2GB")

    monkeypatch.setattr("graph.bridge.portable.serialised", too_large)
    with pytest.raises(ModelError, match="too large"):
        pickle.dumps(portable)
