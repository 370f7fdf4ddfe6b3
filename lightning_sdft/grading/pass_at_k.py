"""pass@k: the probability that at least one of k responses is correct.

[1] Chen et al., Evaluating Large Language Models Trained on Code, 2021, https://arxiv.org/abs/2107.03374
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pass_at_k", "powers_of_two"]


def pass_at_k(correct: Tensor, samples: Tensor, k: int) -> Tensor:
    """Unbiased estimate `1 - C(n - c, k) / C(n, k)` of pass@k for each question, `(Q,)`, as in [1].

    The same n responses serve for every k. The simpler `1 - (1 - c / n)^k` would underestimate pass@k.

    Args:
        correct: Number c of correct responses to each question, `(Q,)`.
        samples: Number n >= k of responses to each question, `(Q,)`.
        k: Number of attempts.

    Raises:
        ValueError: If a question has fewer than k responses.

    Example:
        >>> pass_at_k(torch.tensor([0, 1, 3]), torch.tensor([4, 4, 4]), k=2)
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    if len(samples) and int(samples.min()) < k:
        raise ValueError(f"pass@{k} needs at least {k} responses to every question, one has {int(samples.min())}")
    wrong = (samples - correct).double().unsqueeze(1)
    tries = torch.arange(k, dtype=torch.float64, device=correct.device)
    # C(w, k) / C(n, k) as a product of k ratios, one of which is 0 if fewer than k responses were wrong.
    ratios = (wrong - tries) / (samples.double().unsqueeze(1) - tries)
    return 1 - ratios.prod(dim=1)


def powers_of_two(samples: int) -> list[int]:
    """The values of k for a pass@k curve: 1, 2, 4 and so on, up to the number of samples.

    Example:
        >>> powers_of_two(20)
        [1, 2, 4, 8, 16]
    """
    return [2**exponent for exponent in range(samples.bit_length())]
