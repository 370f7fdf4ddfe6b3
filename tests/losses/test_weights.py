from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Reduction, token_weights

GROUP = [3, 7, 1, 5, 2, 9]


def group_values() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(length) for length in GROUP]


def reduced(values: list[Tensor], reduction: Reduction, skip: int) -> float:
    """The reduction as it is described, over a whole group."""
    kept = [value[skip:] for value in values]
    if reduction == "sequence":
        return sum(value.mean().item() if len(value) else 0.0 for value in kept) / len(kept)
    return torch.cat(kept).mean().item()


def test_sequence_reduction_by_hand() -> None:
    weights = token_weights([2, 4], "sequence")
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8])


def test_token_reduction_by_hand() -> None:
    assert token_weights([2, 4], "token").tolist() == pytest.approx([1 / 6] * 6)


def test_reductions_differ() -> None:
    assert not torch.allclose(token_weights([2, 4], "token"), token_weights([2, 4], "sequence"))


def test_skipped_tokens_have_weight_zero_and_do_not_count() -> None:
    assert token_weights([2, 4], "sequence", skip_tokens=1).tolist() == pytest.approx([0, 1 / 2, 0, *[1 / 6] * 3])
    assert token_weights([2, 4], "token", skip_tokens=1).tolist() == pytest.approx([0, 1 / 4, 0, *[1 / 4] * 3])


@pytest.mark.parametrize("skip", [0, 1, 3])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 6])
def test_mean_over_micro_batches_is_the_value_of_the_group(reduction: Reduction, skip: int, micro_batch: int) -> None:
    values = group_values()
    losses = []
    for start in range(0, len(GROUP), micro_batch):
        part = slice(start, start + micro_batch)
        weights = token_weights(GROUP[part], reduction, skip, group_lengths=GROUP)
        losses.append((weights * torch.cat(values[part])).sum().item())
    assert sum(losses) / len(losses) == pytest.approx(reduced(values, reduction, skip))


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_all_skipped_gives_zeros(reduction: Reduction) -> None:
    assert token_weights([2, 3], reduction, skip_tokens=3).tolist() == [0] * 5


def test_skipped_sequence_counts_as_zero_in_the_mean_over_sequences() -> None:
    assert token_weights([2, 4], "sequence", skip_tokens=2).tolist() == pytest.approx([0, 0, 0, 0, 1 / 4, 1 / 4])


def test_skipped_sequence_has_no_tokens_in_the_mean_over_tokens() -> None:
    assert token_weights([2, 4], "token", skip_tokens=2).tolist() == pytest.approx([0, 0, 0, 0, 1 / 2, 1 / 2])


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_importance_multiplies_each_token(reduction: Reduction) -> None:
    plain = token_weights([2, 4], reduction, 1)
    importance = torch.tensor([0.5, 0.5, 2.0, 1.5, 0.0, 1.0])
    assert torch.equal(token_weights([2, 4], reduction, 1, importance=importance), plain * importance)


def test_importance_of_another_number_of_tokens_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="size"):
        token_weights([2, 4], "sequence", importance=torch.ones(5))


def test_empty_completion_has_no_weights() -> None:
    assert token_weights([0, 2], "sequence").tolist() == pytest.approx([1 / 4, 1 / 4])
