from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import TruncatedImportance

PER: list[Literal["sequence", "token"]] = ["sequence", "token"]


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


# Two completions, of 3 and 2 tokens; ratios 0.5, 4, 1 and 3, 0.25
POLICY = logs(0.1, 0.8, 0.3, 0.9, 0.1)
SAMPLER = logs(0.2, 0.2, 0.3, 0.3, 0.4)


@pytest.mark.parametrize(
    ("importance", "skip", "expected"),
    [
        (TruncatedImportance(per="token"), 0, [0.5, 2, 1, 2, 0.25]),
        (TruncatedImportance(per="token"), 1, [0.5, 2, 1, 2, 0.25]),
        (TruncatedImportance(3.5, "token"), 0, [0.5, 3.5, 1, 3, 0.25]),
        (TruncatedImportance(0.4, "token"), 0, [0.4, 0.4, 0.4, 0.4, 0.25]),
        (TruncatedImportance(), 0, [3.5 / 3] * 3 + [2.25 / 2] * 2),
        (TruncatedImportance(), 1, [3 / 2] * 3 + [0.25] * 2),  # the mean is over what counts
        (TruncatedImportance(), 2, [1.0] * 5),  # the second completion has nothing that counts
        (TruncatedImportance(3.5), 1, [4.5 / 2] * 3 + [0.25] * 2),
    ],
)
def test_by_hand(importance: TruncatedImportance, skip: int, expected: list[float]) -> None:
    torch.testing.assert_close(importance(POLICY, SAMPLER, [3, 2], skip), torch.tensor(expected))


def test_default_is_the_cap_and_the_form_of_the_published_code() -> None:
    assert TruncatedImportance() == TruncatedImportance(cap=2.0, per="sequence")


@pytest.mark.parametrize("per", PER)
def test_sampler_that_agrees_weighs_every_token_exactly_1(per: Literal["sequence", "token"]) -> None:
    lengths = [1, 7, 300, 33]
    scores = -5 * torch.rand(sum(lengths), generator=torch.Generator().manual_seed(0))
    assert TruncatedImportance(per=per)(scores, scores.clone(), lengths, 3).tolist() == [1.0] * sum(lengths)


@pytest.mark.parametrize("per", PER)
def test_token_that_the_policy_excludes_weighs_nothing(per: Literal["sequence", "token"]) -> None:
    policy = torch.tensor([-torch.inf, math.log(0.5)])
    expected = {"token": [0.0, 1.0], "sequence": [0.5, 0.5]}[per]
    assert TruncatedImportance(per=per)(policy, logs(0.5, 0.5), [2]).tolist() == expected


def test_huge_ratio_is_the_cap() -> None:
    assert TruncatedImportance(per="token")(torch.tensor([0.0]), torch.tensor([-1e4]), [1]).tolist() == [2.0]
