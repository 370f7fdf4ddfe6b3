"""The text of single tokens, which for some tokenizers depends on the tokens before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_sdft.policy.tokenizer import Tokenizer

__all__ = ["piece", "pieces"]

WINDOW = 8
"""Tokens before a token that its text may depend on: a character has up to four bytes, each of which may be a token."""

UNFINISHED = "\ufffd"
"""What a tokenizer writes for the first bytes of a character."""


def piece(tokenizer: Tokenizer, before: Sequence[int], token: int) -> str:
    """The text that a token adds behind other tokens, with spaces and the names of control tokens.

    Args:
        tokenizer: The tokenizer.
        before: Token ids that come before it.
        token: The token's id.
    """
    window = list(before[-WINDOW:])
    written = _text(tokenizer.hugging_face, window).rstrip(UNFINISHED)
    whole = _text(tokenizer.hugging_face, [*window, token])
    return whole[len(written) :] if whole.startswith(written) else _text(tokenizer.hugging_face, [token])


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """The text that each token of a completion adds to those before it."""
    return [piece(tokenizer, tokens[:index], token) for index, token in enumerate(tokens)]


def _text(tokenizer: Any, tokens: list[int]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
