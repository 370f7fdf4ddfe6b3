"""What thinking changes in a step: which settings go with a budget, and the part of rollouts that is in the loss."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sdft.errors import SettingError
from lightning_sdft.losses import TokenFocus
from lightning_sdft.policy.thinking import Thoughts
from lightning_sdft.records import TokenSequence
from lightning_sdft.rollout import RolloutEngine

__all__ = ["check_budget", "check_thinking", "in_loss"]


def check_budget(thoughts: Thoughts, limit: int, reads_images: bool) -> None:
    """Refuse a thinking budget that leaves nothing for the answer, or for a model that reads images.

    Args:
        thoughts: Tells thinking from answers.
        limit: Number of tokens of the longest completion.
        reads_images: Whether the model reads images.

    Raises:
        SettingError: If there is such a budget.
    """
    budget = thoughts.settings.max_tokens
    if budget is not None and reads_images:
        raise SettingError(
            f"thinking.max_tokens={budget} has a prompt read once more with the thinking behind it, which is not done "
            "for a model that reads images; leave thinking.max_tokens out, and max_completion_tokens bounds both"
        )
    if budget is not None and budget + len(thoughts.closing) >= limit:
        raise SettingError(
            f"thinking.max_tokens={budget} leaves no token for the answer of max_completion_tokens={limit}, which is "
            "for both; raise max_completion_tokens, or lower thinking.max_tokens"
        )


def check_thinking(thoughts: Thoughts | None, focus: TokenFocus | None, engine: RolloutEngine) -> None:
    """Refuse settings of distillation that thinking does not go with.

    Args:
        thoughts: Tells thinking from answers, if the model thinks.
        focus: More weight for some tokens.
        engine: What samples rollouts.

    Raises:
        SettingError: If there are such settings.
    """
    if thoughts is None:
        return
    settings = thoughts.settings
    if settings.max_tokens is not None and not engine.exact:
        raise SettingError(
            f"thinking.max_tokens writes the end of the thinking itself, and engine={type(engine).__name__} needs the "
            "probability of each token; leave one of them out"
        )
    if settings.loss_on != "both" and focus is not None:
        raise SettingError(
            f"focus weighs the tokens of whole rollouts, and thinking.loss_on={settings.loss_on} takes a part of them; "
            "leave one of them out"
        )


def in_loss(thoughts: Thoughts | None, sequences: Sequence[TokenSequence]) -> list[range]:
    """The places of the completion tokens of each sequence that are in the loss, before any are skipped."""
    if thoughts is None:
        return [range(len(each.completion)) for each in sequences]
    return [thoughts.in_loss(each.completion) for each in sequences]
