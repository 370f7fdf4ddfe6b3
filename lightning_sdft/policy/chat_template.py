"""A tokenizer's chat template, with arguments of your own, and with a clock that stands still."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from lightning_sdft.errors import DataError, PolicyError

__all__ = ["ChatTemplate"]

log = logging.getLogger(__name__)

GIVEN = {"messages", "tools", "documents", "add_generation_prompt"}
"""What transformers always gives to a template, so that a default of ours would have no effect."""

CLOCK = "strftime_now"
"""The function by which a template asks for the date."""

DIRECTIVES = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ"]

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of one field, which templates get as ``reasoning_content`` too, whatever the release of transformers."""

SAYS = {*REASONING, "tool_calls", "function_call", "tools", "documents", "images", "videos", "audio"}
"""Fields that say something to the model; others, such as ``tool_call_id``, link messages or describe them."""


class ChatTemplate:
    """Renders conversations as text.

    The arguments become defaults in the template itself, so that they reach everything that renders with the tokenizer,
    and a saved tokenizer keeps them. Who serves the model can still give others.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template; the template is changed.
        arguments: Values of variables that the template reads, such as ``{"enable_thinking": False}``.

    Raises:
        PolicyError: If the template does not read an argument, or there are several templates and no default.
    """

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._name = tokenizer.name_or_path
        try:
            source: str = tokenizer.get_chat_template()
        except ValueError as error:
            raise PolicyError(f"the tokenizer of {self._name!r}: {error}") from error
        self._check(arguments or {}, source)
        if arguments:
            templates, defaults = tokenizer.chat_template, _defaults(arguments)
            if isinstance(templates, dict):
                tokenizer.chat_template = {name: defaults + each for name, each in templates.items()}
            elif not templates.startswith(defaults):  # as in a folder exported by a run with the same arguments
                tokenizer.chat_template = defaults + templates
        self.source: str = tokenizer.get_chat_template()
        self._passed_over: set[str] = set()
        self.date: str | None = None
        if re.search(rf"\b{CLOCK}\b", source):
            self.date = datetime.now().replace(microsecond=0).isoformat()

    def text(self, messages: Sequence[Any], prompt: bool = True) -> str:
        """The text of a conversation.

        Args:
            messages: The conversation.
            prompt: Whether the text ends where the assistant's response begins.

        Raises:
            DataError: If the template refuses the conversation, or does not read what a message says.
            PolicyError: If it is no template.
        """
        source = self.source if self.date is None else _frozen_clock(self.date) + self.source
        turns = [{key: value for key, value in each.items() if value is not None} for each in messages]
        for number, turn in enumerate(turns, start=1):
            self._check_turn(turn, number)
            if said := [turn[name] for name in REASONING if name in turn]:
                turn.setdefault("reasoning_content", said[0])
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, chat_template=source, tokenize=False, add_generation_prompt=prompt
            )
        except TemplateSyntaxError as error:
            raise PolicyError(
                f"the chat template of {self._name!r}, line {error.lineno}: {error.message}; mend it in "
                "chat_template.jinja or tokenizer_config.json, or copy the file again"
            ) from error
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(str(each.get("role")) for each in turns)
            raise DataError(
                f"the chat template of {self._name!r} refuses the conversation ({roles}): {error}; change the row's "
                "turns, or leave it out"
            ) from error
        return text

    def _check(self, arguments: Mapping[str, Any], source: str) -> None:
        for name in arguments:
            if name in GIVEN or name in self._tokenizer.special_tokens_map:
                raise PolicyError(f"template_arguments: {name!r} is given to every chat template; leave it out")
            if not name.isidentifier() or not re.search(rf"\b{name}\b", source):
                raise PolicyError(
                    f"template_arguments: the chat template of {self._name!r} does not read {name!r}, so it would have "
                    "no effect; correct the name, or leave it out"
                )

    def _check_turn(self, turn: Mapping[str, Any], number: int) -> None:
        role = turn.get("role")
        if not isinstance(role, str) or not re.fullmatch(r"[\w-]+", role):  # some templates make tokens of roles
            raise DataError(f"turn {number} has the role {role!r}; a role is a word, such as user; correct the row")
        for field in turn.keys() - {"role", "content"} - self._passed_over:
            if any(name in self.source for name in (REASONING if field in REASONING else {field})):
                continue
            if field in SAYS:
                raise DataError(
                    f"turn {number} has the field {field!r}, which the chat template of {self._name!r} does not read, "
                    "so the model would not see it; write it into the content, or leave it out"
                )
            self._passed_over.add(field)
            log.warning("messages have the field %r, which the chat template of %r does not read", field, self._name)


def _defaults(arguments: Mapping[str, Any]) -> str:
    """The beginning of a template that gives variables a value where nobody else does."""
    return "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
        for name, value in arguments.items()
    )


def _frozen_clock(date: str) -> str:
    """The beginning of a template that makes its clock stand still."""
    moment = datetime.fromisoformat(date)
    replaced = "".join(f"|replace({each!r}, {moment.strftime(each)!r})" for each in DIRECTIVES)
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}"
