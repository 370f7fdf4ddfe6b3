from __future__ import annotations

import pytest
import torch

from lightning_sdft.losses import Head
from lightning_sdft.losses.likeliest import CHUNK, likeliest


@pytest.mark.parametrize(("soft_cap", "temperature"), [(None, 1.0), (2.0, 0.5)])
def test_probabilities_and_ids_are_those_of_the_whole_softmax(soft_cap: float | None, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias, up, down = (
        torch.randn(shape, generator=generator) for shape in ((CHUNK + 3, 6), (40, 6), (40,), (40, 2), (2, 6))
    )
    head = Head(weight, bias, soft_cap, scale=0.7, low_rank=(up, down))
    logits = (hidden @ (weight + up @ down).T + bias) * 0.7
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    expected = (logits / temperature).softmax(-1).sort(-1, descending=True)

    probabilities, ids = likeliest(hidden, head, 5, temperature)
    torch.testing.assert_close(probabilities, expected.values[:, :5])
    assert torch.equal(ids, expected.indices[:, :5])


def test_small_vocabulary_has_no_more_tokens_than_it_has() -> None:
    probabilities, ids = likeliest(torch.ones(2, 3), Head(torch.eye(3)), 5)
    assert probabilities.shape == ids.shape == (2, 3)
