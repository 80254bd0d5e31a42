"""The sampler that draws anchors and regions from the seed of their image alone."""

from __future__ import annotations

import torch

from detdistill.detectors.rcnn_losses import SeededSampler, Stream, mixed_seed


def test_sampler_counts_and_proportion() -> None:
    labels = [
        torch.cat([torch.ones(10), torch.zeros(50), -torch.ones(5)]),
        torch.zeros(3),
        torch.ones(2),
        torch.zeros(0),
    ]
    positives, negatives = SeededSampler((1, 2, 3, 4), Stream.ANCHORS, 8, 0.5)(labels)
    assert [int(mask.sum()) for mask in positives] == [4, 0, 2, 0]
    assert [int(mask.sum()) for mask in negatives] == [4, 3, 0, 0]
    assert positives[0][10:].sum() == 0
    assert negatives[0][:10].sum() == negatives[0][60:].sum() == 0


def test_sampler_draws_differ_by_every_bit_of_the_seed_and_by_stream() -> None:
    labels = [torch.zeros(200)]

    def drawn(seed: int, stream: Stream = Stream.ANCHORS) -> torch.Tensor:
        return SeededSampler((seed,), stream, 20, 0.5)(labels)[1][0]

    assert torch.equal(drawn(7), drawn(7))
    # The CPU generator itself reads the low 32 bits only.
    assert not torch.equal(drawn(7), drawn(7 + (1 << 40)))
    assert not torch.equal(drawn(7), drawn(7, Stream.REGIONS))
    assert len({mixed_seed(seed, stream) & 0xFFFFFFFF for seed in range(500) for stream in Stream}) == 500 * len(Stream)
