from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.errors import PolicyError, SettingError
from lightning_sdft.policy import Thinking, Tokenizer
from lightning_sdft.policy.thinking import Thoughts
from tests.conftest import CHATML, make_byte_tokenizer, make_tokenizer

OPENED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if think is not defined or think %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)


def thoughts(template: str = CHATML, added: Any = (), arguments: Any = None, **settings: Any) -> Thoughts:
    tokenizer = Tokenizer(make_byte_tokenizer(template, added=added), template_arguments=arguments)
    return Thoughts(Thinking(**settings), tokenizer.hugging_face, tokenizer.template)


def parts(found: Thoughts, text: str) -> tuple[str, str]:
    """Thinking and answer of a response."""
    tokens = found._tokenizer(text, add_special_tokens=False)["input_ids"]
    end = found.end(tokens)
    return found._text(tokens[:end]), found._text(tokens[end:])


@pytest.mark.parametrize("added", [(), ("<think>", "</think>")], ids=["as text", "as tokens"])
@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>the end</think>\n\nYes.<|im_end|>", "<think>the end</think>", "\n\nYes.<|im_end|>"),
        ("\n<think>a</think>b</think>c", "\n<think>a</think>", "b</think>c"),
        ("<think>never", "<think>never", ""),
        ("Yes, <think> is a word", "", "Yes, <think> is a word"),
        ("a</think>b", "a</think>", "b"),
        ("", "", ""),
    ],
)
def test_the_answer_begins_behind_what_ends_the_thinking(added: Any, text: str, thinking: str, answer: str) -> None:
    assert parts(thoughts(added=added), text) == (thinking, answer)


def test_what_ends_the_thinking_may_share_a_token_with_the_answer() -> None:
    """Then that token is thinking."""
    found = thoughts(closing="the e")  # where "the end" has merges
    thinking, answer = parts(found, "a the end.")
    assert thinking + answer == "a the end."
    assert "the e" in thinking
    assert "the e" not in answer


def test_the_chat_template_may_open_the_thinking() -> None:
    found = thoughts(OPENED)
    assert found.begun
    assert parts(found, "never ends") == ("never ends", "")
    assert parts(found, "a</think>b") == ("a</think>", "b")
    closed = thoughts(OPENED, arguments={"think": False})
    assert not closed.begun
    assert parts(closed, "an answer") == ("", "an answer")
    assert not thoughts().begun


@pytest.mark.parametrize(
    ("loss_on", "texts"),
    [
        ("both", ["<think>a</think>b", "<think>a", "b"]),
        ("thinking", ["<think>a</think>", "<think>a", ""]),
        ("answer", ["b", "", "b"]),
    ],
)
def test_the_loss_is_on_a_part(loss_on: str, texts: list[str]) -> None:
    found = thoughts(loss_on=loss_on)
    for text, expected in zip(["<think>a</think>b", "<think>a", "b"], texts, strict=True):
        tokens = found._tokenizer(text, add_special_tokens=False)["input_ids"]
        places = found.in_loss(tokens)
        assert found._text(tokens[places.start : places.stop]) == expected


def test_graders_see_the_answer_and_without_thoughts_all_of_it() -> None:
    tokenizer = Tokenizer(make_byte_tokenizer())
    tokens = tokenizer.hugging_face("<think>a</think>b<|im_end|>", add_special_tokens=False)["input_ids"]
    assert tokenizer.answer(tokens) == "<think>a</think>b"
    tokenizer.thoughts = Thoughts(Thinking(), tokenizer.hugging_face, tokenizer.template)
    assert tokenizer.answer(tokens) == "b"
    assert tokenizer.decode(tokens) == "<think>a</think>b"


def test_a_demonstration_without_thinking_is_an_answer() -> None:
    for template, before in ((OPENED, "</think>"), (CHATML, "")):
        tokenizer = Tokenizer(make_byte_tokenizer(template))
        tokenizer.thoughts = Thoughts(Thinking(), tokenizer.hugging_face, tokenizer.template)
        for text in ("Yes.", "a</think>b"):
            expected = text if "</think>" in text else before + text
            written = tokenizer.thoughts._text(tokenizer.encode_completion(text))
            assert written == f"{expected}<|im_end|>"


def test_an_end_that_the_tokenizer_cannot_write_is_refused() -> None:
    tokenizer = Tokenizer(make_tokenizer())
    with pytest.raises(PolicyError, match=r"thinking\.closing='</think>' is no text that the tokenizer of"):
        Thoughts(Thinking(), tokenizer.hugging_face, tokenizer.template)
    with pytest.raises(SettingError, match=r"max_tokens=0"):
        Thinking(max_tokens=0)
