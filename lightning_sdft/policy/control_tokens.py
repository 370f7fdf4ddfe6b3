"""Control tokens that occur in a row's text, such as ``<|im_end|>`` in a demonstration: there they are text."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.policy.chat_template import ChatTemplate

__all__ = ["ControlTokens"]

log = logging.getLogger(__name__)

START, END = "\U000ffffc", "\U000ffffd"
"""Private characters around a control token that a row's text contains, while a conversation is rendered."""


class ControlTokens:
    """Encodes texts in which the names of control tokens are ordinary text.

    Control tokens are the tokenizer's special tokens, those that end a turn, and the added tokens with which the chat
    template begins one. Not every tokenizer can write the name of a control token as text; a text is refused if it
    would not come out exactly.

    Args:
        tokenizer: A Hugging Face tokenizer.
        template: Its chat template.
        ends: The tokens that end a turn.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate, ends: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._said = False
        added = tokenizer.added_tokens_decoder
        ids = {*tokenizer.all_special_ids, *ends, *_beginnings(tokenizer, template)}
        ids |= {token for token, content in added.items() if content.special}
        self._ids = {str(tokenizer.convert_ids_to_tokens(token)): token for token in ids}
        # Some tokenizers have thousands of special tokens that differ only in their number.
        likes = {re.sub(r"\d+", r"\\d+", re.escape(name)) for name in self._ids}
        self._like_a_name = re.compile("|".join(sorted(likes)))

    @cached_property
    def _name(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))

    def named_in(self, value: Any) -> str | None:
        """The first name of a control token in a text, or in the texts of a list or dictionary."""
        if isinstance(value, str):
            found = self._name.search(value) if self._like_a_name.search(value) else None
            return None if found is None else found[0]
        if isinstance(value, Mapping):
            value = [*value, *value.values()]
        values = value if isinstance(value, list | tuple) else ()
        return next((name for each in values if (name := self.named_in(each)) is not None), None)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without any control token.

        Raises:
            DataError: If the tokenizer cannot write a control token's name as text.
        """
        if (name := self.named_in(text)) is None:
            return self._plain(text)
        self._say_once(name)
        neutral = self._name.sub("x", text)
        if self._split(neutral) != self._plain(neutral):
            raise self._refusal(name)
        return self._checked(self._split(text), self._name.findall(text))

    def encode_conversation(self, messages: Sequence[Any], prompt: bool) -> list[int]:
        """Token ids of a conversation, in which all control tokens are the template's own.

        The template's control tokens divide its text into parts, and each part is encoded as a text. The same is done
        with the conversation without the names, for which the tokenizer itself gives the right token ids.

        Raises:
            DataError: If that does not give the right token ids.
        """
        plain = self._template.text(messages, prompt)
        marked = self._template.text(_replaced(messages, self._name, f"{START}\\g<0>{END}"), prompt)
        neutral = self._template.text(_replaced(messages, self._name, "x"), prompt)
        names = re.findall(f"{START}(.*?){END}", marked)
        if marked.replace(START, "").replace(END, "") == plain:
            if not names:  # the template leaves that text out
                return self._plain(plain)
            expected = self._plain(neutral)
            for newline in ("", "\n"):
                if self._joined(self._parts(neutral), newline) == expected:
                    self._say_once(names[0])
                    return self._joined(self._parts(marked), newline, names)
        raise self._refusal(str(self.named_in(messages)))

    def _parts(self, text: str) -> list[str]:
        """The parts of a rendered text, each followed by the control token behind it (the last one by ``""``)."""
        parts, begin = [], 0
        for found in re.finditer(f"{START}.*?{END}|({self._name.pattern})", text, re.DOTALL):
            if found[1] is not None:
                parts += [text[begin : found.start()], found[1]]
                begin = found.end()
        return [part.replace(START, "").replace(END, "") for part in (*parts, text[begin:], "")]

    def _joined(self, parts: Sequence[str], newline: str, names: Sequence[str] = ()) -> list[int]:
        """Encode parts; behind a newline, as tokenizers that begin a text with a space need it.

        Args:
            parts: See :meth:`_parts`.
            newline: A newline, or nothing.
            names: Names of control tokens that must not come out as control tokens.
        """
        ids: list[int] = []
        before: Any = None
        for text, name in zip(parts[::2], parts[1::2], strict=True):
            behind = self._added(name)
            text = text.lstrip() if before is not None and before.rstrip else text
            text = text.rstrip() if behind is not None and behind.lstrip else text
            lead = newline if before is not None else ""
            if text:
                begin, written = self._plain(lead), self._checked(self._split(lead + text), names)
                if written[: len(begin)] != begin:
                    raise self._refusal(names[0] if names else text)
                ids += written[len(begin) :]
            ids += [self._ids[name]] if name else []
            before = behind
        return ids

    def _added(self, name: str) -> Any:
        return self._tokenizer.added_tokens_decoder.get(self._ids.get(name))

    def _checked(self, ids: list[int], names: Iterable[str]) -> list[int]:
        for name in names:
            if self._ids[name] in ids:
                raise self._refusal(name)
        return ids

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _split(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _say_once(self, name: str) -> None:
        if not self._said:
            self._said = True
            log.warning(
                "a text contains %r, which is encoded as these characters, not as a control token; if it was meant to "
                "end a turn or a response, leave it out: ends are added",
                name,
            )

    def _refusal(self, name: str) -> DataError:
        return DataError(
            f"its text contains {name!r}, a control token of {self._tokenizer.name_or_path!r}, which this tokenizer "
            "cannot write as text; change the text, or leave the row out"
        )


def _replaced(value: Any, name: re.Pattern[str], by: str) -> Any:
    """A copy of messages in which the names of control tokens are replaced in all texts."""
    if isinstance(value, str):
        return name.sub(by, value)
    if isinstance(value, Mapping):
        return {_replaced(key, name, by): _replaced(each, name, by) for key, each in value.items()}
    return [_replaced(each, name, by) for each in value] if isinstance(value, list | tuple) else value


def _beginnings(tokenizer: Any, template: ChatTemplate) -> set[int]:
    """The added tokens with which the chat template begins turns; many tokenizers do not call them special."""
    question = [{"role": "user", "content": "a"}]
    try:
        alone, prompt = (template.text(question, prompt) for prompt in (False, True))
    except DataError:
        return set()
    user, both = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (alone, prompt))
    begins = {*user, *both[len(user) : len(user) + 1]}
    added = tokenizer.added_tokens_decoder
    return {token for token in begins if token in added and not added[token].content.isspace()}
