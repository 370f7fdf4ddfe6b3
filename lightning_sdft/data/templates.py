"""Templates of the teacher's prompts, which put privileged text into the last user turn.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
[2] Huebotter et al., Reinforcement Learning via Self-Distillation, 2026, https://arxiv.org/abs/2601.20802
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any, Literal

from lightning_sdft.errors import SettingError
from lightning_sdft.records import Content, Example, Message

__all__ = [
    "AUTHORS_TEMPLATE",
    "LAPTOP_TEMPLATE",
    "PAPER_TEMPLATE",
    "SDPO_TEMPLATE",
    "TEMPLATES",
    "TEMPLATES_TO_TRY",
    "PrivilegedContext",
    "check_parts",
    "informed_messages",
    "teacher_messages",
    "template_fields",
]

AUTHORS_TEMPLATE = (
    "\n{prompt}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
    "Now answer with a response of your own, including the thinking process.\n"
)
"""The template of the released code, which produced the results of [1]."""

PAPER_TEMPLATE = (
    "{prompt}\n\nThis is an example for a response to the question:\n\n{demonstration}\n\n"
    "Now answer with a response of your own, including the thinking process:"
)
"""The template as printed in section 3 of [1]; its blank lines differ, and it ends with a colon."""

LAPTOP_TEMPLATE = "{prompt} example {demonstration} now"
"""The template for the laptop model, whose vocabulary contains no other connecting words."""

TEMPLATES_TO_TRY = (
    AUTHORS_TEMPLATE,
    PAPER_TEMPLATE,
    "{prompt}\n\nA correct answer is: {demonstration}\n\nAnswer in the same way.",
    "{prompt}\n\nHere is how an expert answered:\n{demonstration}\n\nNow answer yourself.",
)
"""Templates of the teacher's prompt that are tried beside the one that is set."""

ARTICLE_TEMPLATE = (
    "\n{prompt}\n\nThis is a text that the question is about:\n{context}\n\nNow answer with a response of your own.\n"
)
BOTH_TEMPLATE = (
    "\n{prompt}\n\nThis is a text that the question is about:\n{context}\n\n"
    "This is an example for a response to the question:\n{demonstration}\n\n"
    "Now answer with a response of your own.\n"
)

SDPO_TEMPLATE = (
    "{prompt}",
    "\n\nCorrect solution:\n\n{sibling}\n\n",
    "\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}\n\n",
    "\n\nCorrectly solve the original question.\n",
)
"""The template of the code of [2], in parts."""

PrivilegedContext = Literal["demonstration", "article", "both", "none"]

TEMPLATES: dict[PrivilegedContext, str] = {
    "demonstration": AUTHORS_TEMPLATE,
    "article": ARTICLE_TEMPLATE,
    "both": BOTH_TEMPLATE,
    "none": "{prompt}",
}
"""Default template for each kind of privileged text. Those with an article are ours, as [1] does not print its own."""

FIELDS: dict[PrivilegedContext, set[str]] = {
    "demonstration": {"prompt", "demonstration"},
    "article": {"prompt", "context"},
    "both": {"prompt", "demonstration", "context"},
    "none": {"prompt"},
}


def template_fields(template: str, privileged_context: PrivilegedContext) -> set[str]:
    """The placeholders of a template, checked.

    Raises:
        SettingError: If they are not exactly those that the privileged context needs, or if a brace is left open.
    """
    needed = ", ".join(f"{{{field}}}" for field in sorted(FIELDS[privileged_context]))
    fields = _fields(template, needed)
    if fields != FIELDS[privileged_context]:
        raise SettingError(
            f"teacher_template={template!r} has the placeholders {sorted(fields)}, but "
            f"privileged_context={privileged_context} calls for {needed}; write each of these, or set another "
            "privileged_context"
        )
    return fields


def teacher_messages(example: Example, template: str) -> list[Message]:
    """The example's conversation with the privileged text in its last user turn; earlier turns are unchanged."""
    *earlier, last = example.prompt
    fields = {"demonstration": example.demonstration, "context": example.context}
    return [*earlier, {**last, "content": _filled(last["content"], template, {"prompt": last["content"], **fields})}]


INFORMED = ("prompt", "demonstration", "sibling", "context", "attempt", "feedback")
"""The placeholders of a template that is filled after the student has answered."""


def check_parts(parts: Sequence[str]) -> set[str]:
    """The placeholders of a template in parts, checked.

    Raises:
        SettingError: If there is another one, if the prompt or all that the student does not see is missing, or if a
            brace is left open.
    """
    known = ", ".join(f"{{{field}}}" for field in INFORMED)
    if isinstance(parts, str):
        raise SettingError(
            f"teacher_template={parts!r} is one text; give a list of parts, each of which is left out where its "
            f"placeholder has nothing to show, such as {list(SDPO_TEMPLATE)}"
        )
    fields = set().union(*(_fields(part, known) for part in parts))
    if "prompt" not in fields or len(fields) == 1 or not fields <= set(INFORMED):
        raise SettingError(
            f"teacher_template={list(parts)} has the placeholders {sorted(fields)}; write {{prompt}} and at least one "
            f"other of {known}"
        )
    return fields


def informed_messages(example: Example, parts: Sequence[str], shown: Mapping[str, str]) -> list[Message] | None:
    """The example's conversation with a template in parts in its last user turn.

    Args:
        example: The example.
        parts: The template. A part is left out if one of its placeholders has nothing to show.
        shown: What placeholders other than ``{prompt}`` and ``{context}`` stand for.

    Returns:
        The conversation, or ``None`` if there is nothing to show but the prompt.
    """
    *earlier, last = example.prompt
    values = {"prompt": last["content"], "context": example.context or "", **shown}
    kept = [part for part in parts if all(values.get(field) for field in _fields(part))]
    if all(_fields(part) <= {"prompt"} for part in kept):
        return None
    return [*earlier, {**last, "content": _filled(last["content"], "".join(kept), values)}]


def _fields(template: str, needed: str = "") -> set[str]:
    try:
        return {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise SettingError(
            f"teacher_template={template!r}: {error}; close the braces of {needed}, and write a brace of the text twice"
        ) from error


def _filled(prompt: Content, template: str, fields: Mapping[str, Any]) -> Content:
    """The text of a turn in a template; images of the turn stay where they are in it."""
    return template.format(**fields) if isinstance(prompt, str) else _around(prompt, template, fields)


def _around(parts: Sequence[dict[str, Any]], template: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a turn, images among them, with the texts of a template around them."""
    content: list[dict[str, Any]] = []
    for literal, field, _, _ in Formatter().parse(template):
        content += [{"type": "text", "text": literal}] if literal else []
        if field is not None:
            content += parts if field == "prompt" else [{"type": "text", "text": str(fields[field])}]
    return content
