"""Leading tokens that are left out of the loss: some must be left in it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lightning_sdft.errors import SettingError
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import Example

__all__ = ["check_demonstrations", "check_skipped", "warn_of_nothing"]


def check_skipped(skip_tokens: int, max_completion_tokens: int) -> None:
    """Refuse to skip all tokens of the longest completion.

    Raises:
        SettingError: If all are skipped.
    """
    if skip_tokens >= max_completion_tokens:
        raise SettingError(
            f"skip_tokens={skip_tokens} leaves no token in the loss, for no completion is longer than "
            f"max_completion_tokens={max_completion_tokens}; lower skip_tokens"
        )


def check_demonstrations(examples: Sequence[Example], tokenizer: Tokenizer, skip_tokens: int) -> None:
    """Refuse to skip all tokens of all demonstrations.

    Raises:
        SettingError: If all are skipped.
    """
    longest = 0
    for example in examples:
        longest = max(longest, len(tokenizer.encode_completion(example.demonstration or "")))
        if longest > skip_tokens:
            return
    raise SettingError(
        f"skip_tokens={skip_tokens} leaves no token in the loss, for the longest of {len(examples)} demonstrations has "
        f"{longest}; lower skip_tokens"
    )


def warn_of_nothing(tokens: float, skip_tokens: int) -> None:
    """Warn that no token of an optimizer step is in the loss."""
    if not tokens:
        rank_zero_warn(
            f"no completion of this optimizer step has more than skip_tokens={skip_tokens} tokens, so nothing is "
            "learned from it; lower skip_tokens if that happens often"
        )
