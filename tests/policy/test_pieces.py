from __future__ import annotations

import pytest

from lightning_sdft.policy.pieces import piece, pieces
from lightning_sdft.policy.tokenizer import Tokenizer
from tests.conftest import END, VOCABULARY, make_byte_tokenizer, make_tokenizer


def test_words_have_the_space_before_them_and_control_tokens_their_names() -> None:
    tokenizer = Tokenizer(make_tokenizer())
    tokens = [VOCABULARY.index("w1"), VOCABULARY.index("w2"), END]
    assert pieces(tokenizer, tokens) == ["w1", " w2", " <end>"]
    assert piece(tokenizer, [], tokens[1]) == "w2"


@pytest.mark.parametrize("text", ["the end", "naïve café", "a 🙂 b", "日本"])
def test_bytes_of_a_character_are_shown_once_it_is_whole(text: str) -> None:
    tokenizer = Tokenizer(make_byte_tokenizer())
    tokens = tokenizer.encode_completion(text)
    shown = pieces(tokenizer, tokens)
    assert len(shown) == len(tokens)
    assert "".join(shown).replace("\ufffd", "") == f"{text}<|im_end|>"
